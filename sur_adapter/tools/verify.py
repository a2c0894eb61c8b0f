"""verify: reads every byte that the stages wrote, names corrupt files, and prints the command that restores them.

DVC compares size and modification time before it reads a file, so it does not notice a bit that a disk has lost. Here every file is read
and its MD5 compared with the recorded one: of outs in dvc.lock, of a cached file in its name `ab/cdef…`. Weights in git are compared with
the last commit. Unfinished work and cached measurements are checked where they carry a checksum.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path

from ruamel.yaml import YAML

from sur_adapter.config import Params
from sur_adapter.io.hashing import file_digest
from sur_adapter.io.work_cache import ENTRY_NAME, work_dir

CACHED_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--lock", type=Path, default=Path("dvc.lock"), help="file with the MD5 of every out (%(default)s)")


def run(args: Namespace, params: Params) -> None:
    """Prints corrupt files. Raises ValueError with the command that restores them, if there are any."""
    if not args.lock.exists():
        raise ValueError(f"{args.lock} is missing: run `dvc repro` first, or run this in the project's folder")
    stages = YAML(typ="safe").load(args.lock)["stages"].values()
    outs = {Path(out["path"]): out["md5"] for stage in stages for out in stage.get("outs", ())}
    corrupt, count = find_corrupt(outs, _dvc_cache())
    corrupt, weights = corrupt + find_corrupt_work(work_dir()), _corrupt_weights()
    for file in [*corrupt, *weights]:
        print(f"{file} is corrupt")
    commands = []
    if weights:  # first: stages load them
        commands.append(f"git checkout -- {shlex.join(weights)}")
    if corrupt:
        commands.append(f"rm -rf {shlex.join(map(str, corrupt))} && dvc repro")
    if commands:
        raise ValueError(f"{len(corrupt) + len(weights)} files are corrupt: restore them with `{'; '.join(commands)}`")
    print(f"{count} files are intact")


def find_corrupt(outs: dict[Path, str], cache: Path) -> tuple[list[Path], int]:
    """Returns (corrupt files, number of files read).

    outs: path -> MD5, of a folder the MD5 of its listing, as in dvc.lock; missing outs are skipped. cache: DVC's folder of files by MD5.
    """
    cached = {f: f.parent.name + f.name for f in sorted(cache.glob("??/*")) if CACHED_FILE.fullmatch(f"{f.parent.name}/{f.name}")}
    files = [*cached, *(file for path in outs for file in _files(path))]
    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        digests = dict(zip(files, pool.map(lambda file: file_digest(file, "md5"), files), strict=True))
    corrupt = [file for file, name in cached.items() if digests[file] != name.removesuffix(".dir")]
    for path, expected in outs.items():
        if path.is_dir() and _listing_digest(path, digests) != expected:
            listing = cache / expected[:2] / expected[2:]
            corrupt += _changed_files(path, listing, digests) if listing.exists() and listing not in corrupt else [path]
        elif path.is_file() and digests[path] != expected:
            corrupt.append(path)
    return corrupt, len(files)


def find_corrupt_work(folder: Path) -> list[Path]:
    """Returns the corrupt files among the work caches and cached measurements in `folder`, as far as they carry a checksum."""
    entries = [path for path in sorted(folder.glob("*")) if ENTRY_NAME.fullmatch(path.name) and path.suffix != ".lock"]
    return [file for entry in entries for file in _files(entry) if not _is_intact(file)]


def _is_intact(file: Path) -> bool:
    from sur_adapter.evaluation import measurement_cache
    from sur_adapter.features import store  # imports torch, which is not needed without unfinished work
    from sur_adapter.io import schema, shards
    from sur_adapter.training import checkpoint

    if file.name.startswith("measure-"):
        return measurement_cache.is_intact(file)
    if file.name == checkpoint.KEY:
        return checkpoint.verified(file.read_bytes()) is not None
    try:
        if file.suffix == ".tar":
            for key, _, data in shards.read_tar(file):
                schema.check_id(file, key, data)
        if file.suffix == ".parquet":
            return store.FeatureShard.open(file).is_intact() if store.is_feature_shard(file) else shards.read_table(file) is not None
    except FileNotFoundError:  # the stage has just finished
        return True
    except ValueError:
        return False
    return True


def _dvc_cache() -> Path:
    result = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=True)
    return Path(result.stdout.strip(), "files", "md5")


def _corrupt_weights() -> list[str]:
    """Returns the weights in git that differ from the last commit. A fresh index makes git read them; its own trusts size and time."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GIT_INDEX_FILE": f"{folder}/index"}
        for command in (["read-tree", "HEAD"], ["diff", "--name-only", "--relative", "--diff-filter=M", "--", "*.safetensors"]):
            result = subprocess.run(["git", *command], env=env, capture_output=True, text=True)
    return result.stdout.splitlines()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def _listing_digest(folder: Path, digests: dict[Path, str]) -> str:
    """Computes the MD5 of a folder, as DVC computes it."""
    rows = [{"md5": digests[file], "relpath": file.relative_to(folder).as_posix()} for file in _files(folder)]
    return md5(json.dumps(sorted(rows, key=lambda row: row["relpath"]), sort_keys=True).encode()).hexdigest() + ".dir"


def _changed_files(folder: Path, listing: Path, digests: dict[Path, str]) -> list[Path]:
    """Returns the files of a folder that are not in its listing or have other bytes; the folder itself if files are only missing."""
    expected = {folder / row["relpath"]: row["md5"] for row in json.loads(listing.read_bytes())}
    return [file for file in _files(folder) if digests[file] != expected.get(file)] or [folder]
