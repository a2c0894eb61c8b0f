"""What the LLM makes of the simple prompt: `{split}-000000.parquet`, id, layer_<k> [d_llm], fp16; all layers in one pass."""

from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from sur_adapter.compute import device
from sur_adapter.records import chunks, shards, write_vectors
from sur_adapter.teacher import Teacher


def write(pairs: pd.DataFrame, pictures, out: Path, models: dict, *, layers: list[int], pooling: str = "last", batch: int = 32) -> None:
    teacher = Teacher(models["llm"], layers, pooling, device())
    for name, rows in tqdm(list(shards(pairs)), desc="cache llm", disable=None):
        parts = [teacher(prompts) for prompts in chunks(rows["simple_prompt"].tolist(), batch)]
        vectors = {f"layer_{k}": torch.cat([p[k].half().cpu() for p in parts]).numpy() for k in layers}
        write_vectors(out / f"{name}.parquet", rows["id"].tolist(), vectors, {"llm": models["llm"], "pooling": pooling})
