"""What a project may look like just after a kill, and what it must look like in the end.

`python -m tests.chaos KILLS SEED` is the long form; tests/test_wrong_kills.py is the short one.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import psutil
from filelock import FileLock
from ruamel.yaml import YAML

SMALL = {
    "sources": {"miniature": {"count": 200}},
    "cache": {"queries": {"count": 100}},
    "train": {"steps": 30, "batch_size": 16, "checkpointing_steps": 5, "eval_steps": 5},
    "generate": {"per_category": 2, "seeds": 1, "num_inference_steps": 3},
    "sweep": {"strengths": [0, 1], "per_category": 1},
    "evaluate": {"resamples": 100, "pairs": 1},
}


def files(folder: Path) -> dict[str, str]:
    """Path -> digest of every file that stages write; of a file that goes while it is looked at, nothing."""
    found = {}
    for top in ("data", "models/adapter", "reports"):
        for file in sorted((folder / top).rglob("*")):
            with suppress(FileNotFoundError):
                if file.is_file() and file.name != ".gitignore":  # DVC's own
                    found[file.relative_to(folder).as_posix()] = sha256(file.read_bytes()).hexdigest()
    return found


def half(folder: Path, peace: dict[str, str]) -> list[str]:
    """Files under a final name whose bytes are not those of the run left in peace."""
    return [name for name, digest in files(folder).items() if peace.get(name) != digest and not _hidden(name)]


def left(folder: Path, work: Path) -> list[str]:
    """What a run that ended well must not leave: half files, unfinished work, locks that somebody seems to hold, DVC's among them."""
    found = [name for name in files(folder) if _hidden(name)] + [str(f) for f in work.glob("*/")]
    for lock in work.glob("*.lock"):
        with FileLock(lock, timeout=0):  # raises Timeout where it is held
            pass
    held = YAML(typ="safe").load(rwlock) if (rwlock := folder / ".dvc/tmp/rwlock").exists() else {}
    for kind, paths in held.items():
        for path, by in paths.items():  # of a process that is gone DVC lets go itself, where it comes to it
            found += [f"{kind} {path}" for one in (by if isinstance(by, list) else [by]) if psutil.pid_exists(one["pid"])]
    return found


def _hidden(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(".part")
