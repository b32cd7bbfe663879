"""Opening videos: read ahead of their use, and blamed when they end the process."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

from ctp.data.catalog import VideoEntry
from ctp.data.journal import Journal, working_on
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo, VideoError

READ_AHEAD = 8
"""Videos that are read ahead: an object store answers late, but many requests at a time."""


class VideoOpener:
    """Opens videos, for use in a `with` statement.

    The bytes of those that will be needed are read ahead, in threads. A video that is needed
    several times is kept until its last use.
    """

    def __init__(self, upcoming: Iterable[VideoEntry] = (), journal: Journal | None = None):
        """Start to read.

        Args:
            upcoming: the videos in the order in which they will most likely be opened. Others
                may be opened, too; they are read at once.
            journal: of this process; None in a process that must not die, where only videos that
                were decoded before are opened.
        """
        self._upcoming = deque(upcoming)
        self._uses = Counter(entry.id for entry in self._upcoming)
        self._journal = journal
        self._futures: dict[str, Future[EncodedVideo]] = {}
        self._pool = ThreadPoolExecutor(READ_AHEAD) if self._upcoming else None
        for _ in range(READ_AHEAD):
            self._begin_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def open(self, entry: VideoEntry, min_frames: int = 1) -> Iterator[VideoReader]:
        """Open a video, for use in a `with` statement.

        Raises:
            VideoError: it cannot be read, has fewer than `min_frames` frames, or has ended
                processes before.
            StorageError: the storage fails, also when it is tried again.
        """
        video = self._read(entry)
        with working_on(self._journal, entry.id, entry.uri), VideoReader(video) as reader:
            if reader.num_frames < min_frames:
                reason = f"has {reader.num_frames} frame(s), {min_frames} are needed"
                raise VideoError(entry.id, entry.uri, reason)
            yield reader

    def _read(self, entry: VideoEntry) -> EncodedVideo:
        future = self._futures.get(entry.id)
        if future is None:  # that of a replacement, in whose place one was not used
            self._begin_next()
            return entry.read()
        self._uses[entry.id] -= 1
        if not self._uses[entry.id]:
            del self._futures[entry.id]
        self._begin_next()
        return future.result()

    def _begin_next(self) -> None:
        if self._pool is None or not self._upcoming:
            return
        entry = self._upcoming.popleft()
        if entry.id not in self._futures:
            self._futures[entry.id] = self._pool.submit(entry.read)
