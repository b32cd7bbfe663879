"""Decode a long video from its start to its end, in flat memory, and continue after damage.

`ctp.video.decode` finds single frames and refuses a video that is damaged anywhere. This module
reads a file once, in order: it keeps no packet and no frame, and what is broken costs only the
frames up to the next key frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import av
from av.container import InputContainer

from ctp.video.container import MediaFile, find_stream, open_container
from ctp.video.decode import DEFAULT_RATE
from ctp.video.encoded import DecodingError, checked, decoding_errors
from ctp.video.limits import DEFAULT_LIMITS, DecodingLimits
from ctp.video.orientation import Orientation, display_matrix

MIN_STEP_SHARE = 0.01
"""Least time between two frames, as a share of the usual one; a shorter one is an error of the
file."""


class SequenceFrame(NamedTuple):
    """A frame of a video that is decoded in order.

    Attributes:
        number: of the frame, from 0.
        seconds: when it is shown after the first frame; strictly rising.
        frame: the picture, valid until the next one is decoded.
        is_damaged: whether what it shows may be wrong.
    """

    number: int
    seconds: float
    frame: av.VideoFrame
    is_damaged: bool


@dataclass
class Sequence:
    """A video that is decoded in order.

    Attributes:
        damage: what went wrong so far, a line for each stretch of broken frames.
    """

    _container: InputContainer
    _stream: av.VideoStream
    _limits: DecodingLimits
    damage: list[str] = field(default_factory=list)

    def frames(self) -> Iterator[SequenceFrame]:
        """Decode all frames in the order in which they are shown.

        Raises:
            DecodingError: a picture is larger than the limits allow, or no frame can be decoded.
        """
        clock = _RisingClock(self._stream)
        orientation: Orientation | None = None
        number = -1
        for number, (frame, is_damaged) in enumerate(self._decoded()):
            self._limits.check_size(frame.width, frame.height)
            if orientation is None:  # players turn the whole video or none of it
                with decoding_errors("has frames that cannot be converted"):
                    orientation = Orientation(display_matrix(frame))
            frame.opaque = orientation
            yield SequenceFrame(number, clock.seconds(frame), frame, is_damaged)
        if number < 0:
            raise DecodingError(self.damage[0] if self.damage else "has no frames")

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Decode; yield each frame, and whether it may show damage."""
        has_started = is_broken = False
        for packet in self._packets():
            try:
                with decoding_errors("cannot be decoded"):
                    frames = packet.decode()
            except DecodingError as error:
                # before the first key frame there is nothing to lose
                if has_started and not is_broken:
                    self._add_damage(packet, str(error))
                    is_broken = True
                continue
            for frame in frames:
                has_started = True
                # pictures after an error are predicted from what is broken
                is_broken = (is_broken and not frame.key_frame) or frame.is_corrupt
                yield frame, is_broken
        yield from ((frame, is_broken) for frame in self._held_frames())

    def _held_frames(self) -> list[av.VideoFrame]:
        """Return the frames that the decoder still holds at the end."""
        try:
            with decoding_errors("cannot be decoded"):
                return self._stream.decode()
        except DecodingError as error:
            self.damage.append(f"{error} at its end")
            return []

    def _packets(self) -> Iterator[av.Packet[Any]]:
        """Yield all packets with content, up to where the file cannot be read any further."""
        has_advanced = True
        while has_advanced:  # damage may end one pass, and the next one continues behind it
            has_advanced = False
            try:
                packets = self._container.demux(self._stream)
                for packet in checked(packets, "cannot be read to its end"):
                    if packet.size:
                        has_advanced = True
                        yield packet
                return
            except DecodingError as error:
                self.damage.append(str(error))

    def _add_damage(self, packet: av.Packet[Any], reason: str) -> None:
        time = packet.pts if packet.pts is not None else packet.dts
        base = self._stream.time_base
        where = "" if time is None or base is None else f" at {float(time * base):.2f} s"
        self.damage.append(f"{reason}{where}")


@contextmanager
def open_sequence(
    file: MediaFile,
    limits: DecodingLimits = DEFAULT_LIMITS,
    codec_options: Mapping[str, str] | None = None,
) -> Iterator[Sequence]:
    """Open a video to be decoded in order, for use in a `with` statement.

    Args:
        file: a readable file that can seek; it is read in small pieces.
        limits: the limits of decoding.
        codec_options: further options of FFmpeg's decoder.

    Raises:
        DecodingError: it is no video, or its codec cannot be decoded.
    """
    container = open_container(file, limits.open_options)
    try:
        with decoding_errors("has damaged headers"):
            stream = find_stream(container, limits)
            stream.codec_context.options = limits.codec_options | dict(codec_options or {})
        yield Sequence(container, stream, limits)
    finally:
        container.close()


class _RisingClock:
    """Gives each frame a time that is later than that of the frame before."""

    def __init__(self, stream: av.VideoStream):
        self._base = float(stream.time_base or 0)
        self._step = 1 / float(stream.average_rate or DEFAULT_RATE)
        self._origin: float | None = None
        self._last = 0.0

    def seconds(self, frame: av.VideoFrame) -> float:
        """Return the time after the first frame; if the file's is missing, by its rate."""
        stored = None if frame.pts is None else frame.pts * self._base
        if self._origin is None:
            self._origin = stored or 0.0
            return self._last
        seconds = None if stored is None else stored - self._origin
        if seconds is None or seconds < self._last + MIN_STEP_SHARE * self._step:
            seconds = self._last + self._step
        self._last = seconds
        return seconds
