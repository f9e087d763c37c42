"""Rows of a CSR matrix in a local zarr store, decompressed straight into place.

zarr decodes each chunk into memory of its own, checks it and copies it from there, which takes about twice the time on one core; with the Rust
codecs of `zarrs` 1.3 times, and 1.8 times the processor time (`benchmarks/reading.py`). It is read beside sums that want the same cores. What is
stored in another way (filters, transposed or remote arrays, unknown codecs) is read by zarr. Sharded arrays follow the specification of zarr v3,
"sharding_indexed".
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

CODECS = ("blosc", "zstd", "gzip", "zlib", "lz4")  # whose streams are the same in both formats of zarr
MISSING = np.iinfo(np.uint64).max  # offset of a chunk that its shard does not hold


class StoredCsr:
    """A CSR matrix of which slices of rows are read.

    Parameters
    ----------
    group
        With the arrays ``data``, ``indices`` and ``indptr``.
    shape
        Rows and columns.
    """

    format = "csr"

    def __init__(self, group: Any, shape: tuple[int, int], data: StoredArray, indices: StoredArray) -> None:
        self.group, self.shape, self.dtype = group, shape, data.dtype
        self.data, self.indices = data, indices
        self.indptr = np.asarray(group["indptr"][:], dtype=np.int64)

    @classmethod
    def of(cls, group: Any, shape: tuple[int, int]) -> StoredCsr | None:
        """The matrix, or None where zarr has to read it."""
        data, indices = StoredArray.of(group["data"]), StoredArray.of(group["indices"])
        return None if data is None or indices is None else cls(group, shape, data, indices)

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        start, stop, _ = rows.indices(self.shape[0])
        indptr = self.indptr[start : stop + 1]
        data, indices = (each[int(indptr[0]) : int(indptr[-1])] for each in (self.data, self.indices))
        return sp.csr_matrix((data, indices, indptr - indptr[0]), shape=(stop - start, self.shape[1]))


class StoredArray:
    """A one-dimensional zarr array of which ranges are read.

    Parameters
    ----------
    array
        Of numbers, in a local store; a file holds a chunk, or a shard of several.
    codec
        Decompresses a chunk (numcodecs), or None.
    """

    def __init__(self, array: Any, codec: Any) -> None:
        self.array, self.codec = array, codec
        self.dtype, self.size, self.length = np.dtype(array.dtype), int(array.chunks[0]), int(array.shape[0])
        self.per_shard = array.shards[0] // self.size if array.shards else 0
        self.folder = Path(array.store.root) / array.path
        self._shards: dict[int, np.ndarray] = {}  # offset and size of each chunk of a shard
        self._last: tuple[int, np.ndarray] | None = None  # the chunk that a range ended in: the next begins there

    @classmethod
    def of(cls, array: Any) -> StoredArray | None:
        """The array, or None where zarr has to read it."""
        import zarr
        from zarr.storage import LocalStore

        is_local = isinstance(array, zarr.Array) and isinstance(array.store, LocalStore)
        if not is_local or array.ndim != 1 or array.filters or len(array.compressors) > 1:
            return None
        dtype = np.dtype(array.dtype)
        is_plain = dtype.isnative and dtype.kind in "fiub" and _is_little_endian(array.serializer)
        if not is_plain or (array.shards and not _has_default_index(array)):
            return None
        codec = _codec(array.compressors[0]) if array.compressors else None
        return cls(array, codec) if codec is not None or not array.compressors else None

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self.length)
        found = np.empty(max(stop - start, 0), dtype=self.dtype)
        for number in range(start // self.size, -(-stop // self.size) if stop > start else 0):
            first = number * self.size
            low, high = max(start, first), min(stop, first + self.size)
            place = found[low - start : high - start]
            if high - low == self.size:
                self._decode(number, place)
            else:
                place[:] = self._chunk(number)[low - first : high - first]
        return found

    def _chunk(self, number: int) -> np.ndarray:
        last = self._last
        if last is None or last[0] != number:
            chunk = np.empty(self.size, dtype=self.dtype)
            self._decode(number, chunk)
            self._last = last = (number, chunk)
        return last[1]

    def _decode(self, number: int, out: np.ndarray) -> None:
        path = self._path(number // self.per_shard if self.per_shard else number)
        raw = self._read(path, number)
        if raw is None:  # zarr leaves out chunks of nothing but the fill value
            out[:] = self.array.fill_value
            return
        if self.codec is None:
            stored = np.frombuffer(raw, dtype=self.dtype)
            _check(len(stored) == len(out), path)
            out[:] = stored
            return
        # The codec would read on past the end of a file that is cut off; the header holds both sizes
        if self.codec.codec_id == "blosc":
            _check(len(raw) >= 16 and struct.unpack("<4xI4xI", raw[:16]) == (out.nbytes, len(raw)), path)
        self.codec.decode(raw, out=out)

    def _read(self, path: Path, number: int) -> bytes | None:
        """The bytes of a chunk, or None where it is not stored."""
        try:
            if not self.per_shard:
                return path.read_bytes()
            index = self._shard_index(path, number // self.per_shard)
            offset, size = (int(value) for value in index[number % self.per_shard])
            if offset == MISSING:
                return None
            with path.open("rb") as file:
                file.seek(offset)
                raw = file.read(size)
        except FileNotFoundError:
            return None
        _check(len(raw) == size, path)
        return raw

    def _shard_index(self, path: Path, shard: int) -> np.ndarray:
        """Offset and size of each chunk, from the end of the shard's file, which is followed by a checksum."""
        from google_crc32c import value as crc32c

        if (index := self._shards.get(shard)) is None:
            n_bytes = 16 * self.per_shard
            with path.open("rb") as file:
                n_there = file.seek(0, 2)
                _check(n_there >= n_bytes + 4, path)
                file.seek(-n_bytes - 4, 2)
                raw = file.read()
            _check(crc32c(raw[:n_bytes]) == struct.unpack("<I", raw[n_bytes:])[0], path)
            index = self._shards[shard] = np.frombuffer(raw[:n_bytes], dtype="<u8").reshape(-1, 2)
        return index

    def _path(self, number: int) -> Path:
        return self.folder / self.array.metadata.encode_chunk_key((number,))


def _is_little_endian(serializer: Any) -> bool:
    from zarr.codecs import BytesCodec

    if serializer is None:  # of zarr v2
        return True
    endian = getattr(serializer, "endian", None)
    return isinstance(serializer, BytesCodec) and str(getattr(endian, "value", endian or "little")) == "little"


def _has_default_index(array: Any) -> bool:
    """Whether the index of a shard is where and what zarr makes it by default: at the end, plain, with a checksum."""
    try:
        import google_crc32c  # noqa: F401
    except ImportError:
        return False
    sharding = array.metadata.codecs[0].to_dict()["configuration"]
    codecs = [codec["name"] for codec in sharding["index_codecs"]]
    return sharding["index_location"] == "end" and codecs == ["bytes", "crc32c"]


def _codec(compressor: Any) -> Any:
    """What decompresses, by the name of what compressed; None where that is not known."""
    from numcodecs import get_codec

    name = getattr(compressor, "codec_id", None) or compressor.to_dict()["name"]
    return get_codec({"id": name}) if name in CODECS else None


def _check(is_whole: bool, path: Path) -> None:
    if not is_whole:
        msg = f"the chunk {str(path)!r} is not whole"
        raise OSError(msg)
