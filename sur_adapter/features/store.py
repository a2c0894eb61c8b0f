"""Cached features on disk: Parquet files that are read a row at a time through a memory map.

    store = FeatureStore(Path("data/features/clip"))
    store.rows([7, 3])["simple"]        # (2, L, d) fp16, of rows 7 and 3; nothing else is read

A shard `{split}-000000.parquet` holds `id` and a list of numbers per feature: all rows of one shape, or each of its own (hidden states of
all tokens, latents of aspect buckets). Of equal rows (the keyword prompt of several captions, equal answers of the LLM) the first has the
numbers; the others have an empty list, and all have the same number in `<feature>.row`. The file's metadata is the manifest: the number of
rows and shards, the shape of a row, digests of the ids and of each feature, and `about`, the models and settings that made it. The same
content gives the same bytes.

Any Parquet reader can read it. columns.py says how one row is read without the others.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from sur_adapter.features.columns import Column, RaggedColumn, RepeatedColumn, open_column, release, stored_values
from sur_adapter.features.empty import read_reason
from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.hashing import short_digest

SHARDS = "*-[0-9][0-9][0-9][0-9][0-9][0-9].parquet"
ANSWERS_FILE = "answers.parquet"  # beside the shards of extractors/sentences.py, a table of texts
PLAIN = {"compression": "none", "use_dictionary": False, "write_statistics": False, "data_page_size": 2**31 - 1}
FIX_HINT = "remove the folder and run `dvc repro` again"


def write_features(
    path: Path,
    ids: list[str],
    features: dict[str, np.ndarray | RepeatedColumn | Sequence[np.ndarray]],
    about: dict | None = None,
    num_shards: int = 0,
) -> None:
    """Writes a shard. features: name -> array (N, …), N rows of which some are equal, or N arrays of different shapes. num_shards: of the
    folder; 0 if unknown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, manifests = {"id": pa.array(ids, pa.string())}, {}
    for name, values in features.items():
        if len(values) != len(ids):
            raise ValueError(f"{path}: {len(ids)} ids, but {len(values)} rows of {name}")
        if isinstance(values, RepeatedColumn):
            values = values.by_first_row()
            flat, shape = stored_values(values), values.shape[1:]
            sizes = np.zeros(len(ids), int)
            sizes[np.unique(values.index, return_index=True)[1]] = values.values[0].size
            columns |= _lists(name, flat, sizes) | {f"{name}.row": pa.array(values.index, pa.int32())}
            extra = {"repeated": True, "rows": _digest(values.index.astype(np.int32))}
        elif isinstance(values, np.ndarray):
            flat, shape, extra = values.reshape(-1), values.shape[1:], {}
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=pa.list_(_element(flat), len(flat) // len(ids)))
        else:
            flat, shape, extra = np.concatenate([v.reshape(-1) for v in values]), None, {}
            shapes = pa.array([v.shape for v in values], pa.list_(pa.int32(), values[0].ndim))
            columns |= _lists(name, flat, [v.size for v in values]) | {f"{name}.shape": shapes}
        manifests[name] = {"type": flat.dtype.str, "count": len(flat), "digest": _digest(flat), "shape": shape} | extra
    manifest = {"rows": len(ids), "shards": num_shards, "ids": _ids_digest(ids), "features": manifests, "about": about or {}}
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    schema = pa.schema(fields, metadata={"manifest": json.dumps(manifest, sort_keys=True)})
    with atomic_write(path) as part:
        pq.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema), part, row_group_size=len(ids), **PLAIN)


def _element(values: np.ndarray) -> pa.Field:
    return pa.field("element", pa.from_numpy_dtype(values.dtype), nullable=False)


def _lists(name: str, flat: np.ndarray, sizes: Sequence[int]) -> dict[str, pa.Array]:
    """Returns a column of lists of these sizes."""
    return {name: pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *sizes])), pa.array(flat), type=pa.large_list(_element(flat)))}


def _digest(values: np.ndarray) -> str:
    return short_digest(np.ascontiguousarray(values))


