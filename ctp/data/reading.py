"""Open videos: read them ahead of their use, and blame a video that ends the process."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Condition
from typing import TYPE_CHECKING, Self

from ctp.data.catalog import VideoEntry
from ctp.data.journal import Journal, working_on
from ctp.storage import Storage, StorageError
from ctp.video.encoded import DecodingError, VideoError
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits, limited_memory

if TYPE_CHECKING:
    from ctp.video.decode import Video, VideoReader
    from ctp.video.nvdec import Nvdec

READ_AHEAD = 8
"""Videos that are read ahead: an object store answers late, but many requests at a time."""
READ_AHEAD_BYTES = 128 * 2**20
"""Bytes of the videos that are open or read ahead. A larger one is read when there is no other: to
read it takes much longer than to decode a clip, so that reading ahead would gain little."""
LONG_VIDEO_BYTES = 16 * 2**20
"""Memory for a long video of which only parts are read: those read together, and its tables."""


class VideoOpener:
    """Opens videos, for use in a `with` statement.

    The bytes of those that will be needed are read ahead, in threads, as far as they fit into
    `READ_AHEAD_BYTES`. A video that is needed several times is kept until its last use. Of a long
    video, only its tables are read ahead; its reader reads the packets of the frames.
    """

    def __init__(
        self,
        upcoming: Iterable[VideoEntry] = (),
        journal: Journal | None = None,
        limits: DecodingLimits = DEFAULT_LIMITS,
        nvdec: Nvdec | None = None,
    ):
        """Start to read.

        Args:
            upcoming: the videos in the order in which they will most likely be opened. Others
                may be opened, too; they are read at once.
            journal: of this process; None in a process that must not die, where only videos that
                were decoded before are opened.
            limits: of decoding.
            nvdec: decodes what it can in place of the CPU.
        """
        self._upcoming = deque(upcoming)
        self._uses = Counter(entry.id for entry in self._upcoming)
        self._journal, self._limits, self._nvdec = journal, limits, nvdec
        self._futures: dict[str, Future[Video]] = {}
        self._pool = ThreadPoolExecutor(READ_AHEAD) if self._upcoming else None
        self._urgent = ThreadPoolExecutor(1)  # starts its thread when it is used
        self._waiting_room = _WaitingRoom(READ_AHEAD_BYTES)
        for _ in range(READ_AHEAD):
            self._begin_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting_room.close()
        for pool in filter(None, (self._pool, self._urgent)):
            pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def open(
        self, entry: VideoEntry, min_frames: int = 1, remedy: str = ""
    ) -> Iterator[VideoReader]:
        """Open a video, for use in a `with` statement.

        Args:
            entry: the video.
            min_frames: the fewest frames that it may have.
            remedy: what makes shorter videos usable, for the error; "" if nothing does.

        Raises:
            VideoError: it cannot be read, has fewer than `min_frames` frames, needs more memory
                than `limits` allow, or has ended processes before.
            StorageError: the storage fails, also when it is tried again.
        """
        from ctp.video.decode import VideoReader  # PyAV, which a training step does not need

        try:
            video = self._read(entry)
            # the threads that read ahead need memory at the same time
            memory_bytes = self._limits.memory_bytes + self._waiting_room.most_bytes()
            with (
                working_on(self._journal, entry.id, entry.uri),
                limited_memory(memory_bytes),
                VideoReader(video, self._limits, self._nvdec) as reader,
            ):
                if reader.num_frames < min_frames:
                    reason = f"has {reader.num_frames} frame(s), {min_frames} are needed"
                    if remedy:
                        reason += f" ({remedy})"
                    raise VideoError(entry.id, entry.uri, reason)
                yield reader
        except DecodingError as error:
            raise VideoError(entry.id, entry.uri, str(error)) from error
        finally:
            if entry.id not in self._futures:  # it was its last use
                self._waiting_room.leave(entry.id)

    def _read(self, entry: VideoEntry) -> Video:
        future = self._futures.get(entry.id)
        if future is None:  # that of a replacement, in whose place one was not used
            self._begin_next()
            return entry.open_long(_size_of(entry)) or entry.read()
        self._uses[entry.id] -= 1
        if not self._uses[entry.id]:
            del self._futures[entry.id]
        self._waiting_room.admit(entry.id)
        self._begin_next()
        # its turn might not come: all threads may wait with videos that nobody opens any more, such
        # as those of a sample whose own video cannot be used
        if future.cancel():
            future = self._urgent.submit(self._read_when_it_fits, entry)
            if entry.id in self._futures:
                self._futures[entry.id] = future
        try:
            return future.result()
        except MemoryError:
            # it was read while a video that is decoded had a memory limit
            return entry.open_long(_size_of(entry)) or entry.read()

    def _begin_next(self) -> None:
        if self._pool is None or not self._upcoming:
            return
        entry = self._upcoming.popleft()
        if entry.id not in self._futures:
            self._waiting_room.enter(entry.id)
            self._futures[entry.id] = self._pool.submit(self._read_when_it_fits, entry)

    def _read_when_it_fits(self, entry: VideoEntry) -> Video:
        size = _size_of(entry)
        long = entry.open_long(size)
        self._waiting_room.wait(entry.id, LONG_VIDEO_BYTES if long else size)
        if long is None:
            return entry.read()
        with suppress(StorageError):  # its reader tries again, and reports it
            _ = long.table
        return long


class _WaitingRoom:
    """Admits videos to be read, in order, while their bytes fit into a limit.

    A video that is needed now is always admitted: those that are kept for a later use may fill all
    of the limit.
    """

    def __init__(self, limit_bytes: int):
        self._limit_bytes = limit_bytes
        self._changed = Condition()
        self._sizes: dict[str, int] = {}  # of those that were admitted and have not left
        self._waiting: dict[str, int] = {}  # in order; the size is 0 until it is known
        self._is_closed = False

    def enter(self, video_id: str) -> None:
        """Put a video at the end of the queue."""
        with self._changed:
            self._waiting[video_id] = 0

    def wait(self, video_id: str, size: int) -> None:
        """Wait until a video is admitted.

        Raises:
            CancelledError: nobody needs it any more.
        """
        with self._changed:
            if video_id in self._waiting:
                self._waiting[video_id] = size
            self._changed.wait_for(lambda: self._may_begin(video_id, size))
            if self._is_closed:
                raise CancelledError
            self._waiting.pop(video_id, None)
            self._sizes[video_id] = size
            self._changed.notify_all()

    def admit(self, video_id: str) -> None:
        """Admit a video that is needed now."""
        with self._changed:
            self._waiting.pop(video_id, None)
            self._changed.notify_all()

    def leave(self, video_id: str) -> None:
        """Release the bytes of a video."""
        with self._changed:
            self._sizes.pop(video_id, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop admitting videos."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def most_bytes(self) -> int:
        """Return how much memory reading may need until the next video is opened."""
        with self._changed:
            known = [*self._sizes.values(), *self._waiting.values()]
        return self._limit_bytes + max(known, default=0)

    def _may_begin(self, video_id: str, size: int) -> bool:
        if self._is_closed or video_id not in self._waiting:
            return True
        is_first = next(iter(self._waiting)) == video_id
        held = sum(self._sizes.values())
        return is_first and (not self._sizes or held + size <= self._limit_bytes)


def _size_of(entry: VideoEntry) -> int:
    """Return the bytes of a video; 0 if they cannot be found, which reading it will report."""
    if entry.size is not None:
        return entry.size
    with suppress(StorageError, ValueError):
        return Storage.from_uri(entry.uri).version()[0] or 0
    return 0
