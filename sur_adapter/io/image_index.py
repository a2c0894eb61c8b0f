"""The crawled pictures by id: where each lies is kept in mind, its bytes stay on disk until asked for."""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import cache
from pathlib import Path

from sur_adapter.io.schema import check_id
from sur_adapter.io.shards import check_end_of_archive, plain_members


class ImageIndex(Mapping):
    """id -> bytes, of the ids asked for, out of the tars of all folders of `raw`.

    Raises ValueError where a tar is broken, an id has no picture, or a picture is not the one that was crawled.
    """

    def __init__(self, raw: Path, ids: set[str]):
        self._places = {
            key: place for folder in sorted(p for p in raw.iterdir() if p.is_dir()) for key, place in _members(folder) if key in ids
        }
        if missing := sorted(ids - self._places.keys()):
            raise ValueError(f"{raw} holds no picture for {len(missing)} of {len(ids)} kept pairs ({missing[0]}, …): run `dvc repro` again")

    def __getitem__(self, key: str) -> bytes:
        file, start, size = self._places[key]
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(size)
        check_id(file, key, data)
        return data

    def files(self, ids: Iterable[str]) -> set[Path]:
        """The tars that hold some pictures."""
        return {self._places[key][0] for key in ids}

    def moved(self, placed: Callable[[Path], Path]) -> "ImageIndex":
        """The same pictures where the tars lie elsewhere (haul.py)."""
        other, placed = copy(self), cache(placed)
        other._places = {key: (placed(file), start, size) for key, (file, start, size) in self._places.items()}
        return other

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _members(folder: Path) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    """(id, (tar, first byte, bytes)) of each picture of a folder's tars."""
    for file in sorted(folder.glob("*.tar")):
        try:
            with tarfile.open(file, "r:") as tar:
                for member in plain_members(tar, file.stat().st_size):
                    yield member.name.partition(".")[0], (file, member.offset_data, member.size)
                check_end_of_archive(tar)
        except PermissionError:
            raise
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{file} is cut short or broken ({error}): remove it and run `dvc repro` again") from error