def _ids_digest(ids: list[str]) -> str:
    return short_digest(json.dumps(ids))


@dataclass
class FeatureShard:
    """One file of a store, opened: values are read when they are used."""

    file: Path
    ids: list[str]
    manifest: dict
    columns: dict[str, Column]

    @classmethod
    def open(cls, file: Path) -> "FeatureShard":
        """Opens a file. Raises ValueError if it is truncated or corrupt, or holds other ids than were written."""
        with _parquet_errors(file), pq.ParquetFile(file, memory_map=True, pre_buffer=False) as parquet:
            manifest = json.loads(parquet.metadata.metadata[b"manifest"])
            ids = parquet.read(["id"])["id"].to_pylist()
            columns = {
                name: open_column(parquet, file, name, feature["type"], feature["count"], feature["shape"], feature.get("repeated", False))
                for name, feature in manifest["features"].items()
            }
            num_rows, digest, *_ = (manifest[key] for key in ("rows", "ids", "shards", "about"))
        if len(ids) != num_rows or _ids_digest(ids) != digest:
            raise ValueError(f"{file} holds {len(ids)} rows, and not the {num_rows} that were written: {FIX_HINT}")
        return cls(file, ids, manifest, columns)

    def is_intact(self) -> bool:
        """Reads all values and compares them with the digests in the manifest."""
        return all(self._is_intact(name, feature) for name, feature in self.manifest["features"].items())

    def _is_intact(self, name: str, feature: dict) -> bool:
        column = self.columns[name]
        intact = _digest(stored_values(column)) == feature.get("digest")
        release(column)
        return intact and (not isinstance(column, RepeatedColumn) or _digest(column.index.astype(np.int32)) == feature["rows"])


def is_feature_shard(file: Path) -> bool:
    """Tells whether a Parquet file is a shard of features, by its metadata. Raises ValueError if it is corrupt."""
    with _parquet_errors(file):
        return b"manifest" in (pq.read_metadata(file).metadata or {})


@contextmanager
def _parquet_errors(file: Path) -> Iterator[None]:
    """Turns what reading a corrupt file raises into a ValueError that says how to fix it."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a shard under {file.parent} is cut short or broken ({file.name}: {error}): {FIX_HINT}") from error


class FeatureStore:
    """The cached features of a folder, by row number. Memory holds only the rows that are read.

    ids, about: as written. split (N,): the split of each row. names: of the features. Raises FileNotFoundError for a folder without
    shards, ValueError if shards are missing, corrupt, or made by different models.
    """

    def __init__(self, folder: Path):
        files = sorted(folder.glob(SHARDS))
        if not files and (folder / ANSWERS_FILE).exists():
            raise FileNotFoundError(f"{folder} holds no answered sentence: name params.yaml: sentences.sources, or set loss.w_llm to 0")
        if not files and (reason := read_reason(folder)):
            raise FileNotFoundError(f"{folder} holds no features ({reason}, when it was written): run `dvc repro` to compute them")
        if not files:
            raise FileNotFoundError(f"{folder} holds no feature shard: run `dvc repro` to cache the features")
        self.folder, self.shards = folder, [FeatureShard.open(file) for file in files]
        first = self.shards[0].manifest
        if first["shards"] not in (0, len(files)):
            raise ValueError(f"{folder} holds {len(files)} of {first['shards']} feature shards: {FIX_HINT}")
        if any(shard.manifest["about"] != first["about"] for shard in self.shards):
            raise ValueError(f"{folder} holds shards that different models or settings made: {FIX_HINT}")
        self.about, self.names = dict(first["about"]), list(self.shards[0].columns)
        counts = [len(shard.ids) for shard in self.shards]
        self.ids = [key for shard in self.shards for key in shard.ids]
        self.split = np.repeat([file.stem.rpartition("-")[0] for file in files], counts)
        self._starts = np.cumsum([0, *counts])
        self._columns = {name: [shard.columns[name] for shard in self.shards] for name in self.names}

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of_split(self, split: str) -> np.ndarray:
        """Returns the row numbers of a split, (n,)."""
        return np.flatnonzero(self.split == split)

    def shapes(self, name: str) -> np.ndarray:
        """Returns the shape of each row, (N, dimensions)."""
        columns = zip(self._columns[name], self.shards, strict=True)
        return np.concatenate([c.shapes if isinstance(c, RaggedColumn) else np.tile(c.shape[1:], (len(s.ids), 1)) for c, s in columns])

    def rows(self, index: Iterable[int], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Reads rows: name -> (B, …) in the order of `index`, in the stored dtype.

        Rows (T, d) of different T are padded with zeros to the longest; `<name>.length` (B,) holds their T.
        """
        index = np.asarray(index, int)
        shard = np.searchsorted(self._starts, index, "right") - 1
        positions = list(zip(shard, index - self._starts[shard], strict=True))
        result = {}
        for name in names or self.names:
            columns = self._columns[name]
            values = [columns[s][i] for s, i in positions]
            if isinstance(columns[0], RaggedColumn) and columns[0].shapes.shape[1] == 2:
                result[f"{name}.length"] = torch.tensor([len(row) for row in values], dtype=torch.long)
            result[name] = _stack(name, values) if values else torch.from_numpy(columns[0][0][None][:0].copy())
            for s in np.unique(shard):
                release(columns[s])
        return result

    def check_about(self, fix_hint: str = "run `dvc repro`", **expected: object) -> None:
        """Raises ValueError if other models or settings made the features; keys that were not recorded are not compared."""
        for key, value in expected.items():
            if key in self.about and self.about[key] != value:
                raise ValueError(
                    f"{self.folder} was made with {key} {self.about[key]!r}, but this run needs {value!r}: it is stale; {fix_hint}"
                )

    def verify(self) -> None:
        """Reads every byte. Raises ValueError that names the first shard that differs from what was written."""
        for shard in self.shards:
            if not shard.is_intact():
                raise ValueError(f"{shard.file} differs from what was written: `python -m stages verify` says how to repair it")


