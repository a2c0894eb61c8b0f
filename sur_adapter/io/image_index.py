"""Random access to the crawled images by id: the index holds their positions in the tars, bytes are read on access."""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import cache
from pathlib import Path

from sur_adapter.io.schema import check_id
from sur_adapter.io.shards import check_end_of_archive, plain_members, tar_errors


class ImageIndex(Mapping):
    """Maps ids to image bytes. ids: those to look up in the tars of all folders of `raw`.

    Raises ValueError if a tar is corrupt, an id has no image, or the bytes of an image do not match its id.
    """

    def __init__(self, raw: Path, ids: set[str]):
        self._locations = {
            key: location for folder in sorted(p for p in raw.iterdir() if p.is_dir()) for key, location in _members(folder) if key in ids
        }
        if missing := sorted(ids - self._locations.keys()):
            raise ValueError(f"{raw} holds no image for {len(missing)} of {len(ids)} kept pairs ({missing[0]}, …): run `dvc repro` again")

    def __getitem__(self, key: str) -> bytes:
        file, start, size = self._locations[key]
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(size)
        check_id(file, key, data)
        return data

    def files(self, ids: Iterable[str]) -> set[Path]:
        """Returns the tars that hold the images of `ids`."""
        return {self._locations[key][0] for key in ids}

    def with_local_paths(self, to_local: Callable[[Path], Path]) -> "ImageIndex":
        """Returns a copy for a machine that has the tars at other paths. to_local: a path here -> the path there."""
        other, to_local = copy(self), cache(to_local)
        other._locations = {key: (to_local(file), start, size) for key, (file, start, size) in self._locations.items()}
        return other

    def __iter__(self) -> Iterator[str]:
        return iter(self._locations)

    def __len__(self) -> int:
        return len(self._locations)


def _members(folder: Path) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    """Yields (id, (tar, offset, size)) of each image in a folder's tars."""
    for file in sorted(folder.glob("*.tar")):
        with tar_errors(file), tarfile.open(file, "r:") as tar:
            for member in plain_members(tar, file.stat().st_size):
                yield member.name.partition(".")[0], (file, member.offset_data, member.size)
            check_end_of_archive(tar)
