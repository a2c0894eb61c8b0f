"""export: writes the kept pairs in SURD's layout, which `load_dataset("imagefolder", data_dir=...)` reads too.

One folder per split, with the images and a `metadata.jsonl`: {"file_name": with its extension, "text": the plain sentence, "prompt": the
keyword prompt} on each line. An image with several captions has a line for each.
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pandas as pd

from sur_adapter.config import Params
from sur_adapter.io.schema import image_id, image_ids
from sur_adapter.io.shards import read_table, read_tar


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument("--pairs", type=Path, default=Path("data/pairs.parquet"), help="table that the filter wrote (%(default)s)")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder of the crawled shards, one per source (%(default)s)")


def run(args: Namespace, params: Params) -> None:
    count = export(read_table(args.pairs), args.raw, args.out)
    print(f"exported {count} pairs to {args.out}")


def export(pairs: pd.DataFrame, raw: Path, folder: Path) -> int:
    """Writes the kept pairs in their order; returns how many.

    pairs: id, source, simple_prompt, complex_prompt, dropped, split. Raises ValueError if `folder` is not empty, or if the image of a kept
    pair is in no tar of `raw`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder; files are never overwritten")
    kept = pairs[pairs.dropped.isna()]
    file_names = {}
    for source in kept.source.unique():
        rows = kept[kept.source == source]
        split = dict(zip(image_ids(rows.id), rows["split"], strict=True))
        for key, ext, data in read_tar(raw / source):
            if key in split and key not in file_names:
                file_names[key] = f"{key}.{ext}"
                (folder / split[key]).mkdir(parents=True, exist_ok=True)
                (folder / split[key] / file_names[key]).write_bytes(data)
    if missing := set(image_ids(kept.id)) - set(file_names):
        raise ValueError(f"{len(missing)} images, {min(missing)} the first, are in no tar under {raw}: run `dvc repro`, then export again")
    for split, rows in kept.groupby("split"):
        lines = [
            json.dumps({"file_name": file_names[image_id(r.id)], "text": r.simple_prompt, "prompt": r.complex_prompt}, ensure_ascii=False)
            for r in rows.itertuples()
        ]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return len(kept)
