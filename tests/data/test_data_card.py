"""The data card counts words as they are, and holds no list of them."""

import tracemalloc

import pandas as pd

from sur_adapter.data.filtering.data_card import card


def rows(prompts: list[str | None]) -> pd.DataFrame:
    same = {"source": "s", "licence": None, "nsfw": None, "simple_prompt": "a cat", "dropped": None}
    return pd.DataFrame(same | {"complex_prompt": prompts}, index=range(len(prompts)))


def lengths(table: pd.DataFrame) -> str:
    counts = {"in": len(table), "kept": len(table), "dropped": {}, "by_split": {"train": len(table)}}
    return next(line for line in card(table, counts, []).splitlines() if line.startswith("| complex_prompt"))


def test_words_are_what_stands_between_spaces_of_any_kind():
    assert lengths(rows(["one", " two\u3000words ", "", "three of\n\nthem", None])) == "| complex_prompt | 0 | 2 | 3 | 3 |"
    assert lengths(rows([None, None])) == "| complex_prompt | – | – | – | – |"


def test_kept_prompts_that_no_text_encoder_reads_to_their_end_are_counted_where_that_was_measured():
    table = rows(["a", "b", "c", "d"]).assign(too_long=[0.0, 3.0, None, 5.0], dropped=[None, None, None, "nsfw"])
    counts = {"in": 4, "kept": 3, "dropped": {"nsfw": 1}, "by_split": {"train": 3}}
    assert "\n1 of 3 keyword prompts are longer than the text encoder reads" in card(table, counts, [])
    assert "text encoder" not in card(table.drop(columns="too_long"), counts, [])


def test_a_row_costs_the_card_less_memory_than_its_prompt_has_letters():
    """A list of the words of every prompt, as Python holds them, takes some ten times what the prompts take: 2 GB for a million."""
    table = rows([", ".join(f"word{i + k}" for k in range(34)) for i in range(5000)])
    tracemalloc.start()
    lengths(table)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < table.complex_prompt.str.len().sum()
