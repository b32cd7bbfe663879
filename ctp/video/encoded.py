"""An encoded video, and the errors for a video that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ctp.storage import StorageError
from ctp.text import one_line

T = TypeVar("T")


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


SIZE_CHANGES = "has frames of different sizes"
"""The reason to quarantine such a video."""


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


@contextmanager
def permanent_errors(video_id: str, uri: str) -> Iterator[None]:
    """Turn a StorageError that is the file's fault, and not the storage's, into VideoError.

    Raises:
        VideoError: the file does not exist, may not be read, or has changed.
        StorageError: the storage fails.
    """
    try:
        yield
    except StorageError as error:
        if not error.is_permanent:
            raise
        raise VideoError(video_id, uri, one_line(f"cannot be read: {error}")) from error


class DecodingError(ValueError):
    """A video cannot be decoded. The message is the reason, which completes "the video …"."""


PASSED_ON = (AssertionError, DecodingError, VideoError, StorageError)
"""Errors that are not converted: an impossible state is an error of the program, also inside a
library; a storage that fails while a library reads a file is not the fault of the video."""


@contextmanager
def decoding_errors(what: str) -> Iterator[None]:
    """Turn whatever a decoding library raises inside the block into DecodingError.

    Use it around calls into such a library and around code that computes with numbers out of the
    file, and around nothing else: there, an exception of any type is the fault of the video.
    Damaged files make PyAV raise IndexError, UnicodeDecodeError, OverflowError and others beside
    its own errors. Elsewhere, the same exceptions are errors of the program, which must stop it.

    Args:
        what: completes "the video …", for example "cannot be opened".

    Raises:
        DecodingError: the library raised an exception.
    """
    try:
        yield
    except PASSED_ON:
        raise
    except Exception as error:
        raise _to_decoding_error(error, what) from error


def checked(items: Iterator[T], what: str) -> Iterator[T]:
    """Yield what a decoding library yields; its exceptions become those of `decoding_errors`.

    Exceptions of the loop that consumes the items are not affected.
    """
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except PASSED_ON:
            raise
        except Exception as error:
            raise _to_decoding_error(error, what) from error
        yield item


def _to_decoding_error(error: Exception, what: str) -> DecodingError:
    if isinstance(error, MemoryError):
        return DecodingError(f"{what}: it asks for more memory than is allowed")
    return DecodingError(f"{what}: {_describe(error)}")


def _describe(error: Exception) -> str:
    """Return an exception of a library as one line."""
    of_ffmpeg: object = getattr(error, "strerror", None)
    # of other exceptions the type, too, since the message of an IndexError says little
    return one_line(of_ffmpeg or f"{type(error).__name__}: {error}")