class FeatureSplit:
    """The rows of one split, of stores that hold the same pairs: `FeatureSplit([clip, llm, vae], "train").rows([3, 1])`."""

    def __init__(self, stores: list[FeatureStore], split: str):
        check_same_pairs(stores)
        self.stores, self.index = stores, stores[0].rows_of_split(split)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def names(self) -> list[str]:
        return [name for store in self.stores for name in store.names]

    def shapes(self, name: str) -> np.ndarray:
        """Returns the shape of each row, (N, dimensions)."""
        return next(store for store in self.stores if name in store.names).shapes(name)[self.index]

    def rows(self, index: Iterable[int], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Reads rows, as `FeatureStore.rows`; index counts within the split."""
        index, names = self.index[np.asarray(index, int)], list(names or self.names)
        names_of = [(store, [name for name in names if name in store.names]) for store in self.stores]
        return {name: values for store, own in names_of if own for name, values in store.rows(index, own).items()}


def check_same_pairs(stores: list[FeatureStore]) -> None:
    """Raises ValueError unless all stores hold the same pairs in the same order, made by one diffusion model."""
    first = stores[0]
    for other in stores[1:]:
        if other.ids != first.ids:
            raise ValueError(
                f"{first.folder} and {other.folder} hold different pairs: one of them is stale; remove both and run `dvc repro`"
            )
        if "base_model" in first.about:
            other.check_about("remove both and run `dvc repro`", base_model=first.about["base_model"])


def _stack(name: str, rows: list[np.ndarray]) -> Tensor:
    """Copies rows into one tensor (B, …); rows (T, d) are padded with zeros to the longest."""
    if not rows[0].shape:
        return torch.from_numpy(np.array(rows))
    shapes = {row.shape for row in rows}
    longest = max(shapes)
    if len(shapes) > 1 and len(longest) != 2:
        raise ValueError(f"rows of {name} have the shapes {sorted(shapes)}: read rows of one shape at a time (FeatureStore.shapes)")
    allocate = np.empty if len(shapes) == 1 else np.zeros
    batch = allocate((len(rows), *longest), rows[0].dtype)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(batch)
