"""Random access to the crawled images by id: the index holds their positions in the tars, bytes are read on access."""

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import cache
from pathlib import Path

from sur_adapter.io.schema import check_id, image_id
from sur_adapter.io.shards import check_end_of_archive, plain_members, tar_errors


class ImageIndex(Mapping):
    """Maps the ids of images, or of their captions, to image bytes. ids: those to look up in the tars of all folders of `raw`.

    Raises ValueError if a tar is corrupt, an id has no image, or the bytes of an image do not match its id.
    """

    def __init__(self, raw: Path, ids: set[str]):
        images = {image_id(key) for key in ids}
        folders = sorted(path for path in raw.iterdir() if path.is_dir())
        self._locations = {key: location for folder in folders for key, location in _members(folder) if key in images}
        if missing := sorted(images - self._locations.keys()):
            raise ValueError(f"{raw} lacks {len(missing)} of {len(images)} images of kept pairs ({missing[0]}, …): run `dvc repro` again")

    def __getitem__(self, key: str) -> bytes:
        key = image_id(key)
        file, start, size = self._locations[key]
        with file.open("rb") as opened:
            opened.seek(start)
            data = opened.read(size)
        check_id(file, key, data)
        return data

    def files(self, ids: Iterable[str]) -> set[Path]:
        """Returns the tars that hold the images of `ids`."""
        return {self._locations[image_id(key)][0] for key in ids}

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
