"""Headers of H.264 (ITU-T H.264) and H.265 (ITU-T H.265)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ctp.video.headers import START_CODE, Bits, Header, Headers, UncertainError

ORIENTATION_SEI, RECOVERY_SEI = 47, 6
"""Types of SEI messages."""
HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""H.264's profiles whose sequence parameter sets describe chroma and scaling (7.3.2.1.1)."""
SLICE_HEADER_BYTES = 32
"""Enough for the fields of a slice header that are read here."""


def split_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet.

    Args:
        data: the packet.
        length_bytes: bytes of the length before each unit; 0 if start codes separate them.
    """
    if length_bytes:
        at = 0
        while at + length_bytes < len(data):
            start = at + length_bytes
            at = start + int.from_bytes(data[at:start], "big")
            if at > start:
                yield data[start:at]
        return
    start = data.find(START_CODE)
    while start >= 0:
        start += len(START_CODE)
        end = data.find(START_CODE, start)
        unit = data[start : end if end >= 0 else len(data)]
        if unit:
            yield unit
        start = end


def unescape(unit: bytes) -> bytes:
    """Remove the bytes that keep start codes out of a NAL unit (H.264, 7.4.1)."""
    return unit.replace(b"\0\0\3", b"\0\0")


def sei_messages(unit: bytes, header_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield (type, payload) of the messages of an SEI unit (H.264, 7.3.2.3.1)."""
    body = unescape(unit)
    at = header_bytes
    while at + 2 < len(body):  # the last byte ends the unit
        sizes = []
        for _ in range(2):
            size = 0
            while at < len(body) and body[at] == 255:
                size, at = size + 255, at + 1
            if at == len(body):
                return
            sizes.append(size + body[at])
            at += 1
        yield sizes[0], body[at : at + sizes[1]]
        at += sizes[1]


def is_b_slice(first_byte: int) -> bool:
    """Return whether a first slice of H.264, from the byte after its NAL header, is a B slice."""
    # after the 1 for macroblock 0, the type in Exp-Golomb code: 1 is 010, 6 is 00111
    return (first_byte >> 4) & 7 == 0b010 or (first_byte >> 2) & 31 == 0b00111


def is_i_slice(first_byte: int) -> bool:
    """Return whether a first slice of H.264, from the byte after its NAL header, is an I slice."""
    return (first_byte >> 4) & 7 == 0b011 or first_byte & 127 == 0b0001000


class H264Sequence(NamedTuple):
    """Fields of H.264's sequence parameter set (7.3.2.1.1)."""

    has_colour_planes: bool
    frame_number_bits: int
    has_fields: bool

    @property
    def max_frame_number(self) -> int:
        """Return the upper bound of frame numbers; all are below it."""
        return 1 << self.frame_number_bits

    @classmethod
    def parse(cls, unit: bytes) -> H264Sequence:
        """Parse the NAL unit.

        Raises:
            UncertainError: it ends early.
        """
        bits = Bits(unescape(unit[1:]))
        profile = bits.take(8)
        bits.take(16)
        bits.golomb()  # id
        has_colour_planes = profile in HIGH_PROFILES and cls._skip_chroma(bits)
        frame_number_bits = _at_most_16(bits.golomb() + 4)
        order_type = bits.golomb()
        if order_type == 0:
            bits.golomb()
        elif order_type == 1:
            bits.take(1)
            for _ in range(2):
                bits.golomb()
            for _ in range(bits.golomb()):
                bits.golomb()
        bits.golomb()  # reference frames
        bits.take(1)
        for _ in range(2):
            bits.golomb()  # width and height
        return cls(has_colour_planes, frame_number_bits, not bits.take(1))

    @staticmethod
    def _skip_chroma(bits: Bits) -> bool:
        chroma = bits.golomb()
        has_colour_planes = chroma == 3 and bool(bits.take(1))
        for _ in range(2):
            bits.golomb()  # bit depths
        bits.take(1)
        if bits.take(1):
            for number in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
        return has_colour_planes


def _at_most_16(num_bits: int) -> int:
    """Return a number of bits, which a damaged header may make so large that memory ends."""
    if num_bits > 16:
        raise UncertainError(f"numbers of {num_bits} bits")
    return num_bits


def _skip_scaling_list(bits: Bits, length: int) -> None:
    last = 8
    for _ in range(length):
        following = (last + bits.signed_golomb()) % 256
        if not following:
            return
        last = following


def h264_parameters(extradata: bytes) -> list[bytes]:
    """Return the sequence parameter sets of H.264's extradata."""
    if extradata[:1] != b"\1":
        return [unit for unit in split_units(extradata, 0) if unit[0] & 31 == 7]
    found, at = [], 6
    for _ in range(extradata[5] & 31 if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[at : at + 2], "big")
        found.append(extradata[at + 2 : at + 2 + size])
        at += 2 + size
    return found


