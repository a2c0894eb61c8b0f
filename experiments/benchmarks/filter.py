"""filter on many rows: wall-clock time, CPU time and peak memory.

    python -m experiments.benchmarks.filter 1000000      # writes filter.json beside this file

Rows, captions and scores are synthetic; 1 in 20 images is a copy of one of 5,000, and 1 prompt in 3 occurred before, as on the web: half of
these unchanged, half with one word changed. It is filtered twice, each time in a new process: `equal` groups prompts of equal words only,
`near` also those that share 0.8 of their words.
"""

import json
import resource
import sys
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from stages.filter import run
from sur_adapter.config import Params
from sur_adapter.io.schema import CAPTIONS_SCHEMA, RAW_SCHEMA
from sur_adapter.io.shards import read_table, write_table

SCORES = {"clip": {"measures": ["simple", "complex"]}, "phash": {}}
RULES = {"min_side": 256, "clip_simple": 0.2, "clip_complex": 0.2, "duplicate_bits": 6, "validation": 0.01, "test": 0.01}
OVERLAPS = {"equal": None, "near": 0.8}
PART = 50_000  # rows generated at a time
COPIED = 5_000  # images that are copied


def main(count: int) -> None:
    with TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as executor:
        make(Path(folder), count)
        figures = {"rows": count} | {name: executor.submit(measure, Path(folder), overlap).result() for name, overlap in OVERLAPS.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def measure(home: Path, overlap: float | None) -> dict:
    pairs, funnel = home / "pairs.parquet", home / "funnel.json"
    ins = {name: home / name for name in ("raw", "captions", "scores")}
    outs = {"pairs": pairs, "funnel": funnel, "funnel_csv": home / "funnel.csv", "data_card": home / "data.md"}
    params = Params({"filter": RULES | {"prompt_overlap": overlap}, "sources": {"web": {}}, "scores": SCORES})
    started, busy = time.monotonic(), time.process_time()
    run(Namespace(**ins, **outs, splits=None), params)
    seconds, busy, peak = time.monotonic() - started, time.process_time() - busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = json.loads(funnel.read_text())
    return {
        "kept": counts["kept"],
        "dropped": counts["dropped"],
        "groups": read_table(pairs, ["group"]).group.nunique(),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(busy, 1),
        "most_memory_GB": round(peak / 2**20, 2),
    }


def make(home: Path, count: int) -> None:
    """Writes the outputs of the earlier stages in parts, to use little memory."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(20_000)])
    looks = rng.integers(0, 256, (COPIED, 216), np.uint8)
    tables: dict[str, list] = {"clip/simple": [], "clip/complex": [], "phash": []}
    for number, start in enumerate(range(0, count, PART)):
        size = min(PART, count - start)
        ids = pd.Series([f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" for i in range(start, start + size)])
        prompts = [", ".join(line) for line in words[rng.integers(0, len(words), (size, 34))]]
        again = rng.random(size) < 1 / 3
        prompts = [prompts[i % 1000] if a else p for i, (p, a) in enumerate(zip(prompts, again, strict=True))]
        changed = again & (rng.random(size) < 1 / 2)
        prompts = [f"other{i}, {p.partition(', ')[2]}" if c else p for i, (p, c) in enumerate(zip(prompts, changed, strict=True))]
        hashes = rng.integers(0, 256, (size, 216), np.uint8)
        copies = rng.random(size) < 1 / 20
        hashes[copies] = looks[rng.integers(0, COPIED, copies.sum())]
        hashes[copies, rng.integers(0, 216, copies.sum())] ^= 5  # re-encoded: two bits differ
        raw = {
            "id": ids,
            "source": "web",
            "url": "https://host/" + ids,
            "user": ids,
            "complex_prompt": prompts,
            "clean_prompt": prompts,
            "width": 512,
            "height": 768,
        }
        empty = dict.fromkeys(("prompt_by", "negative_prompt", "simple_prompt", "licence", "dropped"))
        write_table(home / "raw/web" / f"prompts-{number:06d}.parquet", pd.DataFrame(raw | {"nsfw": "None"} | empty), RAW_SCHEMA)
        captions = pd.DataFrame({"id": ids, "simple_prompt": "a picture of " + ids})
        write_table(home / "captions/web" / f"captions-{number:06d}.parquet", captions, CAPTIONS_SCHEMA)
        for name in ("clip/simple", "clip/complex"):
            tables[name].append(pd.DataFrame({"id": ids, "value": rng.normal(0.27, 0.05, size)}))
        tables["phash"].append(pd.DataFrame({"id": ids, "value": [h.tobytes().hex() for h in hashes]}))
    for name, parts in tables.items():
        write_table(home / "scores" / name / "web.parquet", pd.concat(parts))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
