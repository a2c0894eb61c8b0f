"""Which files are no longer what was written, by every byte of them, whatever their size and time say.

A tool that asks for size and time before it reads does not see the bit that a disk has lost. Here each file is read and held to the MD5
that was noted of it: `outs`, path -> MD5, of a folder that of its listing; and in a cache the name of each file, `ab/cdef…`, is its MD5.
"""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest, md5
from pathlib import Path

from sur_adapter.io.work_cache import OURS

ENTRY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")


def spoilt(outs: dict[Path, str], cache: Path) -> tuple[list[Path], int]:
    """(files that are not what was written, how many were read). Outs that are not here are passed over."""
    entries = {f: f.parent.name + f.name for f in sorted(cache.glob("??/*")) if ENTRY.fullmatch(f"{f.parent.name}/{f.name}")}
    files = [*entries, *(file for path in outs for file in _files(path))]
    with ThreadPoolExecutor() as pool:  # reading and hashing let others go on
        found = dict(zip(files, pool.map(_md5, files), strict=True))
    bad = [entry for entry, name in entries.items() if found[entry] != name.removesuffix(".dir")]
    for path, digest in outs.items():
        if path.is_dir() and _listing(path, found) != digest:
            listing = cache / digest[:2] / digest[2:]
            bad += _which(path, listing, found) if listing.exists() and listing not in bad else [path]
        elif path.is_file() and found[path] != digest:
            bad.append(path)
    return bad, len(files)


def unfinished(folder: Path) -> list[Path]:
    """Files of work under way and numbers that are kept (work.py, kept.py) which the disk has spoilt, as far as they hold a digest."""
    ours = [path for path in sorted(folder.glob("*")) if OURS.fullmatch(path.name) and path.suffix != ".lock"]
    return [file for path in ours for file in _files(path) if not _sound(file)]


def _sound(file: Path) -> bool:
    from sur_adapter.evaluation import measurement_cache as kept
    from sur_adapter.features import store  # torch, which nobody waits for who has no unfinished work
    from sur_adapter.io import schema, shards
    from sur_adapter.training import checkpoint

    if file.name.startswith("measure-"):
        return kept.sound(file)
    if file.name == checkpoint.KEY:
        return checkpoint.unsealed(file.read_bytes()) is not None
    try:
        if file.suffix == ".tar":
            for key, _, data in shards.read_tar(file):
                schema.check_id(file, key, data)
        if file.suffix == ".parquet":
            return store.Shard.open(file).intact() if store.holds(file) else shards.read_table(file) is not None
    except FileNotFoundError:  # the work has just ended
        return True
    except ValueError:
        return False
    return True


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path] * path.is_file()


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "md5").hexdigest()


def _listing(folder: Path, found: dict[Path, str]) -> str:
    """The digest of a folder, as DVC takes it."""
    rows = [{"md5": found[file], "relpath": file.relative_to(folder).as_posix()} for file in _files(folder)]
    return md5(json.dumps(sorted(rows, key=lambda row: row["relpath"]), sort_keys=True).encode()).hexdigest() + ".dir"


def _which(folder: Path, listing: Path, found: dict[Path, str]) -> list[Path]:
    """Of a folder that is not as listed: files with other bytes and files that are not listed; where one is only missing, the folder."""
    wanted = {folder / row["relpath"]: row["md5"] for row in json.loads(listing.read_bytes())}
    return [file for file in _files(folder) if found[file] != wanted.get(file)] or [folder]
