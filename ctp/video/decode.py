"""Decoding of just the frames asked for, by PyAV.

A first pass reads packet headers only and gives every frame's presentation time; what a clip
needs is then found by time, whatever the container's header claims. AVI and bare streams store
no presentation times (B-frames make the guessed ones wrong), so there, and wherever times are
missing or doubled, frames are counted from the start in the order in which the decoder shows them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ctp.clip import EncodedVideo, VideoError

MAX_ASPECT_RATIO = 16
"""A longer strip would fill the memory when its shorter side is scaled up."""
MISSING_SHARE = 0.1
"""A file is taken as truncated when its header promises this much more than it holds."""
TIMELESS = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo"})
"""Formats that store no presentation times: what FFmpeg gives is a guess."""


class VideoReader:
    """An open video, for use in a `with` statement.

    Attributes:
        num_frames: how many frames it has; where frames are counted (see the module) a last one
            or two may turn out not to be shown by the decoder.
    """

    def __init__(self, video: EncodedVideo):
        """Open the video and find its frames.

        Raises:
            VideoError: it is not a video, has no picture, or is truncated.
        """
        self._video = video
        self._reformatter = VideoReformatter()  # one for all: a converter is costly to build
        self._container, self._stream = self._open()
        try:
            self._times, self._keys = self._index()
        except BaseException:
            self._container.close()
            raise
        self.num_frames = len(self._times)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    def read(self, indices: Sequence[int], *, short_side_px: int) -> NDArray[np.uint8]:
        """Decode frames, scaled so that the shorter side has the length asked for.

        Args:
            indices: frame numbers, never falling, repeats allowed, each below `num_frames`.
            short_side_px: length of the shorter side of what is returned.

        Returns:
            uint8 [len(indices), h, w, 3], RGB, upright if the file asks for a rotation.

        Raises:
            VideoError: a frame cannot be decoded, or is of another size than the rest.
        """
        wanted = sorted(set(indices))
        with self._reported("cannot be decoded"):
            if isinstance(self._times, range):
                found = self._decode_by_count(wanted, short_side_px)
            else:
                found = self._decode_by_time(wanted, self._times, short_side_px)
        if len({picture.shape for picture in found.values()}) > 1:
            raise self._error("changes its picture size on the way")
        return np.stack([found[i] for i in indices])

    def _open(self) -> tuple[InputContainer, av.VideoStream]:
        with self._reported("cannot be opened as a video"):
            # some genuine files carry metadata that is not UTF-8
            container = av.open(io.BytesIO(self._video.data), "r", metadata_errors="replace")
        try:
            return container, self._find_stream(container)
        except BaseException:
            container.close()
            raise

    def _find_stream(self, container: InputContainer) -> av.VideoStream:
        # a picture attached to an audio file is no video
        streams = [
            s
            for s in container.streams.video
            if not s.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise self._error("has no video stream")
        stream = streams[0]
        codec: VideoCodecContext | None = stream.codec_context  # the stubs do not know of None
        if codec is None:
            raise self._error("is of a codec that FFmpeg cannot decode")
        # frame threads with an early stop can hang, and actors use the cores already
        codec.thread_count = 1
        return stream

    def _index(self) -> tuple[list[int] | range, list[int]]:
        """Presentation times in order (a range of counts where there are none), and those of the
        key frames."""
        times: list[int | None] = []
        keys: list[int | None] = []
        num_packets = 0
        with self._reported("cannot be read to its end"):
            for packet in self._container.demux(self._stream):
                num_packets += packet.size > 0
                if packet.size and not packet.is_discard:
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        self._check_whole(num_packets)
        if not times:
            raise self._error("has no frames")
        known = {time for time in times if time is not None}
        if len(known) < len(times) or self._container.format.name in TIMELESS:
            return range(len(times)), []
        return sorted(known), sorted(time for time in keys if time is not None)

    def _check_whole(self, num_packets: int) -> None:
        # an MP4's header counts what its edit list cuts away, too; its index does not
        is_mp4 = "mp4" in self._container.format.name
        promised = len(self._stream.index_entries) if is_mp4 else self._stream.frames
        if promised > num_packets * (1 + MISSING_SHARE):
            raise self._error(f"is truncated: {num_packets} of {promised} frames are there")

    def _decode_by_time(
        self, wanted: list[int], times: list[int], short_side_px: int
    ) -> dict[int, NDArray[np.uint8]]:
        """Decode the frames of the sorted numbers `wanted`, as number -> picture."""
        found: dict[int, NDArray[np.uint8]] = {}
        keys = [key for key in self._keys if key <= times[wanted[0]]]
        # some containers seek too late and some key frames are none: then from further back
        for start in [*keys[:-3:-1], None]:
            with suppress(av.FFmpegError):  # what is missing in the end is said below
                for number, frame in self._frames_at([times[i] for i in wanted], start):
                    found[wanted[number]] = self._to_rgb(frame, short_side_px)
            if len(found) == len(wanted):
                return found
        missing = next(i for i in wanted if i not in found)
        raise self._error(f"frame {missing} of {self.num_frames} cannot be decoded")

    def _frames_at(
        self, times: list[int], start: int | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames shown at the rising `times`, as (place in `times`, frame), up to the first
        that is not there."""
        number = 0
        for frame in self._frames_from(start):
            if frame.pts == times[number]:
                yield number, frame
                number += 1
            elif frame.pts is None or frame.pts > times[number]:
                return
            if number == len(times):
                return

    def _decode_by_count(
        self, wanted: list[int], short_side_px: int
    ) -> dict[int, NDArray[np.uint8]]:
        found: dict[int, NDArray[np.uint8]] = {}
        left = set(wanted)
        frame, count = None, 0
        for count, frame in enumerate(self._frames_from(None), start=1):
            if count - 1 in left:
                found[count - 1] = self._to_rgb(frame, short_side_px)
                left.remove(count - 1)
            if not left:
                return found
        # packed B-frames: packets that show nothing; the last picture stands for them
        if frame is None or count < self.num_frames * (1 - MISSING_SHARE):
            raise self._error(f"only {count} of {self.num_frames} frames can be decoded")
        last = self._to_rgb(frame, short_side_px)
        return found | dict.fromkeys(left, last)

    def _frames_from(self, key: int | None) -> Iterator[av.VideoFrame]:
        """Decoded frames from the key frame at a time, or from the file's start."""
        if key is None:
            self._container.close()  # not every container can seek back to its start
            self._container, self._stream = self._open()
        else:
            self._container.seek(key, stream=self._stream)
        yield from self._container.decode(self._stream)

    def _to_rgb(self, frame: av.VideoFrame, short_side_px: int) -> NDArray[np.uint8]:
        """Scale and convert in one go, then turn upright."""
        sides = sorted((frame.width, frame.height))
        if sides[1] > MAX_ASPECT_RATIO * sides[0]:
            raise self._error(f"is a strip of {frame.width}x{frame.height} pixels")
        scale = short_side_px / sides[0]
        rgb: NDArray[Any] = self._reformatter.reformat(
            frame,
            width=max(round(frame.width * scale), short_side_px),
            height=max(round(frame.height * scale), short_side_px),
            format="rgb24",
            interpolation=Interpolation.BILINEAR,
        ).to_ndarray()
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        return rgb if matrix is None else _upright(rgb, np.frombuffer(matrix, np.int32))

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        try:
            yield
        except VideoError:
            raise
        except av.FFmpegError as error:
            said = str(error.strerror or error)
            raise self._error(f"{what}: {' '.join(said.split())}") from error

    def _error(self, reason: str) -> VideoError:
        return VideoError(self._video.id, self._video.uri, reason)


def _upright(rgb: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn and mirror a picture in quarter turns, as FFmpeg's display matrix says."""
    # where a step to the right and one down in the stored picture lead on the screen, as (x, y)
    right, down = matrix.reshape(3, 3)[:2, :2]
    if abs(right[1]) > abs(right[0]):
        rgb, right, down = rgb.swapaxes(0, 1), down, right
    return rgb[:: -1 if down[1] < 0 else 1, :: -1 if right[0] < 0 else 1]
