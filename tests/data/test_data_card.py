"""The data card counts the words of prompts with a small peak of memory."""

import tracemalloc

import pandas as pd

from sur_adapter.data.filtering.data_card import data_card


def rows(prompts: list[str | None]) -> pd.DataFrame:
    same = {"source": "s", "licence": None, "nsfw_level": None, "simple_prompt": "a cat", "dropped": None}
    ids = [f"{i:016x}" for i in range(len(prompts))]
    return pd.DataFrame(same | {"id": ids, "complex_prompt": prompts}, index=range(len(prompts)))


def lengths(table: pd.DataFrame) -> str:
    counts = {"in": len(table), "kept": len(table), "dropped": {}, "by_split": {"train": len(table)}}
    return next(line for line in data_card(table, counts, []).splitlines() if line.startswith("| complex_prompt"))


def test_words_are_separated_by_white_space_of_any_kind():
    assert lengths(rows(["one", " two\u3000words ", "", "three of\n\nthem", None])) == "| complex_prompt | 0 | 2 | 3 | 3 |"
    assert lengths(rows([None, None])) == "| complex_prompt | – | – | – | – |"


def test_truncated_prompts_are_counted_if_too_long_was_scored():
    table = rows(["a", "b", "c", "d"]).assign(too_long=[0.0, 3.0, None, 5.0], dropped=[None, None, None, "nsfw"])
    counts = {"in": 4, "kept": 3, "dropped": {"nsfw": 1}, "by_split": {"train": 3}}
    assert "\n1 of 3 keyword prompts exceed the text encoder's length" in data_card(table, counts, [])
    assert "text encoder" not in data_card(table.drop(columns="too_long"), counts, [])


def test_the_allowed_levels_are_named_in_quotes_since_one_is_called_none():
    table = rows(["a"])
    counts = {"in": 1, "kept": 1, "dropped": {}, "by_split": {"train": 1}}
    assert '\nAllowed levels: "None", "Soft &amp; other". Rows without' in data_card(table, counts, ["None", "Soft & other"])
    assert "\nNo level is allowed. Rows without a level are kept.\n" in data_card(table, counts, [])


def test_the_card_takes_less_memory_than_the_prompts():
    """Python lists of the words of all prompts take ten times the memory of the prompts: 2 GB for a million."""
    table = rows([", ".join(f"word{i + k}" for k in range(34)) for i in range(5000)])
    tracemalloc.start()
    lengths(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < table.complex_prompt.str.len().sum()
