"""caption: a plain sentence for every picture the crawl kept: its source's own where there is one, else the captioner's.

A run that was killed goes on at the batch where it was: what is said lies in the work cache until all is done.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from sur_adapter.captioner import Captioner
from sur_adapter.pictures import Look, kept
from sur_adapter.provenance import revision
from sur_adapter.records import CAPTIONS, write_table
from sur_adapter.schema import settings
from sur_adapter.work import Work, digest, stamp


def caption(raw: Path, out: Path, *, caption: dict) -> None:
    write(raw, out, **settings(write, caption, "caption"))


def write(
    raw: Path,
    out: Path,
    *,
    model: str,
    top_p: float | None = None,
    seed: int = 0,
    batch: int = 32,
    candidates: int = 1,
    judge: str | None = None,
    own: bool = True,
) -> None:
    """A table for each shard of `raw`, its rows in their order. own: whether a sentence that the source has is taken as it is.

    The other settings are those of captioner.Captioner, which is loaded where a picture has no sentence yet.
    """
    how = {"model": model, "top_p": top_p, "seed": seed, "candidates": candidates, "judge": judge}
    about = how | {"batch": batch, "own": own, "files": stamp(model, judge), "raw": digest(raw, "prompts-*.parquet")}
    with Work("caption", **about, code=revision(__file__)) as work:
        captioner = cache(lambda: Captioner(**how))
        for number, rows, look in kept(raw):
            if work.done(name := f"captions-{number}.parquet") is None:
                told = (rows.simple_prompt if own else rows.simple_prompt.map(lambda _: None)).fillna("").str.strip()
                silent = (told == "").to_numpy()
                told[silent] = _sentences(work, number, captioner, rows.id.to_numpy(), silent, look, batch)
                write_table(work.folder / name, pd.DataFrame({"id": rows.id, "simple_prompt": told}), CAPTIONS)
                work.drop([f.name for f in work.folder.glob(f"{number}-*")])
        for old in out.glob("captions-*.parquet"):
            old.unlink()
        work.deliver(out, "captions-*.parquet")


def _sentences(
    work: Work, number: str, captioner: Callable[[], Captioner], ids: np.ndarray, silent: np.ndarray, look: Look, batch: int
) -> list[str]:
    """For the silent rows of a shard; the batches that an earlier run finished are not asked for again."""
    said, count = [], int(silent.sum())
    while len(said) < count and (some := work.done(f"{number}-{len(said):06d}")) is not None:
        said += json.loads(some)
    if len(said) == count:
        return said
    left = silent & (silent.cumsum() > len(said))
    with tqdm(initial=len(said), total=count, desc=f"caption {number}", unit="picture", disable=None) as bar:
        for some in captioner().captions(look(left), list(ids[left]), batch):
            work.keep(f"{number}-{len(said):06d}", json.dumps(some).encode())
            said += some
            bar.update(len(some))
    return said
