"""Features of sentences without images: the language model answers each with a keyword prompt, and CLIP encodes both.

`{split}-000000.parquet` holds id; simple and complex, of the sentence and of the keyword prompt made of the answer, as clip.py stores those
of a pair; if a loss reads them, layer_<k> or layernorm_mean, the language model's states of the answer's tokens while it answers, pooled as
`cache.llm.pooling` says; mean_logprob and min_logprob, fp32, NaN for a ready answer that came without. `answers.parquet` holds the
answers, and those that were dropped with their reason.

A worker's file of a shard, with the suffix .new, holds all its sentences and their answers as code points; those without a reason go on
into the shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.features.columns import Column, RaggedColumn, RepeatedColumn
from sur_adapter.features.extractors import clip
from sur_adapter.features.extractors.llm import FIX_HINT
from sur_adapter.features.extractors.llm import Config as LLMFeatures
from sur_adapter.features.store import ANSWERS_FILE, FeatureShard, write_features
from sur_adapter.features.writer import extract_shards, is_finished, to_storage_dtype, weights_hash
from sur_adapter.io.hashing import file_digest, short_digest
from sur_adapter.io.schema import split_shards
from sur_adapter.io.shards import write_table
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.rewriter import Answer, Rewriter, RewriterConfig
from sur_adapter.models.torch_utils import resolve_device

NEEDS_IMAGES = False
TABLE = "sentences"
COLUMNS = ("id", "sentence", "kind", "split", "answer", "mean_logprob", "min_logprob")  # that are read
TEXTS = ("answer", "reason")  # columns of code points in a worker's file
ANSWERS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("sentence", pa.string()),
        ("kind", pa.string()),
        ("split", pa.string()),
        ("answer", pa.string()),  # of a dropped one as far as it went
        ("mean_logprob", pa.float32()),
        ("min_logprob", pa.float32()),
        ("reason", pa.string()),  # null, unparsable or too_long
    ]
)


@dataclass(frozen=True, kw_only=True)
class Config(RewriterConfig):
    """Section `cache.sentences` of params.yaml, that of the rewriter. llm: section `cache.llm`, which the stage adds; without layers if no
    loss reads the states of the answers."""

    llm: LLMFeatures | None = None

    @property
    def stores_states(self) -> bool:
        return bool(self.llm and self.llm.layers)


def extract(rows: pd.DataFrame, images: None, out: Path, config: Config, models: ModelsConfig, executor: ExecutorConfig) -> None:
    """Writes the features and answers of all kept sentences; see base.py. Without any, answers.parquet is empty and alone.

    rows: COLUMNS of the table of the stage `sentences`. Raises ValueError if a language model is needed, for answers or for their states,
    and none is named.
    """
    asks = bool(config.stores_states or rows["answer"].isna().any())
    if asks and models.llm is None and len(rows):
        raise ValueError("params.yaml: models.llm is null: name a language model, a folder or one of the hub")
    shards = list(split_shards(rows))
    files = [*clip.model_files(models.diffusion), models.llm, config.choices]
    finish = partial(_finish, shards)
    if not shards:
        with WorkCache("cache", features=TABLE, rows=0) as work:
            finish(work, {})
            _publish(work, out)
        return
    inputs = [repr(row) for row in rows[list(COLUMNS)].itertuples(index=False, name=None)]
    inputs += [file_digest(Path(config.choices))] if config.choices and Path(config.choices).is_file() else []
    make_extractor = partial(SentenceExtractor, models, config, asks)
    parts = [(f"{name}.new", shard) for name, shard in shards]
    extract_shards(out, rows, make_extractor, lambda ids: files, config, __file__, executor, parts, finish, short_digest(*inputs))


def _publish(work: WorkCache, out: Path) -> None:
    for old in out.glob("*.parquet"):
        old.unlink()
    work.publish(out, "*.parquet")


class SentenceExtractor:
    """Answers sentences and encodes them. asks: whether the language model is needed, for answers or for states."""

    def __init__(self, models: ModelsConfig, config: Config, asks: bool):
        self.clip, self.config = clip.TextEncoderExtractor(models.diffusion, clip.Config(config.batch_size)), config
        self.about, self.rewriter = dict(self.clip.about), None
        if asks:
            self.rewriter = Rewriter(config, models.llm, resolve_device(), config.llm)
            self.about |= {"llm": models.llm, "llm_weights": weights_hash(self.rewriter.model)}
            self.about |= {"pooling": config.llm.pooling} if config.stores_states else {}
            self.about["precision"] = str(self.rewriter.dtype).removeprefix("torch.")

    def __call__(self, rows: pd.DataFrame) -> dict[str, Column | list[np.ndarray]]:
        """Computes the columns of a worker's file; a sentence that is dropped has states of 0, and no tokens with pooling `tokens`."""
        answers = self._answers(rows)
        distinct = list(dict.fromkeys(answer.answer for answer in answers))  # choices occur often
        number = {text: k for k, text in enumerate(distinct)}
        positions = [number[answer.answer] for answer in answers]
        keyword_prompts = [self.config.make_keyword_prompt(text) for text in distinct]
        columns: dict[str, Column | list[np.ndarray]] = dict(self.clip.encode("simple", rows["sentence"].tolist()))
        columns |= clip.repeated(self.clip.encode("complex", keyword_prompts), np.array(positions))
        columns |= self._states(answers)
        for name in ("mean_logprob", "min_logprob"):
            columns[name] = np.array([getattr(answer, name) for answer in answers], np.float32)
        for name in TEXTS:
            columns[name] = [np.frombuffer((getattr(answer, name) or "").encode("utf-32-le"), np.int32) for answer in answers]
        return columns

    def _answers(self, rows: pd.DataFrame) -> list[Answer]:
        """Asks the language model, or takes the ready answers with their log-probabilities."""
        sentences, given = rows["sentence"].tolist(), [text if isinstance(text, str) else None for text in rows["answer"]]
        logprobs = rows[["mean_logprob", "min_logprob"]].astype(float).to_numpy()
        ready = [text and Answer(text, *numbers, None) for text, numbers in zip(given, logprobs.tolist(), strict=True)]
        if self.rewriter is None:
            return ready
        asked = [row for row, text in enumerate(given) if text is None or self.config.stores_states]
        answers = list(ready)
        for row, answer in zip(asked, self.rewriter.rewrite([sentences[r] for r in asked], [given[r] for r in asked]), strict=True):
            answers[row] = answer if ready[row] is None else replace(ready[row], reason=answer.reason, states=answer.states)
        return answers

    def _states(self, answers: list[Answer]) -> dict[str, np.ndarray | list[np.ndarray]]:
        if not self.rewriter:
            return {}
        width = self.rewriter.model.config.get_text_config().hidden_size
        columns = {}
        for name in self.rewriter.columns:
            empty = torch.zeros((0, width) if self.rewriter.pooling == "tokens" else width)
            states = [answer.states.get(name, empty) for answer in answers]
            values = [to_storage_dtype(state, self.config.llm.storage_dtype, FIX_HINT) for state in states]
            columns[name] = values if self.rewriter.pooling == "tokens" else np.stack(values)
        return columns


