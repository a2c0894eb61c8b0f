"""The captions of the training pairs: the language model rewrites sentences whose images are trained on as well."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sur_adapter.io.shards import read_table


@dataclass(frozen=True)
class Config:
    """Section `sentences.sources.captions` of params.yaml. limit: the largest number of captions; null: all."""

    limit: int | None = None

    def __post_init__(self):
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}: give at least 1, or null for all")


def rows(config: Config, pairs: Path) -> Iterator[dict]:
    """Yields the captions of the kept pairs of the training split, in order of their ids."""
    table = read_table(pairs, ["id", "simple_prompt", "dropped", "split"])
    captions = table[table.dropped.isna() & (table["split"] == "train")].sort_values("id").simple_prompt
    for caption in captions[: config.limit]:
        yield {"sentence": caption, "kind": "caption"}
