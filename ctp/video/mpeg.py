"""Headers of MPEG-1, MPEG-2 and MPEG-4 part 2."""

from __future__ import annotations

import re

from ctp.video.headers import START_CODE, Bits, Header, Headers, UncertainError, find_all

I_VOP, B_VOP = 0, 2
"""Coding types of MPEG-4."""
PACKED = re.compile(rb"DivX\d+(Build|b)\d+p")
"""User data of MPEG-4 that announces packed B-frames; DivX and Xvid write it."""
B_PICTURE = 3
"""Coding type of MPEG-1 and MPEG-2."""


class Mpeg4Headers(Headers):
    """MPEG-4 part 2 (ISO/IEC 14496-2, 6.2)."""

    def __init__(self, extradata: bytes):
        self._units_per_second = 0  # unknown
        self._num_references = 0
        # of the last two reference VOPs: second in which it is shown, and time in units
        self._seconds, self._times = [0, 0], [0, 0]
        self._is_packed = False
        self._add_layers(extradata)

    def read(self, data: bytes, is_key: bool) -> Header:
        self._add_layers(data)
        kinds = [self._read_vop(data, at) for at in find_all(data, b"\0\0\1\xb6")]
        coded = [kind for kind in kinds if kind is not None]
        if not coded:
            return Header(0)
        if len(coded) > 1 and not self._is_packed:
            raise UncertainError("several VOPs in a packet")
        is_b = coded[0] == B_VOP
        return Header(
            len(coded),
            is_key=coded[0] == I_VOP,
            is_leading=is_b and self._num_references < 2,
            is_reordered=is_b,
        )

    @property
    def num_time_bits(self) -> int:
        """Return the length of a VOP's time within its second."""
        if not self._units_per_second:
            raise UncertainError("no video object layer")
        return max((self._units_per_second - 1).bit_length(), 1)

    @property
    def is_packed(self) -> bool:
        """Return whether packets may hold several VOPs."""
        return self._is_packed

    def _add_layers(self, data: bytes) -> None:
        """Read what is before the first picture."""
        at = data.find(START_CODE)
        while 0 <= at < len(data) - 4:
            if 0x20 <= data[at + 3] <= 0x2F:
                self._units_per_second = _units_per_second(data[at + 4 : at + 40])
            elif data[at + 3] == 0xB2:
                self._is_packed |= PACKED.match(data, at + 4) is not None
            elif data[at + 3] == 0xB6:
                return
            at = data.find(START_CODE, at + 3)

    def _read_vop(self, data: bytes, at: int) -> int | None:
        """Return 0 to 3 for I, P, B, S; None if the VOP is not coded (6.2.5)."""
        bits = Bits(data[at + 4 : at + 24])
        kind = bits.take(2)
        seconds = 0
        while bits.take(1):
            seconds += 1
        bits.take(1)
        units = bits.take(self.num_time_bits)
        bits.take(1)
        is_coded = bits.take(1)
        if kind == B_VOP:
            time = (self._seconds[0] + seconds) * self._units_per_second + units
            is_between = self._times[0] < time < self._times[1]
            if is_coded and self._num_references >= 2 and not is_between:
                raise UncertainError("a B-VOP without its reference pictures")
        elif is_coded:
            self._num_references += 1
            self._seconds = [self._seconds[1], self._seconds[1] + seconds]
            time = self._seconds[1] * self._units_per_second + units
            self._times = [self._times[1], time]
        return kind if is_coded else None


def _units_per_second(layer: bytes) -> int:
    """Return the resolution of a VOP's time from the header of its layer (6.2.3)."""
    bits = Bits(layer)
    bits.take(9)
    version = 1
    if bits.take(1):
        version = bits.take(4)
        bits.take(3)
    if bits.take(4) == 15:
        bits.take(16)  # pixel aspect ratio
    if bits.take(1):
        bits.take(3)
        if bits.take(1):
            bits.take(79)  # buffer sizes and rates
    if bits.take(2) == 3 and version != 1:
        bits.take(4)
    bits.take(1)
    return bits.take(16)


class Mpeg2Headers(Headers):
    """MPEG-1 and MPEG-2 (ISO/IEC 13818-2, 6.2)."""

    def __init__(self, extradata: bytes):
        self._num_references = 0
        self._is_closed = False
        # places of the last two reference pictures in their group of pictures
        self._places = [-1, -1]

    def read(self, data: bytes, is_key: bool) -> Header:
        for at in find_all(data, b"\0\0\1\xb8"):
            self._is_closed = bool(Bits(data[at + 4 : at + 8]).take(26) & 1)  # after the time
            self._places = [-1, -1]
        pictures = find_all(data, b"\0\0\1\0")
        if not pictures:
            return Header(0)
        if len(pictures) > 1 or self._is_field(data, pictures[0]):
            raise UncertainError("fields")
        bits = Bits(data[pictures[0] + 4 : pictures[0] + 6])
        place, kind = bits.take(10), bits.take(3)
        is_b = kind == B_PICTURE
        if not is_b:
            self._num_references += 1
            self._places = [self._places[1], place]
        elif not self._places[0] < place < self._places[1]:
            raise UncertainError("a B-picture without its reference pictures")
        is_leading = is_b and self._num_references < 2 and not self._is_closed
        return Header(is_key=kind == 1, is_leading=is_leading, is_reordered=is_b)

    @staticmethod
    def _is_field(data: bytes, picture: int) -> bool:
        at = data.find(b"\0\0\1\xb5", picture)
        is_extension = 0 <= at < len(data) - 6 and data[at + 4] >> 4 == 8
        return is_extension and data[at + 6] & 3 != 3
