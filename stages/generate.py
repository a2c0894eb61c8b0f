"""generate: one arm's pictures. Arms share prompts, seeds and the very noise."""

from pathlib import Path

import pandas as pd

import sur_adapter.diffusion as diffusion
from sur_adapter.adapter import SURAdapter
from sur_adapter.arms import ARMS
from sur_adapter.compute import device
from sur_adapter.drawing import choose, draw
from sur_adapter.guest import attach
from sur_adapter.prompts import read_prompts
from sur_adapter.records import write_table, write_tar
from sur_adapter.schema import settings


def generate(prompts: Path, out: Path, adapter: Path | None = None, *, models: dict, generate: dict) -> None:
    name = out.name
    if name not in ARMS:
        raise ValueError(f"there is no arm {name!r}: name one of {', '.join(ARMS)}")
    if ARMS[name].adapted != bool(adapter):
        raise ValueError(f"the arm {name} is drawn {'with' if ARMS[name].adapted else 'without'} an adapter: see dvc.yaml")
    options = settings(draw, {k: v for k, v in generate.items() if k not in ("prompts", "per_category")}, "generate")
    rows = choose(read_prompts(prompts), generate["per_category"])
    texts = [ARMS[name].text(row) for row in rows]
    pipe = diffusion.pipeline(models["diffusion"]).to(device())
    if adapter:
        attach(pipe, SURAdapter.from_pretrained(adapter))
    write_tar(out / "images-000000.tar", draw(pipe, rows, texts, models["resolution"], **options))
    table = pd.DataFrame({"id": [r["id"] for r in rows], "category": [r["category"] for r in rows], "arm": name, "text": texts})
    write_table(out / "prompts.parquet", table)
