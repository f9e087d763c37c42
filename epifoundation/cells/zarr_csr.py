"""Read a CSR matrix from a file; from a local zarr store, chunks are decompressed into the result.

zarr decodes each chunk into a buffer and copies it, which takes about twice the time on one core;
the Rust codecs of `zarrs` take 1.3 times the wall time and 1.8 times the processor time
(`benchmarks/reading.py`), and reading competes with computation for the same cores. Arrays that are
stored in another way (filters, transposed, remote, unknown codecs) are read by zarr. Shards follow
the codec "sharding_indexed" of zarr v3.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

CODECS = ("blosc", "zstd", "gzip", "zlib", "lz4")  # the same streams in zarr v2 and v3
MISSING_CHUNK = np.iinfo(np.uint64).max  # offset in the index of a shard


class StoredCsr:
    """A CSR matrix in an HDF5 file or zarr store, read by ranges of entries.

    Parameters
    ----------
    group
        Group with the arrays ``data``, ``indices`` and ``indptr``.
    shape
        Rows and columns.
    """

    format = "csr"

    def __init__(self, group: Any, shape: tuple[int, int], data: Any, indices: Any) -> None:
        self.group, self.shape, self.dtype = group, shape, data.dtype
        self.data, self.indices = data, indices
        self.indptr = np.asarray(group["indptr"][:], dtype=np.int64)

    @classmethod
    def of(cls, group: Any, shape: tuple[int, int]) -> StoredCsr:
        """The matrix; zarr or h5py read the arrays that :class:`StoredArray` cannot."""
        data, indices = (StoredArray.of(group[name]) or group[name] for name in ("data", "indices"))
        return cls(group, shape, data, indices)


class StoredArray:
    """A one-dimensional zarr array, read by ranges.

    Parameters
    ----------
    array
        Numeric array in a local store; each file is one chunk, or one shard of chunks.
    codec
        Decompresses a chunk (numcodecs); None if chunks are not compressed.
    """

    def __init__(self, array: Any, codec: Any) -> None:
        self.array, self.codec = array, codec
        self.dtype, self.length = np.dtype(array.dtype), int(array.shape[0])
        self.shape = (self.length,)
        self.size = int(array.chunks[0])
        self.per_shard = array.shards[0] // self.size if array.shards else 0
        self.folder = Path(array.store.root) / array.path
        self._shards: dict[int, np.ndarray] = {}  # offset and size of each chunk of a shard
        # The last chunk of a range is kept: the next range begins in it
        self._last: tuple[int, np.ndarray] | None = None

    @classmethod
    def of(cls, array: Any) -> StoredArray | None:
        """The array, or None if zarr has to read it."""
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
        values = np.empty(max(stop - start, 0), dtype=self.dtype)
        for number in range(start // self.size, -(-stop // self.size) if stop > start else 0):
            first = number * self.size
            low, high = max(start, first), min(stop, first + self.size)
            target = values[low - start : high - start]
            if high - low == self.size:
                self._decode(number, target)
            else:
                target[:] = self._chunk(number)[low - first : high - first]
        return values

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
        if raw is None:  # zarr does not store chunks of the fill value
            out[:] = self.array.fill_value
            return
        if self.codec is None:
            stored = np.frombuffer(raw, dtype=self.dtype)
            _check(len(stored) == len(out), path)
            out[:] = stored
            return
        # The codec would read past the end of a truncated file; the header has both sizes
        if self.codec.codec_id == "blosc":
            sizes = (out.nbytes, len(raw))
            _check(len(raw) >= 16 and struct.unpack("<4xI4xI", raw[:16]) == sizes, path)
        self.codec.decode(raw, out=out)

    def _read(self, path: Path, number: int) -> bytes | None:
        """The bytes of a chunk, or None if it is not stored."""
        try:
            if not self.per_shard:
                return path.read_bytes()
            index = self._shard_index(path, number // self.per_shard)
            offset, size = (int(value) for value in index[number % self.per_shard])
            if offset == MISSING_CHUNK:
                return None
            with path.open("rb") as file:
                file.seek(offset)
                raw = file.read(size)
        except FileNotFoundError:
            return None
        _check(len(raw) == size, path)
        return raw

    def _shard_index(self, path: Path, shard: int) -> np.ndarray:
        """Offset and size of each chunk: the last bytes of the shard, before a checksum."""
        from google_crc32c import value as crc32c

        if (index := self._shards.get(shard)) is None:
            n_bytes = 16 * self.per_shard
            with path.open("rb") as file:
                n_bytes_stored = file.seek(0, 2)
                _check(n_bytes_stored >= n_bytes + 4, path)
                file.seek(-n_bytes - 4, 2)
                raw = file.read()
            _check(crc32c(raw[:n_bytes]) == struct.unpack("<I", raw[n_bytes:])[0], path)
            index = self._shards[shard] = np.frombuffer(raw[:n_bytes], dtype="<u8").reshape(-1, 2)
        return index

    def _path(self, number: int) -> Path:
        return self.folder / self.array.metadata.encode_chunk_key((number,))


def _is_little_endian(serializer: Any) -> bool:
    from zarr.codecs import BytesCodec

    if serializer is None:  # zarr v2
        return True
    endian = getattr(serializer, "endian", None)
    name = str(getattr(endian, "value", endian or "little"))
    return isinstance(serializer, BytesCodec) and name == "little"


def _has_default_index(array: Any) -> bool:
    """Whether the index of a shard is as zarr writes it: at the end, plain, with a checksum."""
    try:
        import google_crc32c  # noqa: F401
    except ImportError:
        return False
    sharding = array.metadata.codecs[0].to_dict()["configuration"]
    codecs = [codec["name"] for codec in sharding["index_codecs"]]
    return sharding["index_location"] == "end" and codecs == ["bytes", "crc32c"]


def _codec(compressor: Any) -> Any:
    """The numcodecs codec for a compressor; None if it is not in ``CODECS``."""
    from numcodecs import get_codec

    name = getattr(compressor, "codec_id", None) or compressor.to_dict()["name"]
    return get_codec({"id": name}) if name in CODECS else None


def _check(is_whole: bool, path: Path) -> None:
    if not is_whole:
        msg = f"the chunk {str(path)!r} is not whole"
        raise OSError(msg)
