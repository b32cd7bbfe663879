"""Transcode videos for training: small frames, of which a clip needs few others.

With the codec mpeg4, every frame is a key frame, so that a clip decodes its own frames and no
others. MPEG-4 part 2 has less to do for a frame than H.264 without references: at an equal error it
decodes in 0.6 of the time and needs 1.2 times the bytes. With h264, groups of pictures are short
and closed, without B-frames. The output is always 8-bit, upright, BT.601, in an MP4 file with its
index at the front.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from ctp.build.config import TranscodeConfig
from ctp.storage import temporary_file_error
from ctp.video.decode import DEFAULT_RATE, Clock, VideoReader
from ctp.video.encoded import SIZE_CHANGES, EncodedVideo, VideoError, decoding_errors
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits
from ctp.video.orientation import display_matrix, upright

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Facts:
    """Properties of a video.

    Attributes:
        num_frames: number of frames.
        rate: average frames/s.
        width, height: pixels, upright.
    """

    num_frames: int
    rate: float
    width: int
    height: int


def transcode(
    video: EncodedVideo, config: TranscodeConfig, limits: DecodingLimits = DEFAULT_LIMITS
) -> bytes:
    """Transcode a video: the same frames at the same times, without sound.

    The same release of the encoder gives the same bytes for the same video.

    Returns:
        an MP4 file.

    Raises:
        VideoError: it is not a video, is truncated, exceeds the limits, or a frame cannot be
            decoded.
    """
    with VideoReader(video, limits) as reader:
        clock = reader.clock
        with VideoEncoder(config, clock.time_base) as encoder:
            reader.decode(
                range(reader.num_frames),
                lambda number, frame: encoder.add(number, frame, clock.times[number]),
            )
            assert encoder.num_frames == reader.num_frames
            try:
                return encoder.finish()
            except ValueError as error:
                raise VideoError(video.id, video.uri, str(error)) from error


def encode_frames(
    frames: Iterable[NDArray[np.uint8]], num_frames: int, rate: Fraction, config: TranscodeConfig
) -> bytes:
    """Encode frames into a video like `transcode`.

    Args:
        frames: uint8 [h, w, 3] each, RGB, all of one size.
        num_frames: their number.
        rate: frames/s.
        config: how to encode.

    Returns:
        an MP4 file.

    Raises:
        ValueError: the frames have different sizes, or cannot be encoded.
    """
    clock = Clock.from_rate(num_frames, rate)
    with VideoEncoder(config, clock.time_base) as encoder:
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            encoder.add(number, picture, clock.times[number])
        return encoder.finish()


def inspect(video: EncodedVideo, limits: DecodingLimits = DEFAULT_LIMITS) -> Facts:
    """Return the properties of a video; decodes only its first frame.

    Raises:
        VideoError: it is not a video, is truncated, exceeds the limits, or its first frame cannot
            be decoded.
    """
    sizes: list[tuple[int, int]] = []

    def add_size(number: int, frame: av.VideoFrame) -> None:
        frame = _upright(frame)
        sizes.append((frame.width, frame.height))

    with VideoReader(video, limits) as reader:
        reader.decode([0], add_size)
        return Facts(reader.num_frames, reader.clock.rate, *sizes[0])


def stored_size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """Return width and height of a transcoded frame: even, never larger than before."""
    scale = min(short_side_px / min(width, height), 1.0)
    # rounded to even numbers, at least 2
    return max(round(width * scale / 2), 1) * 2, max(round(height * scale / 2), 1) * 2


class VideoEncoder:
    """Encodes frame by frame, for use in a `with` statement."""

    def __init__(
        self,
        config: TranscodeConfig,
        time_base: Fraction,
        crop: tuple[int, int, int, int] | None = None,
    ):
        """Create an encoder.

        Args:
            config: how to encode.
            time_base: unit of the frames' times, in seconds.
            crop: x, y, width, height of the part to encode, in pixels as stored; None: all.
        """
        self._config, self._time_base, self._crop = config, time_base, crop
        # MPEG-4 has no units of time as short as those of many files, so packets get theirs later
        self._has_times = config.codec == "h264"
        self._times: list[int] = []
        self._num_packets = 0
        self._reformatter = VideoReformatter()
        self._source_size: tuple[int, int] | None = None

    @property
    def num_frames(self) -> int:
        """Return the number of frames that were encoded."""
        return len(self._times)

    @property
    def _encoder_base(self) -> Fraction:
        return self._time_base if self._has_times else 1 / DEFAULT_RATE

    def __enter__(self) -> Self:
        # a file, because the muxer moves the index to the front at the end
        self._file = tempfile.NamedTemporaryFile(suffix=".mp4")
        self._container: OutputContainer = av.open(
            self._file.name, "w", format="mp4", options={"movflags": "faststart"}
        )
        encoder, options = ENCODERS[self._config.codec]
        self._stream: Any = self._container.add_stream(encoder, options=options(self._config))
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()
        self._file.close()

    def add(self, number: int, frame: av.VideoFrame, time: int) -> None:
        """Encode the frame if it is the next one; a decoder may return some twice.

        Args:
            number: of the frame, from 0.
            frame: the picture.
            time: when it is shown, in units of `time_base`, strictly rising from 0.

        Raises:
            ValueError: its size differs from the first frame's, or it cannot be encoded.
        """
        if number != self.num_frames:
            return
        with decoding_errors("has frames that cannot be converted"):
            frame = _upright(frame, self._crop)
        if self._source_size is None:
            self._source_size = frame.width, frame.height
            self._set_up(*stored_size(frame.width, frame.height, self._config.short_side_px))
        if self._source_size != (frame.width, frame.height):
            raise ValueError(SIZE_CHANGES)
        with decoding_errors("has frames that cannot be converted"):
            scaled = self._scale(frame)
        scaled.pts = time if self._has_times else number
        scaled.time_base = self._encoder_base
        self._times.append(time)
        self._encode(scaled)

    def finish(self) -> bytes:
        """Return the file."""
        self._encode(None)
        with _encoding_errors():
            self._container.close()
        self._file.seek(0)
        return self._file.read()

    def _set_up(self, width: int, height: int) -> None:
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        with decoding_errors("has an invalid unit of time"):
            self._stream.time_base = self._time_base
            context.time_base = self._encoder_base
        context.thread_count = 1  # the same bytes on every machine; shards use the cores
        context.color_range = ColorRange.MPEG

    def _scale(self, frame: av.VideoFrame) -> av.VideoFrame:
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
        scaled.pict_type = PictureType.NONE  # the encoder decides, not the source
        return scaled

    def _encode(self, frame: av.VideoFrame | None) -> None:
        # its times, which are the video's, may exceed what the encoder or the container can store
        with _encoding_errors():
            for packet in self._stream.encode(frame):
                # packets have the order of the frames
                packet.pts = packet.dts = self._times[self._num_packets]
                packet.time_base = self._time_base
                self._num_packets += 1
                self._container.mux(packet)


@contextmanager
def _encoding_errors() -> Iterator[None]:
    """Turn an error of the encoder into DecodingError, and one of the disk into StorageError."""
    with decoding_errors("cannot be encoded"):
        try:
            yield
        except OSError as error:  # FFmpeg's errors are of this type, too
            if error.errno in DISK_ERRORS:
                raise temporary_file_error("a video", error) from error
            raise


def _mpeg4_options(config: TranscodeConfig) -> dict[str, str]:
    quantizer = str(config.quantizer)
    return {"qmin": quantizer, "qmax": quantizer, "g": "1"}


def _h264_options(config: TranscodeConfig) -> dict[str, str]:
    gop = str(config.gop_frames)
    return {
        "preset": config.preset,
        "tune": "fastdecode",
        "crf": str(config.crf),
        "g": gop,
        "keyint_min": gop,
        "sc_threshold": "0",  # key frames at equal distances, also at cuts
        "bf": "0",
        # no gain in such short groups, and its result is not reproducible
        "rc-lookahead": "0",
        "flags": "+cgop",
    }


ENCODERS = {"mpeg4": ("mpeg4", _mpeg4_options), "h264": ("libx264", _h264_options)}
"""Codec -> FFmpeg's encoder and its options."""


def _upright(frame: av.VideoFrame, crop: tuple[int, int, int, int] | None = None) -> av.VideoFrame:
    """Crop a frame and turn it upright.

    Args:
        frame: the frame.
        crop: x, y, width, height in pixels of the stored picture, before it is turned; None: all.
    """
    matrix = display_matrix(frame)
    if matrix is None and crop is None:
        return frame
    picture: NDArray[Any] = frame.to_ndarray(format="rgb24")
    if crop is not None:
        x, y, width, height = crop
        picture = picture[y : y + height, x : x + width]
    if matrix is not None:
        picture = upright(picture, matrix)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
