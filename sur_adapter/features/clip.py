"""What the text encoder makes of both prompts: `{split}-000000.parquet`, id, simple [L, d], complex [L, d], fp16."""

from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from sur_adapter.adapter import fingerprint
from sur_adapter.compute import device
from sur_adapter.diffusion import encode, part
from sur_adapter.records import chunks, shards, write_vectors
from sur_adapter.wording import words


def write(pairs: pd.DataFrame, pictures, out: Path, models: dict, *, batch: int = 64) -> None:
    tokenizer, text_encoder = (
        part(models["diffusion"], CLIPTokenizer, "tokenizer"),
        part(models["diffusion"], CLIPTextModel, "text_encoder").to(device()).eval(),
    )
    about = {"base_model": models["diffusion"], "text_encoder": fingerprint(text_encoder)}
    for name, rows in tqdm(list(shards(pairs)), desc="cache clip", disable=None):
        vectors = {}
        read = {"simple": rows["simple_prompt"].tolist(), "complex": [words(row) for row in rows.to_dict("records")]}
        for column, prompts in read.items():
            parts = [encode(tokenizer, text_encoder, p).half().cpu() for p in chunks(prompts, batch)]
            vectors[column] = torch.cat(parts).numpy()  # (N, L, d)
        write_vectors(out / f"{name}.parquet", rows["id"].tolist(), vectors, about)
