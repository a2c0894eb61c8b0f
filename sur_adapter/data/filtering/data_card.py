"""The data card: where the pairs come from, under which terms, what left and why, in Markdown.

Texts from sources are escaped: a name or a licence from elsewhere may hold markup.
"""

from html import escape

import pandas as pd

POLICY = {
    True: "Let through are the levels {levels}; a source that gives no levels is let through too.",
    False: "No level is let through; a source that gives no levels is.",
}


def card(rows: pd.DataFrame, counts: dict, levels: list[str]) -> str:
    """rows: source, licence, nsfw, simple_prompt, complex_prompt, dropped of every row, and too_long where it was measured.

    counts: as in funnel.json. levels: let through.
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
        _table(["reason", "rows"], [[_said(reason), f"{n:,}"] for reason, n in counts["dropped"].items()]),
        "## Length of the kept prompts, in words",
        _table(["prompt", "least", "median", "95 %", "most"], [_lengths(rows[c][kept]) for c in ("simple_prompt", "complex_prompt")]),
        *([_unread(rows["too_long"][kept])] if "too_long" in rows else []),
        "## NSFW",
        POLICY[bool(levels)].format(levels=", ".join(map(_said, levels))),
        _table(["level", "rows", "kept"], _levels(rows)),
    ]
    return "\n\n".join(sections) + "\n"


def _unread(beyond: pd.Series) -> str:
    """Of prompts that no text encoder reads to their end; beyond: the tokens that are not read of each."""
    return (
        f"{(beyond > 0).sum():,} of {len(beyond):,} keyword prompts are longer than the text encoder reads: column too_long says by what."
    )


def _said(text: str | None) -> str:
    return "not known" if text is None or pd.isna(text) else escape(" ".join(str(text).split())).replace("|", "\\|")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sources(rows: pd.DataFrame) -> list[list[str]]:
    found = rows.groupby(["source", "licence"], dropna=False).dropped.agg(["size", "count"])
    return [[_said(source), _said(licence), f"{n:,}", f"{n - left:,}"] for (source, licence), n, left in found.itertuples()]


def _levels(rows: pd.DataFrame) -> list[list[str]]:
    found = rows.groupby("nsfw", dropna=False).dropped.agg(["size", "count"])
    return [[_said(level), f"{n:,}", f"{n - left:,}"] for level, n, left in found.itertuples()]


def _lengths(prompts: pd.Series) -> list[str]:
    words = pd.Series([len(text.split()) for text in prompts.dropna()])  # not .str.split(): its lists of words fill memory
    if words.empty:
        return [prompts.name, "–", "–", "–", "–"]
    return [prompts.name, *(f"{words.quantile(q, interpolation='nearest'):.0f}" for q in (0, 0.5, 0.95, 1))]
