"""Random reads of cached features: samples per second of one process with a warm cache, and its memory.

    python -m experiments.benchmarks.reading 1000 10000 100000     # writes reading.json beside this file

Widths are those of SD 1.x and LLaMA-7B (77 × 768 twice, 4096; 245 KB per sample) if all samples fit into half the memory, so that the cache
can be warm; otherwise text features are 64 wide, and the figure says so. The values are random, which does not change the time.
"""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sur_adapter.features.store import FeatureSplit, FeatureStore, write_features
from sur_adapter.io.schema import ROWS_PER_SHARD

TOKENS, WIDTH, NARROW, TEACHER, BATCH = 77, 768, 64, 4096, 64
READ = 20_000  # samples, drawn with replacement


def main(counts: list[int]) -> None:
    figures = {"batch": BATCH, "processes": 1, "runs": [measure(count) for count in counts]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def measure(count: int) -> dict:
    width = WIDTH if count * size(WIDTH) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 else NARROW
    with TemporaryDirectory() as folder:
        make(Path(folder), count, width)
        before, started = private_memory(), time.perf_counter()
        stores = [FeatureStore(Path(folder, name)) for name in ("clip", "llm")]
        split = FeatureSplit(stores, "train")
        opened = time.perf_counter() - started
        for store in stores:
            store.verify()  # reads every byte, so the cache is warm from here on
        checked = time.perf_counter() - started - opened
        rate = samples_per_second(split)
        return {
            "samples": count,
            "kilobytes_a_sample": round(size(width) / 1000, 1),
            "text_width": width,
            "samples_per_second": round(rate),
            "gigabytes_per_second": round(rate * size(width) / 1e9, 2),
            "seconds_to_open": round(opened, 3),
            "seconds_to_check_every_byte": round(checked, 2),
            "private_megabytes_added": round((private_memory() - before) / 1e6, 1),
        }


def samples_per_second(split: FeatureSplit) -> float:
    """Returns the samples per second of reading random rows, the median of three passes."""
    rng, rates = np.random.default_rng(0), []
    for _ in range(3):
        batches = rng.integers(0, len(split), (READ // BATCH, BATCH))
        started = time.perf_counter()
        for index in batches:
            split.rows(index)
        rates.append(batches.size / (time.perf_counter() - started))
    return sorted(rates)[1]


def make(folder: Path, count: int, width: int) -> None:
    rng = np.random.default_rng(0)
    shapes = ((TOKENS, width), (TEACHER,))
    embeds, states = ((rng.random((ROWS_PER_SHARD, *shape), np.float32) - 0.5).astype(np.float16) for shape in shapes)
    for number, first in enumerate(range(0, count, ROWS_PER_SHARD)):
        rows = min(ROWS_PER_SHARD, count - first)
        ids = [f"{i:016x}" for i in range(first, first + rows)]
        write_features(folder / "clip" / f"train-{number:06d}.parquet", ids, {"simple": embeds[:rows], "complex": embeds[:rows]})
        write_features(folder / "llm" / f"train-{number:06d}.parquet", ids, {"layer_31": states[:rows]})


def size(width: int) -> int:
    """Returns the bytes of a sample."""
    return 2 * (2 * TOKENS * width + TEACHER)


def private_memory() -> int:
    """Returns the bytes of anonymous memory: mapped files, which the system may evict at any time, are not counted."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1000, 10_000])
