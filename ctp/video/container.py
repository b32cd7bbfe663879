"""Open a video file with FFmpeg, within limits."""

from __future__ import annotations

import io

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext

from ctp.video.encoded import DecodingError, decoding_errors
from ctp.video.file_bytes import StoredFile
from ctp.video.limits import DecodingLimits

MediaFile = io.BytesIO | io.BufferedReader | StoredFile
"""A file that FFmpeg can read and seek in."""


def open_container(
    file: MediaFile, options: dict[str, str], hwaccel: HWAccel | None = None
) -> InputContainer:
    """Open a file.

    Args:
        file: the file.
        options: FFmpeg's, those of `DecodingLimits`.
        hwaccel: what decodes in place of the CPU.

    Raises:
        DecodingError: it is no video.
    """
    with decoding_errors("cannot be opened as a video"):
        try:
            # the metadata of some real files is not UTF-8
            return av.open(file, "r", options=options, metadata_errors="replace", hwaccel=hwaccel)
        except av.error.ArgumentError as error:  # all that FFmpeg says of a refused format
            raise DecodingError("is in no format of FFmpeg that can hold a video") from error


def find_stream(container: InputContainer, limits: DecodingLimits) -> av.VideoStream:
    """Return the first video of a file, ready to be decoded by this thread.

    Raises:
        DecodingError: there is none, its codec is unknown, or its pictures are too large.
    """
    # a picture attached to an audio file is not a video
    attached = av.stream.Disposition.attached_pic
    streams = [each for each in container.streams.video if not each.disposition & attached]
    if not streams:
        raise DecodingError("has no video stream")
    codec: VideoCodecContext | None = streams[0].codec_context  # the stubs do not include None
    if codec is None:
        raise DecodingError("has a codec that FFmpeg cannot decode")
    limits.check_size(codec.width, codec.height)
    # frame threads with an early stop can hang, and actors use the cores already
    codec.thread_count = 1
    codec.options = limits.codec_options
    return streams[0]
