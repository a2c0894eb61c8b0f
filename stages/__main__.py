"""The one door: `python -m stages VERB PATH…`.

A verb is a function of its own name in stages/VERB.py. Its positional arguments are its files, from the command line;
its keyword-only arguments are sections of params.yaml. The signature is the schema.

Beside the verbs, five commands of one's own, which no stage of dvc.yaml runs:

    python -m stages export FOLDER               # the kept pairs as SURD lays them out
    python -m stages suite FOLDER                # the pairs held out for the test, as prompts to be judged by
    python -m stages forget ID|URL|USER          # out of the raw shards, and never kept again; says what to run next
    python -m stages plan rows=14000000          # rows, disk, hours and memory of every stage, before anything is spent
    python -m stages verify                      # reads every byte that was written, names what a disk has spoilt, says what mends it
"""

import ctypes
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

from ruamel.yaml import YAML

from sur_adapter.io.atomic import friendly_disk_errors
from sur_adapter.registry import did_you_mean

COMMANDS = ("export", "suite", "forget", "plan", "verify")
PLANNED = "sources caption scores filter models cache adapter loss train generate sweep evaluate"  # the sections that a plan goes by
VERBS = ("crawl", "caption", "score", "filter", "cache", "train", "generate", "sweep", "evaluate")


def main(argv: list[str]) -> None:
    if argv and argv[0] in COMMANDS:
        globals()[f"_{argv[0]}"](*argv[1:])
        return
    if not argv or argv[0] not in VERBS:
        hint = did_you_mean(argv[0], VERBS + COMMANDS) if argv else ""
        raise ValueError(f"usage: python -m stages VERB PATH…, with VERB one of {', '.join(VERBS)}, or {' or '.join(COMMANDS)}{hint}")
    verb, *paths = argv
    run = getattr(import_module(f"stages.{verb}"), verb)
    arguments = signature(run).parameters.values()
    files = [a for a in arguments if a.kind is Parameter.POSITIONAL_OR_KEYWORD]
    least = sum(a.default is Parameter.empty for a in files)
    if not least <= len(paths) <= len(files):
        raise ValueError(f"{verb} takes {', '.join(a.name for a in files)}: {len(paths)} paths were given")
    sections = {a.name: a.default is Parameter.empty for a in arguments if a.kind is Parameter.KEYWORD_ONLY}
    run(*map(Path, paths), **_sections(_params(), sections))


def _export(*folder: str) -> None:
    from sur_adapter.io.shards import read_table
    from sur_adapter.tools.export import export

    if len(folder) != 1:
        raise ValueError(f"export takes a folder: {len(folder)} were given")
    raw, _, _, pairs, *_ = _paths("filter")
    print(f"{export(read_table(pairs), raw, Path(folder[0]))} pairs are in {folder[0]}")


def _suite(*folder: str) -> None:
    from sur_adapter.io.shards import read_table
    from sur_adapter.tools.held_out_prompts import CATEGORY, suite

    if len(folder) != 1:
        raise ValueError(f"suite takes a folder: {len(folder)} were given")
    _, _, _, pairs, *_ = _paths("filter")
    count = suite(read_table(pairs), Path(folder[0]))
    print(f"{count} prompts are in {folder[0]}/{CATEGORY}.jsonl: name {folder[0]} as generate.prompts, and null as evaluate.judge")


def _forget(*what: str) -> None:
    from sur_adapter.data.crawl.removal import forget
    from sur_adapter.io.work_cache import discard_work

    if len(what) != 1:
        raise ValueError(f"forget takes an id, a url or a user: {len(what)} were given")
    raw, memory = _paths("crawl")
    count = forget(what[0], raw.parent, memory)
    discard_work("crawl", "caption", "score")
    print(f"{count} rows are forgotten. Now make everything derived anew, and empty the caches of DVC:")
    print("  dvc commit -f crawl && dvc repro && dvc gc --workspace --force && git commit -am forgotten")


