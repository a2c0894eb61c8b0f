"""caption: writes one plain sentence for each image that the crawl kept.

The source's own sentence is used if it has one, else the captioner writes it. Finished batches are kept in the work cache until the stage
is done, so a killed run resumes there.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sur_adapter.data.captioning import CaptionWorker
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.hashing import folder_digest
from sur_adapter.io.raw_shards import captions_file, shard_files, shard_numbers
from sur_adapter.io.work_cache import WorkCache, file_stats
from sur_adapter.models.captioner import CaptionConfig

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, help="folder of the crawled shards of one source")
    parser.add_argument("--out", type=Path, required=True, help="folder for captions-*.parquet, one table per shard")


def run(args: Namespace, params: "Params") -> None:
    caption(args.raw, args.out, params.section("caption", CaptionConfig), params.section("executor", ExecutorConfig, required=False))


def caption(raw: Path, out: Path, config: CaptionConfig, executor: ExecutorConfig) -> None:
    """Writes a table of id and simple_prompt for each shard of `raw`, rows in the same order."""
    inputs = {"config": asdict(config), "files": file_stats(config.model, config.judge), "raw": folder_digest(raw, "prompts-*.parquet")}

    def input_files(number: str) -> list:
        return [config.model, config.judge, *shard_files(raw, number), *work.folder.glob(f"{number}-*")]

    with (
        WorkCache("caption", **inputs, code=code_version(__file__)) as work,
        Executor(partial(CaptionWorker, work, raw, config), input_files, executor) as workers,
    ):
        for _ in workers.map([number for number in shard_numbers(raw) if work.get(captions_file(number)) is None], "caption"):
            pass
        for old in out.glob("captions-*.parquet"):
            old.unlink()
        work.publish(out, "captions-*.parquet")