class H264Headers(Headers):
    def __init__(self, extradata: bytes):
        self.has_orientation = False
        self._length_bytes = (extradata[4] & 3) + 1 if extradata[:1] == b"\1" else 0
        self._sequence: H264Sequence | None = None
        self._units: set[bytes] = set()
        for unit in h264_parameters(extradata):
            self._add_sequence(unit)
        self._is_leading = False
        self._reference_number: int | None = None

    def read(self, data: bytes, is_key: bool) -> Header:
        recovery: int | None = None
        slices = []
        for unit in split_units(data, self._length_bytes):
            kind = unit[0] & 31
            if kind in {1, 5} and unit[1:2] >= b"\x80":  # the first slice of a picture
                slices.append(unit)
                if self._sequence is not None and not self._sequence.has_fields:
                    break  # there is one picture, and what matters is before its slices
            elif kind == 6:
                for message, payload in sei_messages(unit, 1):
                    self.has_orientation |= message == ORIENTATION_SEI
                    if message == RECOVERY_SEI:
                        recovery = Bits(payload).golomb()
            elif kind == 7:
                self._add_sequence(unit.rstrip(b"\0"))
        if not slices:
            raise UncertainError("a packet without a picture")
        return self._header(slices, recovery)

    def _header(self, slices: list[bytes], recovery: int | None) -> Header:
        first = slices[0]
        is_idr = first[0] & 31 == 5
        is_i, is_b = is_i_slice(first[1]), is_b_slice(first[1])
        is_recovery = is_i and recovery == 0
        # between a recovery point and the next reference picture
        self._is_leading = (is_recovery and not is_idr) or (self._is_leading and is_b)
        return Header(
            is_key=is_idr or is_recovery,
            is_open=not is_idr,
            is_leading=self._is_leading and is_b,
            is_reordered=is_b,
            is_needless=not is_i and recovery is None,
            field=self._single_field(slices),
        )

    def _single_field(self, slices: list[bytes]) -> tuple[int, int] | None:
        """Return parity and frame number if the packet is a field."""
        if self._sequence is None:
            raise UncertainError("no sequence parameter set")
        numbers, parities = zip(*(self._place(s, self._sequence) for s in slices), strict=True)
        for unit, number in zip(slices, numbers, strict=True):
            self._check_gap(unit, number, self._sequence.max_frame_number)
        if parities == (None,):
            return None
        if len(slices) == 1:
            return parities[0], numbers[0]
        if sorted(map(str, parities)) != ["0", "1"]:
            raise UncertainError("several pictures in a packet")
        return None

    @staticmethod
    def _place(unit: bytes, sequence: H264Sequence) -> tuple[int, int | None]:
        """Return frame number, and parity of a field or None for a frame (7.3.3)."""
        bits = Bits(unescape(unit[1:SLICE_HEADER_BYTES]))
        for _ in range(3):
            bits.golomb()  # first macroblock, type, picture parameter set
        if sequence.has_colour_planes:
            bits.take(2)
        number = bits.take(sequence.frame_number_bits)
        is_field = sequence.has_fields and bits.take(1)
        return number, bits.take(1) if is_field else None

    def _check_gap(self, unit: bytes, number: int, max_number: int) -> None:
        """Refuse a picture before which a reference picture is missing (7.4.3)."""
        before = self._reference_number
        is_next = before is None or number in {before, (before + 1) % max_number}
        if unit[0] & 31 != 5 and not is_next:
            raise UncertainError("missing pictures")
        if unit[0] & 0b0110_0000:
            self._reference_number = number

    def _add_sequence(self, unit: bytes) -> None:
        if unit in self._units:
            return
        sequence = H264Sequence.parse(unit)
        if self._sequence is not None and sequence != self._sequence:
            raise UncertainError("different sequences")
        self._units.add(unit)
        self._sequence = sequence


class H265Sequence(NamedTuple):
    """Fields of H.265's sequence parameter set (7.3.2.2)."""

    has_colour_planes: bool
    order_bits: int

    @classmethod
    def parse(cls, unit: bytes) -> H265Sequence:
        """Parse the NAL unit.

        Raises:
            UncertainError: it ends early.
        """
        bits = Bits(unescape(unit[2:]))
        bits.take(4)
        num_layers = bits.take(3)
        bits.take(1 + 88 + 8)  # profile, tier and level
        flags = [(bits.take(1), bits.take(1)) for _ in range(8 if num_layers else 0)]
        for has_profile, has_level in flags[:num_layers]:
            bits.take(88 * has_profile + 8 * has_level)
        bits.golomb()  # id
        has_colour_planes = bits.golomb() == 3 and bool(bits.take(1))
        for _ in range(2):
            bits.golomb()  # width and height
        for _ in range(4 * bits.take(1)):
            bits.golomb()  # conformance window
        for _ in range(2):
            bits.golomb()  # bit depths
        return cls(has_colour_planes, _at_most_16(bits.golomb() + 4))


