"""Rows of a CSR matrix in a local zarr store, decompressed straight into place.

zarr decompresses each chunk into memory of its own and copies it from there, in threads of its own: beside sums that want the same cores and the
same memory, that costs three times as much. What is not a plain array (shards, filters, other stores) stays with zarr.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

CODECS = ("blosc", "zstd", "gzip", "zlib", "lz4")  # whose streams are the same in either format of zarr


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
        Of numbers, in a local store, each chunk in a file of its own.
    codec
        That decompresses a chunk (numcodecs), or None.
    """

    def __init__(self, array: Any, codec: Any) -> None:
        self.array, self.codec = array, codec
        self.dtype, self.size, self.length = np.dtype(array.dtype), int(array.chunks[0]), int(array.shape[0])
        self.folder = Path(array.store.root) / array.path
        self._last: tuple[int, np.ndarray] | None = None  # the chunk that a range ended in: the next begins there

    @classmethod
    def of(cls, array: Any) -> StoredArray | None:
        """The array, or None where zarr has to read it."""
        import zarr

        try:
            from zarr.codecs import BytesCodec
            from zarr.storage import LocalStore

            compressors, serializer = array.compressors, array.serializer
            is_plain = (
                isinstance(array, zarr.Array)
                and isinstance(array.store, LocalStore)
                and array.ndim == 1
                and array.shards is None
                and not array.filters
                and len(compressors) <= 1
                and (serializer is None or isinstance(serializer, BytesCodec))
                and np.dtype(array.dtype).isnative
                and np.dtype(array.dtype).kind in "fiub"
                and str(getattr(getattr(serializer, "endian", None), "value", "little")) == "little"
            )
        except (ImportError, AttributeError):  # zarr 2
            return None
        codec = _codec(compressors[0]) if is_plain and compressors else None
        return cls(array, codec) if is_plain and (codec is not None or not compressors) else None

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
        path = self.folder / self.array.metadata.encode_chunk_key((number,))
        try:
            raw = path.read_bytes()
        except FileNotFoundError:  # zarr leaves out chunks of nothing but the fill value
            out[:] = self.array.fill_value
            return
        if self.codec is None:
            stored = np.frombuffer(raw, dtype=self.dtype)
            _check(len(stored) == len(out), path)
            out[:] = stored
            return
        # It would read on past the end of a file that is cut off; its header tells both sizes
        if self.codec.codec_id == "blosc":
            _check(len(raw) >= 16 and struct.unpack("<4xI4xI", raw[:16]) == (out.nbytes, len(raw)), path)
        self.codec.decode(raw, out=out)


def _codec(compressor: Any) -> Any:
    """What decompresses, by the name of what compressed; None where that is not known."""
    from numcodecs import get_codec

    name = getattr(compressor, "codec_id", None) or compressor.to_dict()["name"]
    return get_codec({"id": name}) if name in CODECS else None


def _check(is_whole: bool, path: Path) -> None:
    if not is_whole:
        msg = f"the chunk {str(path)!r} is not whole"
        raise OSError(msg)
