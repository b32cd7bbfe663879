"""Reading videos before they are needed: an object store answers late, but many at a time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from ctp.data.catalog import VideoEntry
from ctp.video.encoded import EncodedVideo, VideoError


class ReadAhead:
    """Reads videos in an order that is known beforehand, for use in a `with` statement.

    A video that comes again is kept until it came for the last time.
    """

    def __init__(
        self,
        upcoming: Iterable[VideoEntry] = (),
        *,
        depth: int = 0,
        bad: Mapping[str, str] | None = None,
    ):
        """Begin to read.

        Args:
            upcoming: the videos in the order in which `read` will most likely ask for them.
            depth: how many are read ahead; 0: none, each is read when it is asked for.
            bad: id -> reason, of videos that are not to be tried.
        """
        self._upcoming = deque(upcoming)
        self._uses = Counter(entry.id for entry in self._upcoming)
        self._bad = bad or {}
        self._futures: dict[str, Future[EncodedVideo]] = {}
        self._pool = ThreadPoolExecutor(depth) if depth else None
        for _ in range(depth):
            self._begin_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, entry: VideoEntry) -> EncodedVideo:
        """The video's encoded bytes, read ahead or now.

        Raises:
            VideoError: it cannot be read, or is known to be bad.
            StorageError: the storage fails, and goes on failing.
        """
        if entry.id in self._bad:
            raise VideoError(entry.id, entry.uri, self._bad[entry.id])
        future = self._futures.get(entry.id)
        if future is None:
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
