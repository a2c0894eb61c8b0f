"""Collects the sentences of all sources in one table, with a reason for each that is dropped, and assigns splits."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from sur_adapter.config import from_dict
from sur_adapter.data.sentence_selection.held_out import read_held_out
from sur_adapter.data.sentence_selection.word_edits import min_word_edits, normalise
from sur_adapter.data.sentences import captions
from sur_adapter.io.hashing import short_digest
from sur_adapter.io.schema import assign_split
from sur_adapter.registry import load

SOURCES = "sur_adapter.data.sentences"
SENTENCES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the normalised sentence; a duplicate has its original's
        ("sentence", pa.string()),  # without spaces around it
        ("kind", pa.string()),
        ("source", pa.string()),
        ("expected", pa.string()),  # only for measuring the language model
        ("answer", pa.string()),  # ready; null: the language model is asked
        ("mean_logprob", pa.float64()),  # of a ready answer; null if unknown
        ("min_logprob", pa.float64()),
        ("split", pa.string()),  # train or validation
        ("keep", pa.bool_()),
        ("reason", pa.string()),  # null if kept, else empty, duplicate or near_held_out
    ]
)


@dataclass(frozen=True)
class SentencesConfig:
    """Section `sentences` of params.yaml.

    sources: name -> settings, each a module of data/sentences; {} gives an empty table. held_out: files and folders of evaluation prompts;
    a sentence nearer than `min_edits` word edits to one of them is dropped. validation: share of this split.
    """

    sources: dict[str, Any] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    min_edits: int = 4
    validation: float = 0.03

    def __post_init__(self):
        if self.min_edits < 0:
            raise ValueError(f"min_edits is {self.min_edits}: give a whole number, 0 or more")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is {self.validation}: give a share from 0 to less than 1")


def collect(config: SentencesConfig, pairs: Path) -> pd.DataFrame:
    """Reads all sources in their order: a table with the columns of SENTENCES_SCHEMA before `split`. pairs: the filter's table."""
    rows = []
    for name, settings in config.sources.items():
        source = load(SOURCES, name)
        for row in source.rows(from_dict(source.Config, settings, f"sentences.sources.{name}"), pairs):
            rows.append({"kind": "", "source": name} | row | {"sentence": row["sentence"].strip()})
    table = pd.DataFrame(rows, columns=[name for name in SENTENCES_SCHEMA.names if name not in ("split", "keep", "reason")])
    table["id"] = [short_digest(normalise(sentence)) for sentence in table.sentence]
    return table


def select(table: pd.DataFrame, held_out: list[str], config: SentencesConfig) -> pd.DataFrame:
    """Adds split, keep and reason to a table of `collect`. The first reason that holds is given: empty, duplicate, near_held_out.

    The split depends on the normalised sentence alone. held_out: evaluation prompts.
    """
    normalised = table.sentence.map(normalise)
    reason = pd.Series(None, table.index, object)
    reason[normalised == ""] = "empty"
    reason[reason.isna() & normalised.duplicated()] = "duplicate"
    kept = reason.index[reason.isna()]
    if config.min_edits and len(kept):
        edits = min_word_edits(normalised[kept].tolist(), list(map(normalise, held_out)), config.min_edits - 1)
        reason[kept[edits < config.min_edits]] = "near_held_out"
    split = [assign_split(key, 0, config.validation) for key in table.id]
    return table.assign(split=split, keep=reason.isna(), reason=reason)[SENTENCES_SCHEMA.names]


def captions_near_held_out(config: SentencesConfig, pairs: Path) -> dict:
    """Counts the captions that are trained on, and for each held-out path those nearer than `min_edits` to one of its prompts.

    Captions are not dropped: they describe images. pairs: the filter's table.
    """
    texts = sorted({normalise(row["sentence"]) for row in captions.rows(captions.Config(), pairs)})
    prompts = {path: list(map(normalise, read_held_out((path,)))) for path in config.held_out}
    near = {path: min_word_edits(texts, of, config.min_edits - 1) < config.min_edits for path, of in prompts.items()} if texts else {}
    return {"distinct": len(texts), "near_held_out": {path: int(rows.sum()) for path, rows in near.items()}}


def count_sentences(table: pd.DataFrame, held_out: int) -> dict:
    """Counts rows in, kept and dropped by reason, in all, by source and by kind; kept rows by split and with a ready answer.

    held_out: number of the evaluation prompts.
    """
    kept = table[table.keep]
    counts = _count(table) | {
        "by_source": {source: _count(rows) for source, rows in table.groupby("source", sort=True)},
        "by_kind": {kind: _count(rows) for kind, rows in table.groupby("kind", sort=True)},
        "by_split": {split: int((kept["split"] == split).sum()) for split in ("train", "validation")},
        "with_answer": int(kept.answer.notna().sum()),
        "held_out_prompts": held_out,
    }
    assert counts["in"] == counts["kept"] + sum(counts["dropped"].values())
    return counts


def _count(rows: pd.DataFrame) -> dict:
    return {"in": len(rows), "kept": int(rows.keep.sum()), "dropped": dict(sorted(Counter(rows.reason.dropna()).items()))}
