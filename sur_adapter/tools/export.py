"""The kept pairs as SURD publishes them, which is a Hugging Face image folder too.

`metadata.jsonl` beside the pictures: {"file_name", with its extension, "text": the plain sentence, "prompt": the keyword prompt}.
One folder a split: `load_dataset("imagefolder", data_dir=…)` finds train, validation and test.
"""

import json
from pathlib import Path

import pandas as pd

from sur_adapter.io.shards import read_tar


def export(pairs: pd.DataFrame, raw: Path, folder: Path) -> int:
    """How many pairs were written, in the order of the pairs. pairs: id, source, simple_prompt, complex_prompt, dropped, split.

    Raises ValueError where `folder` holds something already, or where a kept picture is in no tar of `raw`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder, so that nothing of yours is written over")
    kept = pairs[pairs.dropped.isna()]
    names = {}
    for source in kept.source.unique():
        split = dict(kept.loc[kept.source == source, ["id", "split"]].itertuples(index=False))
        for key, ext, data in read_tar(raw / source):
            if key in split and key not in names:
                names[key] = f"{key}.{ext}"
                (folder / split[key]).mkdir(parents=True, exist_ok=True)
                (folder / split[key] / names[key]).write_bytes(data)
    if missing := set(kept.id) - set(names):
        raise ValueError(f"the picture {min(missing)} of {len(missing)} is in no tar under {raw}: run `dvc repro`, then export again")
    for split, rows in kept.groupby("split"):
        lines = [
            json.dumps({"file_name": names[r.id], "text": r.simple_prompt, "prompt": r.complex_prompt}, ensure_ascii=False)
            for r in rows.itertuples()
        ]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return len(kept)
