"""score: measures each image that the crawl kept with all scores, plug-ins of sur_adapter/data/scores. Each image is decoded once.

`<out>/<score>` is a folder of tables, one per source. A score of several measures has a folder for each: clip_simple and clip_complex are
in `<out>/clip/simple` and `<out>/clip/complex`.

Each score has a work cache of its own, which is kept after the run: a score is computed again only if its settings, models or code, the
images or the captions have changed, so adding, changing or removing one computes no other. A killed run resumes at the last finished shard.
Without the work cache, on another machine or after a month, all scores are computed.
"""

from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
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
    parser.add_argument("--raw", type=Path, required=True, help="folder of the crawled sources")
    parser.add_argument("--captions", type=Path, required=True, help="folder of their captions")
    parser.add_argument("--out", type=Path, required=True, help="folder for a folder of each score: tables of id and value, one per source")


def run(args: Namespace, params: "Params") -> None:
    plug_ins = {name: load("sur_adapter.data.scores", name) for name in params.raw("scores")}
    configs = {name: params.section(f"scores.{name}", plug_in.Config) for name, plug_in in plug_ins.items()}
    executor = params.section("executor", ExecutorConfig, required=False)
    score(args.raw, args.captions, args.out, configs, list(params.raw("sources")), executor)


def score(raw: Path, captions: Path, out: Path, configs: dict[str, Any], sources: list[str], executor: ExecutorConfig) -> None:
    """Writes a table of id and value for each score and source, rows in the order of its shards. configs: score -> its `Config`."""
    tables = [folder_digest(folder, "*.parquet") for folder in (raw, captions)]

    def input_files(task: tuple[str, str, tuple[str, ...]]) -> list:
        source, number, names = task
        settings = [value for name in names for value in asdict(configs[name]).values()]
        return [*settings, *shard_files(raw / source, number), captions / source / captions_file(number)]

    def missing(source: str, number: str) -> tuple[str, ...]:
        return tuple(name for name, _, work in scores if work.get(scores_file(source, number)) is None)

    with ExitStack() as stack:
        names = sorted(configs)  # in one order, so that two processes cannot wait for each other
        scores = tuple((name, configs[name], stack.enter_context(_work_cache(name, configs[name], tables))) for name in names)
        workers = stack.enter_context(Executor(partial(ScoreWorker, raw, captions, scores), input_files, executor))
        shards = [(source, number) for source in sources for number in shard_numbers(raw / source)]
        for _ in workers.map([(*shard, lacking) for shard in shards if (lacking := missing(*shard))], "score"):
            pass
        out.mkdir(parents=True, exist_ok=True)
        for old in out.rglob("*.parquet"):
            old.unlink()
        for name, _, work in scores:
            write_scores(work, sources, out / name)


def _work_cache(name: str, config: Any, tables: list[str]) -> WorkCache:
    """tables: digests of the images and of the captions."""
    settings, code = asdict(config), code_version(__file__, load("sur_adapter.data.scores", name).__file__)
    return WorkCache(f"score-{name}", keep_finished=True, config=settings, files=file_stats(*settings.values()), tables=tables, code=code)
