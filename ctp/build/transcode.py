"""Videos coded anew for training: small pictures, short closed groups of them, nothing to reorder.

A clip of random frames then costs the decoding of few pictures, each of few pixels. Whatever came,
what goes out is H.264 of 8 bits, upright, BT.601, in an MP4 file with its index at the front.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from ctp.build.config import TranscodeConfig
from ctp.video.decode import Clock, VideoReader
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.planes import upright

PICTURE_SIZE_CHANGES = "changes its picture size on the way"


@dataclass(frozen=True)
class Facts:
    """What a video shows.

    Attributes:
        num_frames: how many frames.
        rate: frames/s, on average.
        width, height: pixels, upright.
    """

    num_frames: int
    rate: float
    width: int
    height: int


def transcode(video: EncodedVideo, config: TranscodeConfig) -> bytes:
    """Code a video anew: the same frames at the same times, without sound.

    Equal videos give equal bytes, with the same release of the coder.

    Returns:
        an MP4 file.

    Raises:
        VideoError: it is not a video, is truncated, or a frame cannot be decoded.
    """
    with VideoReader(video) as reader, _Encoder(config, reader.clock) as encoder:
        reader.decode(range(reader.num_frames), encoder.take)
        assert encoder.num_taken == reader.num_frames
        try:
            return encoder.finish()
        except ValueError as error:
            raise VideoError(video.id, video.uri, str(error)) from error


def encode_frames(
    frames: Iterable[NDArray[np.uint8]], num_frames: int, rate: Fraction, config: TranscodeConfig
) -> bytes:
    """Code pictures into a video as `transcode` does.

    Args:
        frames: pictures uint8 [h, w, 3], RGB, all of one size.
        num_frames: how many there are.
        rate: frames/s.

    Returns:
        an MP4 file.

    Raises:
        ValueError: the pictures are of different sizes, or cannot be coded.
    """
    with _Encoder(config, Clock.steady(num_frames, rate)) as encoder:
        for number, picture in enumerate(frames):
            encoder.take(number, av.VideoFrame.from_ndarray(picture, format="rgb24"))
        return encoder.finish()


def inspect(video: EncodedVideo) -> Facts:
    """Find out what a video shows; decodes its first frame only.

    Raises:
        VideoError: it is not a video, is truncated, or its first frame cannot be decoded.
    """
    sizes: list[tuple[int, int]] = []

    def look(number: int, frame: av.VideoFrame) -> None:
        turned = _turned(frame)
        sizes.append((turned.width, turned.height))

    with VideoReader(video) as reader:
        reader.decode([0], look)
        return Facts(reader.num_frames, reader.clock.rate, *sizes[0])


def stored_size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """Width and height of a picture when it is coded anew: even, never larger than it was."""
    scale = min(short_side_px / min(width, height), 1.0)
    # rounded to even numbers; a picture of one pixel gets two
    return max(round(width * scale / 2), 1) * 2, max(round(height * scale / 2), 1) * 2


class _Encoder:
    """Codes frames as they come, for use in a `with` statement."""

    def __init__(self, config: TranscodeConfig, clock: Clock):
        self._config, self._clock = config, clock
        self._reformatter = VideoReformatter()
        self._picture_size: tuple[int, int] | None = None
        self.num_taken = 0

    def __enter__(self) -> _Encoder:
        # a file, for the muxer moves the index to the front at the end
        self._file = tempfile.NamedTemporaryFile(suffix=".mp4")
        self._container: OutputContainer = av.open(
            self._file.name, "w", format="mp4", options={"movflags": "faststart"}
        )
        self._stream: Any = self._container.add_stream("libx264", options=_options(self._config))
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()
        self._file.close()

    def take(self, number: int, frame: av.VideoFrame) -> None:
        """Code the frame if it is the next one; a decoder may give some twice.

        Raises:
            ValueError: it is of another size than the first, or cannot be coded.
        """
        if number != self.num_taken:
            return
        turned = _turned(frame)
        if self._picture_size is None:
            self._picture_size = turned.width, turned.height
            self._set_up(*stored_size(turned.width, turned.height, self._config.short_side_px))
        if self._picture_size != (turned.width, turned.height):
            raise ValueError(PICTURE_SIZE_CHANGES)
        self._encode(self._scaled(turned))
        self.num_taken += 1

    def finish(self) -> bytes:
        """The file."""
        self._encode(None)
        self._container.close()
        self._file.seek(0)
        return self._file.read()

    def _set_up(self, width: int, height: int) -> None:
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = self._clock.time_base
        context.thread_count = 1  # the same bytes on every machine, and one core for each shard
        context.color_range = ColorRange.MPEG

    def _scaled(self, frame: av.VideoFrame) -> av.VideoFrame:
        scaled = self._reformatter.reformat(
            frame,
            width=self._stream.width,
            height=self._stream.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        scaled.pts, scaled.time_base = self._clock.times[self.num_taken], self._clock.time_base
        scaled.pict_type = PictureType.NONE  # not what it was in the source
        return scaled

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise ValueError(f"cannot be coded: {error.strerror or error}") from error


def _options(config: TranscodeConfig) -> dict[str, str]:
    gop = str(config.gop_frames)
    return {
        "preset": config.preset,
        "tune": "fastdecode",
        "crf": str(config.crf),
        "g": gop,
        "keyint_min": gop,
        "sc_threshold": "0",  # key frames at equal distances, whatever is cut in the picture
        "bf": "0",
        # looking ahead gains nothing in groups so short, and its result is not always the same
        "rc-lookahead": "0",
        "flags": "+cgop",
    }


def _turned(frame: av.VideoFrame) -> av.VideoFrame:
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return frame
    picture: NDArray[Any] = frame.to_ndarray(format="rgb24")
    picture = np.ascontiguousarray(upright(picture, np.frombuffer(matrix, np.int32)))
    return av.VideoFrame.from_ndarray(picture, format="rgb24")
