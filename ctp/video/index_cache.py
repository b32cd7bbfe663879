"""Where the frames of videos are: found once, and kept in memory and on this machine's disk."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, Self, TypeVar, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ctp.storage import Storage, StorageError

MAX_MEMORY_BYTES = 2**26
"""Arrays of the indices that a process keeps: those of 25 hours of video at 25 frames/s."""
MAX_DISK_BYTES = 2**31
"""Files of the indices that a machine keeps, about 0.3 MiB for an hour of video."""
LEAST_BYTES = 1024
"""Memory of an index beside its arrays."""
DAMAGE = OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error
"""What NumPy raises for a file that is missing or damaged."""

Arrays = dict[str, NDArray[Any]]


class Index(Protocol):
    """What is known of all frames of a video."""

    def to_arrays(self) -> Arrays:
        """Return it as arrays, for a file."""

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Create from what `to_arrays` returned."""


T = TypeVar("T", bound=Index)


class IndicesInMemory:
    """Indices in this process's memory, least recently used first."""

    def __init__(self) -> None:
        self._lock, self._bytes = Lock(), 0
        self._kept: dict[Hashable, tuple[object, int]] = {}

    def find(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the index that is kept under a key; call `make` if none is."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is not None:
                self._kept[key] = found
                return cast(T, found[0])
        index = make()
        num_bytes = LEAST_BYTES + sum(each.nbytes for each in index.to_arrays().values())
        with self._lock:
            self._bytes += num_bytes - self._kept.pop(key, (None, 0))[1]
            self._kept[key] = index, num_bytes
            while self._bytes > MAX_MEMORY_BYTES:
                self._bytes -= self._kept.pop(next(iter(self._kept)))[1]
        return index


IN_MEMORY = IndicesInMemory()


def find_index(key: tuple[str, ...], kind: type[T], folder: Path, make: Callable[[], T]) -> T:
    """Return an index from the memory or the disk; otherwise make it and keep it in both.

    Args:
        key: identifies the video, its version and the kind of index.
        kind: the index's class.
        folder: for the files; all processes of a machine share it.
        make: finds the index.
    """

    def load_or_make() -> T:
        name = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
        path = folder / f"{name}.npz"
        with suppress(*DAMAGE):
            return _load(path, kind)
        index = make()
        with suppress(StorageError):  # the cache is optional
            _save(path, index)
        return index

    return IN_MEMORY.find(key, load_or_make)


def _load(path: Path, kind: type[T]) -> T:
    with np.load(io.BytesIO(path.read_bytes())) as file:
        index = kind.from_arrays(dict(file))
    with suppress(OSError):  # another user's file, which may only be read
        os.utime(path)  # it was used
    return index


def _save(path: Path, index: Index) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = index.to_arrays()
    np.savez_compressed(buffer, **arrays)
    Storage.from_uri(path).write_bytes(buffer.getvalue())
    _make_room(path.parent)


def _make_room(folder: Path) -> None:
    """Delete the files that were not used for the longest time, if all exceed the limit."""
    with suppress(OSError):  # another process deletes them, too
        files = [(each.stat(), each) for each in folder.iterdir()]
        excess = sum(status.st_size for status, _ in files) - MAX_DISK_BYTES
        for status, each in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if excess <= 0:
                return
            each.unlink()
            excess -= status.st_size
