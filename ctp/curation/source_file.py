"""Read the bytes of a raw video in pieces, wherever it is stored."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from ctp.data import corpus
from ctp.data.catalog import VideoEntry
from ctp.storage import OpenFile, SeekableFile, Storage, StorageError
from ctp.text import one_line
from ctp.video.encoded import VideoError

WHOLE_BYTES = 16 * 2**20
"""Up to this size a video is read at once, by one request."""
PIECE_BYTES = 4 * 2**20
"""Bytes of a read of a longer video: enough for an object store, which answers late."""


@contextmanager
def open_source(entry: VideoEntry) -> Iterator[BinaryIO]:
    """Open a video as a file that can seek, for use in a `with` statement.

    A long video is read in pieces as it is decoded, and is never in memory as a whole.

    Raises:
        VideoError: it does not exist, may not be read, or has changed.
        StorageError: the storage fails, also inside the block.
    """
    is_small = entry.size is not None and entry.size <= WHOLE_BYTES
    if is_small or entry.checksum is not None or entry.uri.startswith(corpus.SCHEME):
        yield io.BytesIO(entry.read().data)
        return
    try:
        with Storage.from_uri(entry.uri).open() as file:
            part = _Part(file, entry)
            try:
                yield cast(BinaryIO, io.BufferedReader(part, PIECE_BYTES))
            finally:
                if part.error is not None:  # it is not the fault of the video
                    raise part.error
    except StorageError as error:
        if not error.is_permanent:
            raise
        reason = one_line(f"cannot be read: {error}")
        raise VideoError(entry.id, entry.uri, reason) from error


class _Part(SeekableFile):
    """The bytes of a video.

    Attributes:
        error: the first error of the storage, which a decoder takes for one of the video.
    """

    def __init__(self, file: OpenFile, entry: VideoEntry):
        rest = file.size - entry.offset
        size = rest if entry.size is None else entry.size
        # a video at offset 0 is a file of its own, which may have grown
        if size > rest or (entry.offset == 0 and size != rest):
            reason = f"has changed since it was catalogued: {rest} bytes, {size} were listed"
            raise VideoError(entry.id, entry.uri, reason)
        super().__init__(file, entry.offset, size)
        self.error: StorageError | None = None

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except StorageError as error:
            self.error = self.error or error
            raise
