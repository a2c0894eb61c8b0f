"""Cached features on disk: plain Parquet that is read by memory map, a row at a time, whatever lies beside it.

    store = Store(Path("data/features/clip"))
    store.rows([7, 3])["simple"]        # (2, L, d) fp16, of rows 7 and 3; nothing else is read

A shard `{split}-000000.parquet` holds `id` and a list of numbers for each feature: all rows of one shape, or each of its own (`tokens` of
an LLM, latents of aspect buckets). Its metadata is the manifest: how many rows and shards, the shape of a row, digests of the ids and of
each feature, and `about`, the models and settings that made it. The same content is the same bytes.

Any reader of Parquet reads it; none reads one row without the 2,000 beside it. So a column is written as one page, neither compressed nor
encoded, and its numbers are mapped where they lie.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.hashing import short_digest

PLAIN = {"compression": "none", "use_dictionary": False, "write_statistics": False, "data_page_size": 2**31 - 1}
CURE = "remove the folder and run `dvc repro` again"


def write_vectors(path: Path, ids: list[str], vectors: dict[str, np.ndarray | Sequence[np.ndarray]], about: dict | None = None, shards=0):
    """vectors: name -> array [N, …], or N arrays of different shapes. shards: how many the folder will hold; 0: not told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, kinds = {"id": pa.array(ids, pa.string())}, {}
    for name, values in vectors.items():
        if len(values) != len(ids):
            raise ValueError(f"{path}: {len(ids)} ids, but {len(values)} rows of {name}")
        alike = isinstance(values, np.ndarray)
        flat = values.reshape(-1) if alike else np.concatenate([v.reshape(-1) for v in values])
        kinds[name] = {"type": flat.dtype.str, "count": len(flat), "digest": _digest(flat), "shape": values.shape[1:] if alike else None}
        number = pa.field("element", pa.from_numpy_dtype(flat.dtype), nullable=False)
        if alike:
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=pa.list_(number, len(flat) // len(ids)))
        else:
            offsets = pa.array(np.cumsum([0] + [v.size for v in values]))
            columns[name] = pa.LargeListArray.from_arrays(offsets, pa.array(flat), type=pa.large_list(number))
            columns[f"{name}.shape"] = pa.array([v.shape for v in values], pa.list_(pa.int32(), values[0].ndim))
    manifest = {"rows": len(ids), "shards": shards, "ids": _digest(ids), "features": kinds, "about": about or {}}
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    schema = pa.schema(fields, metadata={"manifest": json.dumps(manifest, sort_keys=True)})
    with atomic_write(path) as part:
        pq.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema), part, row_group_size=len(ids), **PLAIN)


def _digest(content: np.ndarray | list[str]) -> str:
    """Sixteen hex digits of numbers or ids."""
    return short_digest(np.ascontiguousarray(content) if isinstance(content, np.ndarray) else json.dumps(content))


@dataclass
class Shard:
    """One file, mapped: what is asked for is read, and no more."""

    file: Path
    ids: list[str]
    manifest: dict
    columns: dict[str, "np.ndarray | Ragged"]  # the feature of all rows: [N, …], or rows of their own shapes

    @classmethod
    def open(cls, file: Path) -> "Shard":
        """ValueError where the file is cut, broken, or holds other ids than were written."""
        try:
            with pq.ParquetFile(file) as opened:
                manifest = json.loads(opened.metadata.metadata[b"manifest"])
                ids = opened.read(["id"])["id"].to_pylist()
                columns = {name: _column(opened, file, name, kind) for name, kind in manifest["features"].items()}
                rows, digest, *_ = (manifest[key] for key in ("rows", "ids", "shards", "about"))
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a shard under {file.parent} is cut short or broken ({file.name}: {error}): {CURE}") from error
        if len(ids) != rows or _digest(ids) != digest:
            raise ValueError(f"{file} holds {len(ids)} rows, and not the {rows} that were written: {CURE}")
        return cls(file, ids, manifest, columns)

    def intact(self) -> bool:
        """Whether every number is as it was written."""
        flat = {name: c.values if isinstance(c, Ragged) else c.reshape(-1) for name, c in self.columns.items()}
        return all(_digest(flat[name]) == kind.get("digest") for name, kind in self.manifest["features"].items())


def holds(file: Path) -> bool:
    """Whether a Parquet file is a shard of features, as its metadata tells."""
    try:
        return b"manifest" in (pq.read_metadata(file).metadata or {})
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"a shard under {file.parent} is cut short or broken ({file.name}: {error}): {CURE}") from error


def _column(opened: pq.ParquetFile, file: Path, name: str, kind: dict) -> "np.ndarray | Ragged":
    """A column chunk of one plain page ends with its numbers, one after the other, where they can be mapped."""
    group, size = opened.metadata.row_group(0), kind["count"] * np.dtype(kind["type"]).itemsize
    chunk = group.column(opened.schema_arrow.names.index(name))
    before = chunk.total_compressed_size - size  # the page's head, and the lengths of lists
    if chunk.compression != "UNCOMPRESSED" or chunk.encodings.count("PLAIN") != 1 or before <= 0:
        raise ValueError(f"column {name} is not laid out plainly")
    values = np.memmap(file, kind["type"], "r", chunk.data_page_offset + before, (kind["count"],))
    if kind["shape"] is not None:
        return values.reshape(group.num_rows, *kind["shape"])
    shapes = np.array(opened.read([f"{name}.shape"])[f"{name}.shape"].to_pylist(), int)
    return Ragged(values, np.cumsum([0, *shapes.prod(1)]), shapes)


