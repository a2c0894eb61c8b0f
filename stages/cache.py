"""cache: what the frozen models see, computed once. The lane is the name of the folder it writes."""

from pathlib import Path

from sur_adapter.records import read_table, read_tar
from sur_adapter.schema import plugin, settings


class Pictures(dict):
    """id -> bytes, of the kept pairs alone."""

    def __init__(self, raw: Path, ids: set[str]):
        folders = sorted(p for p in raw.iterdir() if p.is_dir())
        super().__init__((key, data) for folder in folders for key, _, data in read_tar(folder) if key in ids)


def cache(pairs: Path, raw: Path, out: Path, *, cache: dict, models: dict) -> None:
    lane = out.name
    features = plugin("sur_adapter.features", lane)
    values = settings(features.write, cache.get(lane), f"cache.{lane}")
    rows = read_table(pairs)
    kept = rows[rows["dropped"].isna()]
    if kept.empty:
        raise ValueError(f"{pairs} holds no kept pair: loosen the thresholds of params.yaml: filter")
    pictures = Pictures(raw, set(kept["id"])) if lane in ("vae", "queries") else {}
    features.write(kept, pictures, out, models, **values)
