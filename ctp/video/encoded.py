"""An encoded video, and the error for a video that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedVideo:
    """An encoded video.

    Attributes:
        id: stable name inside its catalogue.
        uri: where it was read from, for messages.
        data: the encoded file.
        label: class name, or None.
        num_frames: number of pictures that FFmpeg shows, if it was recorded, or None.
    """

    id: str
    uri: str
    data: bytes
    label: str | None = None
    num_frames: int | None = None


class VideoError(ValueError):
    """A video cannot be used. The run continues without it.

    Attributes:
        video_id, uri: the video.
        reason: why it cannot be used, in one line.
    """

    def __init__(self, video_id: str, uri: str, reason: str):
        super().__init__(f"video {video_id!r} ({uri}): {reason}")
        self.video_id, self.uri, self.reason = video_id, uri, reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str]]:
        return type(self), (self.video_id, self.uri, self.reason)  # args hold the message only
