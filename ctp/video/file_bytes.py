"""The bytes of a file: in memory, or read as needed from a file that stays in its storage."""

from __future__ import annotations

import io
from collections.abc import Callable

LEAST_AHEAD_BYTES, MOST_AHEAD_BYTES = 2**18, 2**23
"""Bytes that are read at a time: the first after a seek, and after a long time without one."""


class StoredBytes:
    """The bytes of a stored file. Slices are read when they are asked for."""

    def __init__(self, size: int, read: Callable[[int, int], bytes], check: Callable[[], None]):
        """Create for a file of `size` bytes.

        Args:
            size: number of bytes.
            read: (offset, size) -> this many bytes.
            check: raises StorageError if the file did not stay the same while parts were read.
        """
        self._size, self.read, self.check = size, read, check
        self._file = self.open()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        """Return bytes; short parts in the order of the file take few reads."""
        start, stop, _ = part.indices(self._size)
        self._file.seek(start)
        return self._file.read_all(max(stop - start, 0))

    def open(self) -> StoredFile:
        """Return a file object."""
        return StoredFile(self._size, self.read)


class StoredFile:
    """A file object for FFmpeg, which reads ahead: the longer in order, the more."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]):
        self._size, self._read = size, read
        self._position, self._start, self._block = 0, 0, b""
        self._ahead = LEAST_AHEAD_BYTES

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set and return the position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int) -> bytes:
        """Return at least one byte and at most `size`; none at the end of the file."""
        at = self._position - self._start
        if not 0 <= at < len(self._block):
            # from fragment to fragment, FFmpeg skips some bytes
            is_near = 0 <= at - len(self._block) <= len(self._block)
            self._ahead = min(2 * self._ahead, MOST_AHEAD_BYTES) if is_near else LEAST_AHEAD_BYTES
            left = max(self._size - self._position, 0)
            self._block = self._read(self._position, min(max(size, self._ahead), left))
            self._start, at = self._position, 0
        piece = self._block[at : at + size]
        self._position += len(piece)
        return piece

    def read_all(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end of the file."""
        pieces = [self.read(size)] if size else []
        while pieces and pieces[-1] and (left := size - sum(map(len, pieces))):
            pieces.append(self.read(left))
        return b"".join(pieces)


FileBytes = bytes | StoredBytes
"""The bytes of a file. Slices are bytes, and `len` is known."""


def open_bytes(data: FileBytes) -> io.BytesIO | StoredFile:
    """Return a file object for FFmpeg."""
    return io.BytesIO(data) if isinstance(data, bytes) else data.open()
