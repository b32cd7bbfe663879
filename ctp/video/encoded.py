"""A video as it lies in storage, and the error of one that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodedVideo:
    """A video as it lies in storage.

    Attributes:
        id: stable name inside its catalogue.
        uri: where it was read from, for messages.
        data: the encoded file.
        label: class name, if the catalogue has one.
    """

    id: str
    uri: str
    data: bytes
    label: str | None = None


class VideoError(ValueError):
    """A video that cannot be used. It costs itself, never the run.

    Attributes:
        video_id, uri: which one.
        reason: what is wrong with it, in one line.
    """

    def __init__(self, video_id: str, uri: str, reason: str):
        super().__init__(f"video {video_id!r} ({uri}): {reason}")
        self.video_id, self.uri, self.reason = video_id, uri, reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str]]:
        return type(self), (self.video_id, self.uri, self.reason)  # crosses processes whole