class H265Pictures(NamedTuple):
    """Fields of H.265's picture parameter set (7.3.2.3)."""

    num_extra_bits: int

    @classmethod
    def parse(cls, unit: bytes) -> H265Pictures:
        """Parse the NAL unit.

        Raises:
            UncertainError: it ends early, or says that pictures may be hidden.
        """
        bits = Bits(unescape(unit[2:]))
        for _ in range(2):
            bits.golomb()
        bits.take(1)
        if bits.take(1):
            raise UncertainError("hidden pictures")
        return cls(bits.take(3))


def h265_parameters(extradata: bytes) -> list[bytes]:
    """Return the parameter sets of H.265's extradata."""
    if extradata[:1] != b"\1":
        return list(split_units(extradata, 0))
    units, at = [], 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        count = int.from_bytes(extradata[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            units.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return units


class H265Headers(Headers):
    def __init__(self, extradata: bytes):
        self.has_orientation = False
        self._length_bytes = (extradata[21] & 3) + 1 if extradata[:1] == b"\1" else 0
        self._is_first = self._skips_rasl = True
        self._sequence: H265Sequence | None = None
        self._pictures: H265Pictures | None = None
        self._units: set[bytes] = set()
        for unit in h265_parameters(extradata):
            self._add_parameters(unit)
        self._orders: list[int] = []
        self._highest_order = 0

    def read(self, data: bytes, is_key: bool) -> Header:
        pictures = []
        for unit in split_units(data, self._length_bytes):
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
                continue  # another layer, or a unit without content
            kind = (unit[0] >> 1) & 63
            if kind < 32 and unit[2] & 128:  # the first slice of a picture
                pictures.append(unit)
            elif kind in {33, 34}:
                self._add_parameters(unit.rstrip(b"\0"))
            elif kind in {39, 40}:
                types = {message for message, _ in sei_messages(unit, 2)}
                self.has_orientation |= ORIENTATION_SEI in types
        if len(pictures) != 1:
            raise UncertainError(f"{len(pictures)} pictures in a packet")
        return self._header(pictures[0])

    def finish(self) -> None:
        """Check the last pictures.

        Raises:
            UncertainError: pictures are missing.
        """
        self._check_orders()

    def _header(self, unit: bytes) -> Header:
        kind = (unit[0] >> 1) & 63
        is_key = 16 <= kind <= 23
        if is_key:
            # RASL pictures refer to pictures before a CRA picture, which are there unless it is the
            # first one; those before a BLA picture (16 to 18) are never there
            self._skips_rasl = self._is_first or kind <= 18
            self._is_first = False
        is_skipped = kind in {8, 9} and self._skips_rasl
        self._add_order(unit, kind)
        order = self._orders[-1]
        # not of all orders each time: a recording of an hour may have no picture that begins again
        self._highest_order = max(self._highest_order, order) if len(self._orders) > 1 else order
        is_reordered = order < self._highest_order
        return Header(int(not is_skipped), is_key=is_key, is_reordered=is_reordered)

    def _add_order(self, unit: bytes, kind: int) -> None:
        """Note the number of a picture in the order of presentation (7.3.6.1, 8.3.1)."""
        if self._sequence is None or self._pictures is None:
            raise UncertainError("no parameter sets")
        if kind <= 20 and kind >= 16:  # begins to count again
            self._check_orders()
            self._orders = []
        if kind in {19, 20}:
            self._orders.append(0)
            return
        bits = Bits(unescape(unit[2:SLICE_HEADER_BYTES]))
        bits.take(1 + (16 <= kind <= 23))
        bits.golomb()
        bits.take(self._pictures.num_extra_bits)
        bits.golomb()
        bits.take(2 * self._sequence.has_colour_planes)
        low, limit = bits.take(self._sequence.order_bits), 1 << self._sequence.order_bits
        before = self._orders[-1] if self._orders else 0
        # the number with these low bits that is nearest to the one before
        self._orders.append(before + (low - before + limit // 2) % limit - limit // 2)

    def _check_orders(self) -> None:
        """Refuse gaps: pictures that refer to missing ones may not be shown."""
        orders = sorted(self._orders)
        if len({second - first for first, second in pairwise(orders)}) > 1:
            raise UncertainError("missing pictures")

    def _add_parameters(self, unit: bytes) -> None:
        if unit in self._units:
            return
        self._units.add(unit)
        known: NamedTuple | None
        match (unit[0] >> 1) & 63:
            case 33:
                known, self._sequence = self._sequence, H265Sequence.parse(unit)
                if known not in {None, self._sequence}:
                    raise UncertainError("different sequences")
            case 34:
                known, self._pictures = self._pictures, H265Pictures.parse(unit)
                if known not in {None, self._pictures}:
                    raise UncertainError("different parameter sets")
