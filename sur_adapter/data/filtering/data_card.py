"""Writes the data card in Markdown: sources and licences of the pairs, dropped rows by reason, prompt lengths, NSFW levels.

Texts from sources are escaped, since a name or a licence may hold markup.
"""

from html import escape

import pandas as pd

POLICY = {
    True: "Allowed levels: {levels}. Rows without a level are kept too.",
    False: "No level is allowed. Rows without a level are kept.",
}


def data_card(rows: pd.DataFrame, counts: dict, levels: list[str]) -> str:
    """Returns the data card as Markdown.

    rows: id, source, licence, nsfw_level, simple_prompt, complex_prompt and dropped of every row; too_long if that was scored. counts: as
    in funnel.json. levels: the allowed NSFW levels.
    """
    kept, further_captions = rows.dropped.isna(), int(rows.id.str.contains("-", regex=False).sum())
    of_images = f" of {len(rows) - further_captions:,} images" if further_captions else ""
    sections = [
        "# Data card",
        f"{counts['in']:,} rows{of_images} in, {counts['kept']:,} pairs kept: "
        + ", ".join(f"{n:,} {split}" for split, n in counts["by_split"].items())
        + ".",
        "## Sources and licences",
        _table(["source", "licence", "rows", "kept"], _sources(rows)),
        "## Dropped rows by reason",
        _table(["reason", "rows"], [[_plain(reason), f"{n:,}"] for reason, n in counts["dropped"].items()]),
        "## Length of the prompts of kept pairs, in words",
        _table(
            ["prompt", "minimum", "median", "95th percentile", "maximum"],
            [_lengths(rows[c][kept]) for c in ("simple_prompt", "complex_prompt")],
        ),
        *([_truncated(rows["too_long"][kept])] if "too_long" in rows else []),
        "## NSFW",
        POLICY[bool(levels)].format(levels=", ".join(f'"{_plain(level)}"' for level in levels)),
        _table(["level", "rows", "kept"], _levels(rows)),
    ]
    return "\n\n".join(sections) + "\n"


def _truncated(excess: pd.Series) -> str:
    """Counts the prompts that the text encoder truncates. excess: the tokens of each beyond its length."""
    return (
        f"{(excess > 0).sum():,} of {len(excess):,} keyword prompts exceed the text encoder's length and are truncated; the column "
        "too_long is their number of excess tokens."
    )


def _plain(text: str | None) -> str:
    """Puts a text from a source on one line and escapes its markup."""
    return "not specified" if text is None or pd.isna(text) else escape(" ".join(str(text).split())).replace("|", "\\|")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sources(rows: pd.DataFrame) -> list[list[str]]:
    counts = rows.groupby(["source", "licence"], dropna=False).dropped.agg(["size", "count"])
    return [[_plain(source), _plain(licence), f"{n:,}", f"{n - dropped:,}"] for (source, licence), n, dropped in counts.itertuples()]


def _levels(rows: pd.DataFrame) -> list[list[str]]:
    counts = rows.groupby("nsfw_level", dropna=False).dropped.agg(["size", "count"])
    return [[_plain(level), f"{n:,}", f"{n - dropped:,}"] for level, n, dropped in counts.itertuples()]


def _lengths(prompts: pd.Series) -> list[str]:
    lengths = pd.Series([len(text.split()) for text in prompts.dropna()])  # not .str.split(): it holds the lists of all prompts in memory
    if lengths.empty:
        return [prompts.name, "–", "–", "–", "–"]
    return [prompts.name, *(f"{lengths.quantile(q, interpolation='nearest'):.0f}" for q in (0, 0.5, 0.95, 1))]
