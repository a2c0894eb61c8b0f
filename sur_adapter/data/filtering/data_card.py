"""Writes the data card in Markdown: sources and licences of the pairs, dropped rows by reason, prompt lengths, NSFW levels.

Texts from sources are escaped, since a name or a licence may hold markup.
"""

from html import escape

import pandas as pd

POLICY = {
    True: "Let through are the levels {levels}; a source that gives no levels is let through too.",
    False: "No level is let through; a source that gives no levels is.",
}


def data_card(rows: pd.DataFrame, counts: dict, levels: list[str]) -> str:
    """Returns the card.

    rows: source, licence, nsfw_level, simple_prompt, complex_prompt and dropped of every row; too_long if that was scored. counts: as in
    funnel.json. levels: the allowed NSFW levels.
    """
    kept = rows.dropped.isna()
    sections = [
        "# The data",
        f"{counts['in']:,} rows came in, {counts['kept']:,} pairs are kept: "
        + ", ".join(f"{n:,} {split}" for split, n in counts["by_split"].items())
        + ".",
        "## Sources and licences",
        _table(["source", "licence", "rows", "kept"], _sources(rows)),
        "## What left, and why",
        _table(["reason", "rows"], [[_plain(reason), f"{n:,}"] for reason, n in counts["dropped"].items()]),
        "## Length of the kept prompts, in words",
        _table(["prompt", "least", "median", "95 %", "most"], [_lengths(rows[c][kept]) for c in ("simple_prompt", "complex_prompt")]),
        *([_truncated(rows["too_long"][kept])] if "too_long" in rows else []),
        "## NSFW",
        POLICY[bool(levels)].format(levels=", ".join(map(_plain, levels))),
        _table(["level", "rows", "kept"], _levels(rows)),
    ]
    return "\n\n".join(sections) + "\n"


def _truncated(excess: pd.Series) -> str:
    """Counts the prompts that the text encoder truncates. excess: the tokens of each beyond its length."""
    return (
        f"{(excess > 0).sum():,} of {len(excess):,} keyword prompts are longer than the text encoder reads: column too_long says by what."
    )


def _plain(text: str | None) -> str:
    """A text from a source on one line, its markup escaped."""
    return "not known" if text is None or pd.isna(text) else escape(" ".join(str(text).split())).replace("|", "\\|")


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
