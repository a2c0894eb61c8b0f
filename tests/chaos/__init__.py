"""Checks on the files of a project after a kill and at the end of a run.

`python -m tests.chaos KILLS SEED` runs many kills, tests/chaos/test_kills.py a few.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import psutil
from filelock import FileLock
from ruamel.yaml import YAML

SMALL = {
    "sources": {"miniature": {"count": 200}},
    "sentences": {"sources": {"miniature": {"count": 150}}},
    "cache": {"queries": {"count": 100}},
    "loss": {"sentences": 16},
    "train": {"steps": 30, "batch_size": 16, "checkpointing_steps": 5, "eval_steps": 5},
    "generate": {"per_category": 2, "seeds": 1, "num_inference_steps": 3},
    "sweep": {"strengths": [0, 0.5], "per_category": 1},
    "evaluate": {"bootstrap_resamples": 100, "num_vote_pairs": 1},
}


def files(folder: Path) -> dict[str, str]:
    """Maps each file that stages write to its digest, but not data/timings and reports/timing.json: seconds differ from run to run.

    Files that are deleted during the call are left out.
    """
    digests, measured = {}, (folder / "data/timings", folder / "reports/timing.json")
    for top in ("data", "models/adapter", "reports"):
        for file in sorted((folder / top).rglob("*")):
            with suppress(FileNotFoundError):
                if file.is_file() and file.name != ".gitignore" and not {file, file.parent} & {*measured}:  # .gitignore is DVC's own
                    digests[file.relative_to(folder).as_posix()] = sha256(file.read_bytes()).hexdigest()
    return digests


def changed_files(folder: Path, expected: dict[str, str]) -> list[str]:
    """Files under their final names whose bytes differ from those of the undisturbed run."""
    return [name for name, digest in files(folder).items() if expected.get(name) != digest and not _is_part(name)]


def leftovers(folder: Path, work: Path) -> list[str]:
    """Lists what a successful run must not leave: partial files, unfinished work, and held locks, DVC's included. Finished scores stay."""
    names = [name for name in files(folder) if _is_part(name)] + [str(f) for f in work.glob("score-*/.*.part")]
    names += [str(f) for f in work.glob("*/") if not f.name.startswith("score-")]
    for lock in work.glob("*.lock"):
        with FileLock(lock, timeout=0):  # raises Timeout if it is held
            pass
    held = YAML(typ="safe").load(rwlock) if (rwlock := folder / ".dvc/tmp/rwlock").exists() else {}
    for kind, paths in held.items():
        for path, holders in paths.items():  # DVC itself removes entries of processes that have ended
            holders = holders if isinstance(holders, list) else [holders]
            names += [f"{kind} {path}" for holder in holders if psutil.pid_exists(holder["pid"])]
    return names


def _is_part(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(".part")
