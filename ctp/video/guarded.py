"""Work on videos, one after the other, in a process that may be lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

from ctp.isolation import MAX_LOSSES, Isolated, LostError
from ctp.video.encoded import VideoError


class Named(Protocol):
    """What has a video's name and place."""

    @property
    def id(self) -> str: ...
    @property
    def uri(self) -> str: ...


V = TypeVar("V", bound=Named)
R = TypeVar("R")


class Guarded(Generic[V, R]):
    """A function of a video in a child process: a video that crashes or hangs it costs itself. For
    use in a `with` statement."""

    def __init__(self, make: Callable[[], Callable[[V], R]], *, video_seconds: float):
        """Start nothing yet.

        Args:
            make: called once in each child, gives the function, which names the video's id by
                `isolation.working_on` while it decodes. Picklable, see `Isolated`.
            video_seconds: how long that may take.
        """
        self._child = Isolated(make, item_seconds=video_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, video: V) -> R:
        """The function's result.

        Raises:
            VideoError: the function's, or the video took `MAX_LOSSES` processes with it.
            LostError: the process ended while it worked on no video.
        """
        for _ in range(MAX_LOSSES):
            try:
                result: R = self._child.call(video)
                return result
            except LostError as error:
                if not error.item:
                    raise
                lost = error
        raise VideoError(video.id, video.uri, f"the decoder {lost.reason}") from lost

    def close(self) -> None:
        """End the process."""
        self._child.close()