@dataclass
class Ragged:
    """Rows of different shapes, as they lie in a file."""

    values: np.ndarray
    offsets: np.ndarray  # (N + 1,)
    shapes: np.ndarray  # (N, dimensions)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]].reshape(self.shapes[i])


class Store:
    """The cached features of a folder, by row number; memory holds no more than the rows asked for.

    `ids` and `about` as written, `split` [N] the split of each row, `names` of the features. Raises FileNotFoundError where there are none,
    ValueError where shards are missing, cut, or made by different models.
    """

    def __init__(self, folder: Path):
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise FileNotFoundError(f"{folder} holds no feature shard: run `dvc repro` to cache the features")
        self.folder, self.shards = folder, [Shard.open(file) for file in files]
        first = self.shards[0].manifest
        if first["shards"] not in (0, len(files)):
            raise ValueError(f"{folder} holds {len(files)} of {first['shards']} feature shards: {CURE}")
        if any(s.manifest["about"] != first["about"] for s in self.shards):
            raise ValueError(f"{folder} holds shards that different models or settings made: {CURE}")
        self.about, self.names = dict(first["about"]), list(self.shards[0].columns)
        counts = [len(s.ids) for s in self.shards]
        self.ids = [key for s in self.shards for key in s.ids]
        self.split = np.repeat([file.stem.rpartition("-")[0] for file in files], counts)
        self._starts = np.cumsum([0, *counts])
        self._columns = {name: [s.columns[name] for s in self.shards] for name in self.names}

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, split: str) -> np.ndarray:
        """The numbers of the rows of a split."""
        return np.flatnonzero(self.split == split)

    def shapes(self, name: str) -> np.ndarray:
        """[N, dimensions]: the shape of each row, so that rows of one shape can be asked for together."""
        each = zip(self._columns[name], self.shards, strict=True)
        return np.concatenate([c.shapes if isinstance(c, Ragged) else np.tile(c.shape[1:], (len(s.ids), 1)) for c, s in each])

    def rows(self, index: Iterable[int], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """name -> [B, …] in the order of `index`, of the kind that was stored.

        Rows [T, d] of different T are filled up with zeros; their T is beside them as `<name>.length` [B].
        """
        index = np.asarray(index, int)
        shard = np.searchsorted(self._starts, index, "right") - 1
        places = list(zip(shard, index - self._starts[shard], strict=True))
        result = {}
        for name in names or self.names:
            columns = self._columns[name]
            found = [columns[s][i] for s, i in places]
            if isinstance(columns[0], Ragged) and columns[0].shapes.shape[1] == 2:
                result[f"{name}.length"] = torch.tensor([len(row) for row in found], dtype=torch.long)
            result[name] = _stack(name, found) if found else torch.from_numpy(columns[0][0][None][:0].copy())
        return result

    def expect(self, cure: str = "run `dvc repro`", **about: object) -> None:
        """ValueError unless these models and settings made the features; what was not recorded is not asked."""
        for key, value in about.items():
            if key in self.about and self.about[key] != value:
                raise ValueError(f"{self.folder} was made with {key} {self.about[key]!r}, but {value!r} is asked for: it is stale; {cure}")

    def check(self) -> None:
        """Reads every byte; ValueError names the first shard that is not as it was written."""
        for shard in self.shards:
            if not shard.intact():
                raise ValueError(f"{shard.file} is not what was written: `python -m stages verify` says how to mend it")


class Split:
    """The rows of one split, of stores that hold the same pairs: `Split([clip, llm, vae], "train").rows([3, 1])`."""

    def __init__(self, stores: list[Store], split: str):
        agree(stores)
        self.stores, self.index = stores, stores[0].where(split)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def names(self) -> list[str]:
        return [name for store in self.stores for name in store.names]

    def shapes(self, name: str) -> np.ndarray:
        """[N, dimensions], as Store.shapes."""
        return next(store for store in self.stores if name in store.names).shapes(name)[self.index]

    def rows(self, index: Iterable[int], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """name -> [B, …], as Store.rows."""
        chosen, names = self.index[np.asarray(index, int)], list(names or self.names)
        each = ((store, [name for name in names if name in store.names]) for store in self.stores)
        return {name: values for store, some in each if some for name, values in store.rows(chosen, some).items()}


def agree(stores: list[Store]) -> None:
    """ValueError unless all hold the same pairs in the same order, made by one diffusion model."""
    first = stores[0]
    for other in stores[1:]:
        if other.ids != first.ids:
            raise ValueError(
                f"{first.folder} and {other.folder} hold different pairs: one of them is stale; remove both and run `dvc repro`"
            )
        if "base_model" in first.about:
            other.expect("remove both and run `dvc repro`", base_model=first.about["base_model"])


def _stack(name: str, rows: list[np.ndarray]) -> Tensor:
    """[B, …] in memory of its own; rows [T, d] are filled up to the longest."""
    if not rows[0].shape:
        return torch.from_numpy(np.array(rows))
    shapes = {row.shape for row in rows}
    longest = max(shapes)
    if len(shapes) > 1 and len(longest) != 2:
        raise ValueError(f"rows of {name} have the shapes {sorted(shapes)}: ask for rows of one shape at a time (Store.shapes tells them)")
    atomic_write = np.empty if len(shapes) == 1 else np.zeros
    result = atomic_write((len(rows), *longest), rows[0].dtype)
    for target, row in zip(result, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(result)
