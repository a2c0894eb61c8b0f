"""A small copy of DiffusionDB in its real layout."""

import zipfile
from pathlib import Path

import pandas as pd

from helpers.made_images import png


def table(count: int = 12) -> pd.DataFrame:
    """Rows of parts 1, 2 and 3 in turn, in no order of parts."""
    i = range(count)
    return pd.DataFrame(
        {
            "image_name": [f"{k:08x}.png" for k in i],
            "prompt": [f"a (cat:1.2) no {k}" for k in i],
            "part_id": [3 - k % 3 for k in i],
            "seed": list(i),
            "step": [50] * count,
            "cfg": [7.0 + k for k in i],
            "sampler": [8] * count,
            "width": [512 if k % 2 else 768 for k in i],
            "height": [512] * count,
            "user_name": ["x"] * count,
            "image_nsfw": [0.1] * count,
            "prompt_nsfw": [0.01] * count,
        }
    ).astype(
        {"part_id": "uint16", "width": "uint16", "height": "uint16", "cfg": "float32", "image_nsfw": "float32", "prompt_nsfw": "float32"}
    )


def write(home: Path, rows: pd.DataFrame, name: str = "metadata.parquet", folder: str = "images") -> Path:
    """Writes the table, and a zip of each part with its JSON beside the images."""
    home.mkdir(exist_ok=True)
    rows.to_parquet(home / name, row_group_size=4)
    for part, part_rows in rows.groupby("part_id"):
        (home / folder).mkdir(exist_ok=True)
        with zipfile.ZipFile(home / folder / f"part-{part:06d}.zip", "w") as archive:
            for k, image in enumerate(part_rows.image_name):
                archive.writestr(image, png((k, int(part), 0)))
            archive.writestr(f"part-{part:06d}.json", "{}")
    return home
