"""caption: a plain sentence for every picture the crawl kept."""

from pathlib import Path

from tqdm import tqdm

from sur_adapter.captioner import Captioner
from sur_adapter.pictures import kept
from sur_adapter.records import CAPTIONS, write_table
from sur_adapter.schema import settings


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
) -> None:
    """A table for each shard of `raw`, its rows in their order. Settings: as of captioner.Captioner."""
    captioner = Captioner(model, top_p=top_p, seed=seed, candidates=candidates, judge=judge)
    for old in out.glob("captions-*.parquet"):
        old.unlink()
    for number, rows, images in kept(raw):
        sentences = []
        with tqdm(total=len(rows), desc=f"caption {raw.name} {number}", unit="picture", disable=None) as bar:
            for some in captioner.captions(images, list(rows.id), batch):
                sentences += some
                bar.update(len(some))
        table = [{"id": i, "simple_prompt": s} for i, s in zip(rows.id, sentences, strict=True)]
        write_table(out / f"captions-{number}.parquet", table, CAPTIONS)