def _plan(*changes: str) -> None:
    from sur_adapter.generation.prompts import read_prompts
    from sur_adapter.tools.planner.measured_rates import Rates, mean_size
    from sur_adapter.tools.planner.planner import plan
    from sur_adapter.tools.planner.table import table

    options = _numbers(plan, changes)
    params = _sections(_params(), dict.fromkeys(PLANNED.split(), True))
    raw, _, _, _, funnel, *_ = _paths("filter")
    prompts = Path(params["generate"]["prompts"])
    categories = Counter(row["category"] for row in read_prompts(prompts)) if prompts.exists() else None
    earlier = json.loads(funnel.read_text()) if funnel.exists() else None
    means = {name: mean for name in params["sources"] if (mean := mean_size(raw / name))}
    found = plan(params, Rates.read(Path("experiments/benchmarks")), earlier, categories, means, **options)
    print(table(found, **{name: options.get(name, plan.__kwdefaults__[name]) for name in ("mfu", "teraflops", "teraflops_fp32")}))


def _numbers(function, words: tuple[str, ...]) -> dict:
    """`rows=14000000 mfu=0.3` as keyword arguments of a function, all of them numbers above nought."""
    known, found = list(function.__kwdefaults__), {}
    for word in words:
        name, _, value = word.partition("=")
        number = YAML(typ="safe").load(value) if value else None
        if name not in known or not isinstance(number, (int, float)) or number <= 0:
            raise ValueError(
                f"plan does not take {word!r}{did_you_mean(name, known)}: give a number above 0 to one of {'=…, '.join(known)}=…"
            )
        found[name] = number
    return found


def _verify(*words: str) -> None:
    from sur_adapter.io.work_cache import work_dir
    from sur_adapter.tools.verify import spoilt, unfinished

    if words or not Path("dvc.lock").exists():
        raise ValueError("verify takes no words, and compares with dvc.lock: run it in a project that was run (`dvc repro`)")
    stages = YAML(typ="safe").load(Path("dvc.lock"))["stages"].values()
    asked = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=True)
    cache = Path(asked.stdout.strip(), "files", "md5")
    bad, count = spoilt({Path(out["path"]): out["md5"] for stage in stages for out in stage.get("outs", ())}, cache)
    bad, weights = bad + unfinished(work_dir()), _weights()
    print("".join(f"{file} is not what was written\n" for file in [*bad, *weights]), end="")
    commands = [f"git checkout -- {shlex.join(weights)}"] * bool(weights)  # first: stages reckon with them
    commands += [f"rm -rf {shlex.join(map(str, bad))} && dvc repro"] * bool(bad)
    if commands:
        raise ValueError(f"{len(bad) + len(weights)} files are not what was written: mend them by `{'; '.join(commands)}`")
    print(f"{count} files are what was written")


def _weights() -> list[str]:
    """Weights in git that are not what was committed; its own index would believe their times."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GIT_INDEX_FILE": f"{folder}/index"}
        for words in (["read-tree", "HEAD"], ["diff", "--name-only", "--relative", "--diff-filter=M", "--", "*.safetensors"]):
            done = subprocess.run(["git", *words], env=env, capture_output=True, text=True)
    return done.stdout.splitlines()


def _paths(stage: str) -> list[Path]:
    """The paths of a stage, which stand in dvc.yaml alone."""
    body = YAML(typ="safe").load(Path("dvc.yaml"))["stages"][stage]
    return [Path(word) for word in body.get("do", body)["cmd"].split()[4:]]


def _params() -> Path:
    return Path(os.environ.get("SUR_PARAMS", "params.yaml"))


def _sections(file: Path, names: dict[str, bool]) -> dict:
    """Sections by name, and whether each must be there."""
    if not file.exists():
        raise ValueError(f"{file} is missing: run from the project's folder, or copy a preset (`cp presets/miniature.yaml params.yaml`)")
    params = YAML(typ="safe").load(file) or {}
    for name, needed in names.items():
        if needed and name not in params:
            raise ValueError(f"{file} has no section {name!r}{did_you_mean(name, params)}: add it, as in presets/miniature.yaml")
    return {name: params[name] for name in names if name in params}


def _quiet() -> None:
    """The libraries' own bars and reports stay out of logs; ours look at the terminal themselves."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def keep_memory() -> None:
    """What a step frees stays with the process for the next one. glibc gives large blocks back and asks for them again page by page,
    which takes a fifth of a training step on a CPU. Elsewhere nothing changes."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**25)  # the most that it takes
        libc.mallopt(trim_threshold, 2**31 - 1)


if __name__ == "__main__":
    _quiet()
    keep_memory()
    try:
        with friendly_disk_errors():
            main(sys.argv[1:])
    except (FileNotFoundError, ValueError) as error:
        if os.environ.get("SUR_DEBUG"):
            raise
        sys.exit(f"error: {error}")
