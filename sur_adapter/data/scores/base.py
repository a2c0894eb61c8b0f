"""The contract of a score, and the worker that runs scores on the shards of raw folders.

To add a score, write `<name>.py` in this folder with a frozen dataclass `Config` (its keys in params.yaml, empty if it has none) and a
function `score` as below. A score measures; only `filter` decides, by `filter.<score>`, the lowest value that is kept.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from sur_adapter.executors.base import ShardResult
from sur_adapter.io.prefetch import prefetch
from sur_adapter.io.raw_shards import captions_file, read_shard
from sur_adapter.io.schema import caption_id, image_ids
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.registry import load

BATCH_SIZE = 100  # rows of a call of a score whose `Config` has no `batch_size`


class Score(Protocol):
    """A module of this package."""

    Config: type  # a frozen dataclass

    def score(self, images: Iterable[Image.Image], rows: list[dict], config: Any) -> list | dict[str, list]:
        """Scores a batch of rows of one shard: `config.batch_size` of them, or `BATCH_SIZE`; the last batch may be smaller.

        images: N images (RGB), in the order of the rows; they are decoded on iteration, so a score that needs none costs no decoding. All
        scores get the same images: do not change them. rows: N dicts of the columns of `RAW_SCHEMA`; `captions`, the list of the image's
        captions, takes the place of `simple_prompt`. None where there is no value. config: a `Config`.

        Returns N numbers or texts, None where there is nothing to measure. A score of captions returns N lists instead, with a value for
        each caption of the row. A score of several measures has a key `measures`, their names, and returns a dict of such lists, one for
        each: they become the scores `<name>_<measure>`. Raises ValueError or FileNotFoundError, with the key of params.yaml, if the
        configuration cannot be used.
        """
        ...


def scores_file(source: str, number: str) -> str:
    """Returns the name in the work cache of the table with the scores of one shard."""
    return f"{source}-{number}.parquet"


class ScoreWorker:
    """Scores one shard with several plug-ins, which share one decoding of each image.

    scores: (name, `Config`, its work cache) of each plug-in. A task is (source, number, names of the scores that the shard lacks). The
    table of id and measures of each is kept in its work cache; values of captions are lists there.
    """

    def __init__(self, raw: Path, captions: Path, scores: tuple[tuple[str, Any, WorkCache], ...]):
        self.raw, self.captions, self.scores = raw, captions, scores

    def __call__(self, task: tuple[str, str, tuple[str, ...]]) -> list[ShardResult]:
        source, number, names = task
        rows, read_images = read_shard(self.raw / source, number)
        rows = _with_captions(rows, self.captions / source / captions_file(number))
        configs = {name: config for name, config, _ in self.scores if name in names}
        values = _measure(configs, rows.to_dict("records"), read_images(), f"score {source} {number}")
        results = []
        for name, _, work in self.scores:
            if name in names:
                with work.open(scores_file(source, number)) as part:
                    write_table(part, pd.DataFrame({"id": rows.id} | values[name]))
                results.append(ShardResult.of(work.folder / scores_file(source, number), len(rows)))
        return results


class SharedImages:
    """The images of a shard: each is decoded once, when a batch first needs it, and held until all scores have passed it."""

    def __init__(self, images: Iterator[Image.Image]):
        self.decoded, self.held, self.first = enumerate(images), {}, 0

    def batch(self, start: int, stop: int) -> Iterator[Image.Image]:
        """Yields the images from `start` to `stop` - 1."""
        for wanted in range(start, stop):
            while wanted not in self.held:
                number, image = next(self.decoded)
                if number >= self.first:
                    self.held[number] = image
            yield self.held[wanted]

    def release(self, first: int) -> None:
        """Drops the images before `first`, which no later batch needs."""
        self.held, self.first = {number: image for number, image in self.held.items() if number >= first}, first


def _measure(configs: dict[str, Any], rows: list[dict], images: Iterator[Image.Image], title: str) -> dict[str, dict[str, list]]:
    """Returns score -> measure -> a value of each row; the only measure of a score without measures is "".

    Batches are computed in the order of their first rows, so only the images of about one batch are held, and the next ones are decoded
    meanwhile.
    """
    sizes = {name: getattr(config, "batch_size", BATCH_SIZE) for name, config in configs.items()}
    values = {name: {measure: [] for measure in getattr(config, "measures", ("",))} for name, config in configs.items()}
    batches = sorted((start, start + size, name) for name, size in sizes.items() for start in range(0, len(rows), size))
    with closing(prefetch(images, max(sizes.values()))) as decoded, tqdm(desc=title, total=len(rows), unit="image") as bar:
        shared = SharedImages(decoded)
        for start, stop, name in batches:
            bar.update(start - bar.n)
            shared.release(start)
            stop = min(stop, len(rows))
            scored = load("sur_adapter.data.scores", name).score(shared.batch(start, stop), rows[start:stop], configs[name])
            for measure, column in (scored if isinstance(scored, dict) else {"": scored}).items():
                values[name][measure] += column
        bar.update(len(rows) - bar.n)
    return values


def write_scores(work: WorkCache, sources: list[str], out: Path) -> None:
    """Joins the shards of each source into `out`/<source>.parquet, or `out`/<measure>/<source>.parquet for a score of several measures."""
    for source in sources:
        table = pd.concat([read_table(file) for file in sorted(work.folder.glob(scores_file(source, "[0-9]*")))])
        for measure in table.columns[1:]:
            values = _per_caption(table[["id", measure]].set_axis(["id", "value"], axis=1))
            write_table(out / measure / f"{source}.parquet", values, _schema(values.value))


def _per_caption(table: pd.DataFrame) -> pd.DataFrame:
    """Gives each caption a row, if the values are lists of the images' captions; else returns the table."""
    if not table.value.map(lambda value: isinstance(value, list | np.ndarray)).any():
        return table
    rows = [(caption_id(image, k), value) for image, values in table.itertuples(index=False) for k, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["id", "value"])


def _schema(values: pd.Series) -> pa.Schema:
    is_text = values.map(lambda value: isinstance(value, str)).any()
    return pa.schema([("id", pa.string()), ("value", pa.string() if is_text else pa.float64())])


def _with_captions(rows: pd.DataFrame, captions: Path) -> pd.DataFrame:
    """Puts the captions of each row into `captions`, [None] for an image without one; missing values become None."""
    table = read_table(captions)
    by_image = table.simple_prompt.groupby(image_ids(table.id), sort=False).agg(list)
    rows = rows.drop(columns="simple_prompt").astype(object).where(rows.notna(), None)
    return rows.assign(captions=[by_image.get(image, [None]) for image in rows.id])
