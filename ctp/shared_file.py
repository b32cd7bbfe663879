"""A file that processes of one machine share, and that goes when the last of them lets go of it.

What is large and the same for many processes is written once and mapped into the memory of each.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

READ_ONLY = 0o400


class SharedFile:
    """A file in the machine's temporary folder, whole as long as this object is open.

    Every process holds a lock on it, which goes with the process however that ends; the one that
    closes last deletes the file.

    Attributes:
        path: where it is.
    """

    def __init__(self, name: str, write: Callable[[Path], None]):
        """Open the file, or write it if no process has.

        Args:
            name: of the file; the same name must mean the same content.
            write: puts the content into the empty file at a path.

        Raises:
            OSError: the temporary folder is full or cannot be written.
        """
        self.path = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
        self._file: int | None = self._open(write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; what is mapped stays readable where it is mapped."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) and self._is_at_path(file):
                self.path.unlink()
        finally:
            os.close(file)

    def _open(self, write: Callable[[Path], None]) -> int:
        while True:
            file = os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o600)
            try:
                _lock(file, fcntl.LOCK_SH)
                # another process may have deleted it, or died while it wrote
                if self._is_at_path(file) and (_is_whole(file) or self._fill(file, write)):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _fill(self, file: int, write: Callable[[Path], None]) -> bool:
        """Write the file, unless another process has meanwhile; whether it is there afterwards."""
        _lock(file, fcntl.LOCK_EX)  # lets go of the shared lock first
        if not self._is_at_path(file):
            return False
        if not _is_whole(file):
            os.truncate(self.path, 0)
            write(self.path)
            os.chmod(file, READ_ONLY)  # says that it is whole
        _lock(file, fcntl.LOCK_SH)
        return self._is_at_path(file)

    def _is_at_path(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False


def _is_whole(file: int) -> bool:
    return stat.S_IMODE(os.fstat(file).st_mode) == READ_ONLY


def _lock(file: int, kind: int) -> bool:
    """Whether the lock was got: always, unless `kind` says not to wait."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    return True
