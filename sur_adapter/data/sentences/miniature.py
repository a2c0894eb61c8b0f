"""Sentences of the miniature's world: plain ones, and ones that imply a number, a colour or a pose."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from miniature.sentences import sentences


@dataclass(frozen=True)
class Config:
    """Section `sentences.sources.miniature` of params.yaml. count: number of sentences."""

    count: int
    seed: int = 0

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count is {self.count}: give at least 1")


def rows(config: Config, pairs: Path) -> Iterator[dict]:
    """Yields `count` sentences, each with its kind and the right keyword prompt."""
    for row in sentences(config.count, config.seed):
        yield {key: row[key] for key in ("sentence", "kind", "expected")}