def _finish(shards: list[tuple[str, pd.DataFrame]], work: WorkCache, about: dict) -> None:
    """Writes the shards, each of the answered sentences of a worker's file, and the table of answers."""
    answers = [_read_answers(FeatureShard.open(work.folder / f"{name}.new"), rows) for name, rows in shards]
    num_shards = sum(bool(table["reason"].isna().any()) for table in answers)
    for (name, _), table in zip(shards, answers, strict=True):
        kept = np.flatnonzero(table["reason"].isna())
        if len(kept) and not is_finished(work.folder / f"{name}.parquet"):
            columns = dict(_select_rows(FeatureShard.open(work.folder / f"{name}.new"), kept))
            with work.open(f"{name}.parquet") as part:
                write_features(part, table["id"].iloc[kept].tolist(), columns, about, num_shards)
    empty = pd.DataFrame(columns=ANSWERS_SCHEMA.names)
    with work.open(ANSWERS_FILE) as part:
        write_table(part, pd.concat(answers) if answers else empty, ANSWERS_SCHEMA)


def _read_answers(shard: FeatureShard, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a worker's file as they are in the table of answers."""
    texts = {name: [shard.columns[name][i].tobytes().decode("utf-32-le") for i in range(len(rows))] for name in TEXTS}
    table = rows[["id", "sentence", "kind", "split"]].assign(answer=texts["answer"])
    for name in ("mean_logprob", "min_logprob"):
        table[name] = shard.columns[name]
    return table.assign(reason=pd.Series([text or None for text in texts["reason"]], table.index, object))


def _select_rows(shard: FeatureShard, kept: np.ndarray) -> Iterator[tuple[str, Column | list[np.ndarray]]]:
    for name, column in shard.columns.items():
        if name in TEXTS:
            continue
        if isinstance(column, RaggedColumn):
            yield name, [column[i] for i in kept]
        else:
            yield name, column.select(kept) if isinstance(column, RepeatedColumn) else column[kept]
