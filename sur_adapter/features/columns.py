"""Reads one column of a Parquet file as numpy: as a memory map if its values are stored plainly, else decoded by pyarrow.

`store.write_features` writes each column as one page, neither compressed nor encoded, so the values are the last bytes of the column chunk
and one row is read without the other rows of its shard. Files of other Parquet writers are read correctly too, but into memory.
"""

import logging
import mmap
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

logger = logging.getLogger(__name__)
STORED_BYTES = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}  # of a plain value; Parquet stores integers below 32 bits as INT32


@dataclass
class RaggedColumn:
    """Rows of different shapes, stored one after the other."""

    values: np.ndarray
    offsets: np.ndarray  # (N + 1,)
    shapes: np.ndarray  # (N, dimensions)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.offsets[i] : self.offsets[i + 1]].reshape(self.shapes[i])


@dataclass
class RepeatedColumn:
    """Rows of one shape, of which equal ones are stored once."""

    values: np.ndarray  # (M, …), the distinct rows
    index: np.ndarray  # (N,), the number of each row among them

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.index), *self.values.shape[1:]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.index[i]]

    def select(self, rows: np.ndarray) -> "RepeatedColumn":
        return RepeatedColumn(self.values, self.index[rows])

    def by_first_row(self) -> "RepeatedColumn":
        """Returns the same rows with the values that they use, in the order in which they come first."""
        used, first, index = np.unique(self.index, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return RepeatedColumn(self.values[used[order]], np.argsort(order)[index.reshape(-1)])


Column = np.ndarray | RaggedColumn | RepeatedColumn  # (N, …), rows of their own shapes, or rows of which some are equal


def stored_values(column: Column) -> np.ndarray:
    """Returns all numbers of a column as they are stored, (count,)."""
    return (column if isinstance(column, np.ndarray) else column.values).reshape(-1)


def open_column(
    parquet: pq.ParquetFile, file: Path, name: str, dtype: str, count: int, shape: list[int] | None, repeated: bool = False
) -> Column:
    """Opens a column of lists of numbers. count: numbers of all rows; shape: of a row, None if each row has its own (`<name>.shape`);
    repeated: equal rows are stored once, the others refer to them (`<name>.row`).

    Raises ValueError if the column does not hold `count` numbers.
    """
    values = _map_values(parquet, file, name, np.dtype(dtype), count)
    if values is None:
        logger.warning("%s: column %s has another layout than this project writes: it is read into memory", file, name)
        values = _flatten(parquet.read([name])[name].combine_chunks()).astype(dtype, copy=False)
    if len(values) != count:
        raise ValueError(f"column {name} holds {len(values)} numbers, and not the {count} that were written")
    if repeated:
        index = parquet.read([f"{name}.row"])[f"{name}.row"].to_numpy()
        return RepeatedColumn(values.reshape(-1, *shape), index)
    if shape is not None:
        return values.reshape(parquet.metadata.num_rows, *shape)
    shapes = np.array(parquet.read([f"{name}.shape"])[f"{name}.shape"].to_pylist(), int)
    return RaggedColumn(values, np.cumsum([0, *shapes.prod(1)]), shapes)


def release(column: Column) -> None:
    """Takes the pages of a mapped column that were read out of this process's memory; the system keeps them in its cache."""
    mapped = getattr(stored_values(column), "_mmap", None)  # None of an array in memory, and of an empty column
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _map_values(parquet: pq.ParquetFile, file: Path, name: str, dtype: np.dtype, count: int) -> np.ndarray | None:
    """Maps all values of a column, (count,); None unless it is one plain page whose first row equals what pyarrow reads."""
    chunk = _plain_chunk(parquet, name)
    size = count * dtype.itemsize
    if (
        chunk is None
        or STORED_BYTES.get(chunk.physical_type, dtype.itemsize) != dtype.itemsize
        or chunk.total_compressed_size <= size
        or _first_page_size(file, chunk.data_page_offset) < size
    ):
        return None
    values = np.memmap(file, dtype, "r", chunk.data_page_offset + chunk.total_compressed_size - size, (count,))
    row = _flatten(next(parquet.iter_batches(1, columns=[name])).column(0))
    return values if row.dtype == dtype and row.tobytes() == values[: len(row)].tobytes() else None


def _plain_chunk(parquet: pq.ParquetFile, name: str) -> pq.ColumnChunkMetaData | None:
    """Returns the only chunk of a column if it is neither compressed nor encoded, else None."""
    if parquet.metadata.num_row_groups != 1 or name not in parquet.schema_arrow.names:
        return None
    number = parquet.schema_arrow.names.index(name)
    chunk = parquet.metadata.row_group(0).column(number)
    plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page and set(chunk.encodings) <= {"PLAIN", "RLE", "BIT_PACKED"}
    return chunk if plain and (chunk.path_in_schema + ".").startswith(f"{name}.") else None


def _first_page_size(file: Path, offset: int) -> int:
    """Reads the compressed size of the page at `offset`, field 3 of its header (Thrift compact protocol); 0 if there is no such header."""
    with file.open("rb") as opened:
        opened.seek(offset)
        header = BytesIO(opened.read(32))
    size = 0
    for _ in ("type", "uncompressed size", "compressed size"):  # each: byte 0x15 (the next field, an int32) and a zigzag varint
        if header.read(1) != b"\x15":
            return 0
        size, shift = 0, 0
        for byte in iter(lambda: header.read(1), b""):
            size |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
    return size >> 1


def _flatten(lists: pa.Array) -> np.ndarray:
    """Returns the numbers of an array of lists, or of numbers, as (n,)."""
    flat = lists.flatten() if hasattr(lists, "flatten") and pa.types.is_nested(lists.type) else lists
    return flat.to_numpy(zero_copy_only=False)
