"""score: measures each image that the crawl kept with one score, a plug-in of sur_adapter/data/scores.

A score of several measures writes a folder of tables for each: clip_simple and clip_complex are in `<out>/simple` and `<out>/complex`.
A killed run resumes at the last finished shard.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sur_adapter.data.scores.base import ScoreWorker, scores_file, write_scores
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.executor import Executor
from sur_adapter.io.code_version import code_version
from sur_adapter.io.hashing import folder_digest
from sur_adapter.io.raw_shards import captions_file, shard_files, shard_numbers
from sur_adapter.io.work_cache import WorkCache, file_stats
from sur_adapter.registry import load

if TYPE_CHECKING:
    from sur_adapter.config import Params


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--score", required=True, help="a score: the name of a module in sur_adapter/data/scores")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the crawled sources")
    parser.add_argument("--captions", type=Path, required=True, help="folder of their captions")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables of id and value, one per source")


def run(args: Namespace, params: "Params") -> None:
    config = params.section(f"scores.{args.score}", load("sur_adapter.data.scores", args.score).Config)
    executor = params.section("executor", ExecutorConfig, required=False)
    score(args.score, args.raw, args.captions, args.out, config, list(params.raw("sources")), executor)


def score(name: str, raw: Path, captions: Path, out: Path, config: Any, sources: list[str], executor: ExecutorConfig) -> None:
    """Writes a table of id and value for each source, rows in the order of its shards."""
    settings = asdict(config)
    tables = [folder_digest(folder, "*.parquet") for folder in (raw, captions)]
    code = code_version(__file__, load("sur_adapter.data.scores", name).__file__)

    def input_files(task: tuple[str, str]) -> list:
        source, number = task
        return [*settings.values(), *shard_files(raw / source, number), captions / source / captions_file(number)]

    with (
        WorkCache(f"score-{name}", config=settings, files=file_stats(*settings.values()), tables=tables, code=code) as work,
        Executor(partial(ScoreWorker, work, raw, captions, name, config), input_files, executor) as workers,
    ):
        shards = [(source, number) for source in sources for number in shard_numbers(raw / source)]
        for _ in workers.map([shard for shard in shards if work.get(scores_file(*shard)) is None], f"score {name}"):
            pass
        write_scores(work, sources, out)
