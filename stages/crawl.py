"""crawl: fetches images with their keyword prompts from one source, bytes as received; every rejected candidate is a row with its reason.

A killed crawl of a web source resumes where it stopped: finished shards, pages and images stay in the work cache until the stage is done.
"""

from argparse import ArgumentParser, Namespace
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from sur_adapter.data.crawl.crawl_state import CrawlState
from sur_adapter.data.crawl.fetcher import row_key
from sur_adapter.data.crawl.removal import apply_removals, hash_user, is_forgotten, read_forgotten
from sur_adapter.data.crawl.shard_writer import ImageChecker, check_images, read_finished, write_shards
from sur_adapter.data.sources.base import Source, SourceConfig
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.schema import ROWS_PER_SHARD
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.registry import load

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--source", required=True, help="name of the source: a module of sur_adapter/data/sources")
    parser.add_argument("--out", type=Path, required=True, help="folder for images-*.tar and prompts-*.parquet")
    parser.add_argument("--forgotten", type=Path, help="hashes of what must not be kept (data/forgotten.txt)")
    parser.add_argument("--rows-per-shard", type=int, default=ROWS_PER_SHARD, help="rows of a table and its tar (%(default)s)")


def run(args: Namespace, params: "Params") -> None:
    source = load("sur_adapter.data.sources", args.source)
    config = params.section(f"sources.{args.source}", source.Config)
    executor = params.section("executor", ExecutorConfig, required=False)
    crawl(args.source, source, config, args.out, args.forgotten, executor, args.rows_per_shard)


def crawl(
    name: str, source: Source, config: SourceConfig, out: Path, forgotten: Path | None, executor: ExecutorConfig, rows_per_shard: int
) -> None:
    """Writes the shards of a source to `out`, without what `forgotten` lists."""
    if rows_per_shard < 1:
        raise ValueError(f"--rows-per-shard is {rows_per_shard}: give at least 1")
    hashes = read_forgotten(forgotten) if forgotten else set()
    inputs = {"config": asdict(config), "inputs": config.inputs(), "forgotten": sorted(hashes), "shard": rows_per_shard}
    with (
        WorkCache(f"crawl-{name}", **inputs, code=code_version(__file__, source.__file__)) as work,
        Executor(partial(ImageChecker, work), lambda tar: [work.folder / tar], executor) as workers,
    ):
        if not config.resumable:
            work.clear()
        finished = read_finished(work.folder)
        end = sum(map(len, finished))  # number of the first row that is not in a finished shard
        state = CrawlState(work, end, skip=lambda row: is_forgotten(hash_user(row), hashes))
        with closing(source.rows(config, state)) as rows:
            bar = tqdm(rows, f"crawl {name}", config.num_rows(), initial=end, unit="row", disable=None)
            candidates = apply_removals(bar, hashes)
            checked = candidates if workers.inline else check_images(candidates, work, workers)
            for first, end in write_shards(work.folder, checked, finished, rows_per_shard):
                work.delete(map(row_key, range(first, end)))
        if end == 0:
            raise ValueError(f"source {name} gave no row: check sources.{name} in params.yaml, or remove it there")
        for old in (*out.glob("images-*.tar"), *out.glob("prompts-*.parquet")):  # of an earlier crawl with more shards
            old.unlink()
        work.publish(out, "images-*.tar", "prompts-*.parquet")
