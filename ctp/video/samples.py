"""Check that each packet of an MP4 file is shown as one picture, and find pictures to skip.

The rules are those of `ctp.video.pictures`. For H.264 and MPEG-4, the headers of many packets are
read at once, because one packet after the other would take longer than opening a short file.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ctp.video.h26x import (
    ORIENTATION_SEI,
    H264Sequence,
    h264_parameters,
    is_b_slice,
    sei_messages,
)
from ctp.video.headers import Header, UncertainError
from ctp.video.mpeg import I_VOP, Mpeg4Headers
from ctp.video.pictures import are_presentation_times, find_shown, open_headers

SLICE_KINDS, IDR_KIND, SEI_KIND, SEQUENCE_KIND = (1, 5), 5, 6, 7
PASSED_KINDS = frozenset({8, 9, 12})
"""H.264's NAL units without influence here: picture parameter sets, delimiters and fillers."""
IS_B = np.array([is_b_slice(byte) for byte in range(256)])
"""bool [256], by the byte after a NAL header."""
TYPE_BITS = np.array([15 - 2 * (byte & 127).bit_length() for byte in range(256)])
"""int64 [256], length of the slice type after the bit for macroblock 0, by this byte."""
WINDOW_BITS = 32
VOP_CODE, GROUP_CODE = 0x1B6, 0x1B3
"""Start codes of MPEG-4: of a picture, and of the group header that may precede it."""
GROUP_BYTES = 7

Numbers = NDArray[np.int64]


class SampleCheck(Protocol):
    """Checks the packets of a track, which are added in decoding order, many at a time."""

    def __init__(self, extradata: bytes):
        """Begin; `extradata` is the decoder's configuration.

        Raises:
            UncertainError: packets of this configuration are not checked here.
        """

    def add(self, data: bytes, position: Numbers, size: Numbers) -> None:
        """Read the headers of the next packets.

        Args:
            data: the file, or a part of it.
            position, size: int64 [N], where each packet is in `data`, and its length.

        Raises:
            UncertainError: a packet is not one picture that is shown.
        """

    def find_disposable(self, shown: Numbers) -> NDArray[np.bool_]:
        """Return for each packet whether no other picture refers to its picture.

        Args:
            shown: int64 [N], the presentation times of all packets.

        Raises:
            UncertainError: not every packet is shown as one picture at its time.
        """


class H264Check:
    """A `SampleCheck` for H.264."""

    def __init__(self, extradata: bytes):
        self._extradata, self._sequence = extradata, _parse_sequence(extradata)
        self._headers: list[tuple[NDArray[np.uint8], NDArray[np.uint8], Numbers]] = []

    def add(self, data: bytes, position: Numbers, size: Numbers) -> None:
        bytes_ = np.frombuffer(data, np.uint8)
        at = _find_slices(data, bytes_, self._extradata, position, position + size)
        number = _frame_numbers(data, at + 1, self._sequence.frame_number_bits)
        self._headers.append((bytes_[at], bytes_[at + 1], number))

    def find_disposable(self, shown: Numbers) -> NDArray[np.bool_]:
        unit, first, number = map(np.concatenate, zip(*self._headers, strict=True))
        is_idr, is_reference = unit & 31 == IDR_KIND, (unit & 0b0110_0000) != 0
        if not is_idr[0] or shown.min() < shown[0] or first.min() < 128:
            raise UncertainError("pictures before the first key picture")
        # with B-frames, times that rise are those of decoding; without, they have to rise
        if (shown[1:] > shown[:-1]).all() == IS_B[first].any():
            raise UncertainError("presentation times that do not give the order")
        _check_gaps(number, is_idr, is_reference, self._sequence.max_frame_number)
        # after an IDR picture, no picture refers to one before it
        is_disposable: NDArray[np.bool_] = ~is_reference | is_idr.all()
        return is_disposable


class Mpeg4Check:
    """A `SampleCheck` for MPEG-4. Every packet has to be one coded I-VOP; all are disposable."""

    def __init__(self, extradata: bytes):
        self._layer = Mpeg4Headers(extradata)
        if self._layer.is_packed:
            raise UncertainError("packed pictures")

    def add(self, data: bytes, position: Numbers, size: Numbers) -> None:
        at = np.where(_windows(data, position) == GROUP_CODE, position + GROUP_BYTES, position)
        if (size <= GROUP_BYTES + WINDOW_BITS // 4).any() or (_windows(data, at) != VOP_CODE).any():
            raise UncertainError("packets that do not begin with a picture")
        value = _windows(data, at + WINDOW_BITS // 8)
        # kind of the VOP, a one for each second since the last, 0, 1, time, 1, whether it is coded
        is_intra = value >> (WINDOW_BITS - 2) == I_VOP
        zeros = ~value & ((1 << (WINDOW_BITS - 2)) - 1)
        num_seconds = WINDOW_BITS - 2 - np.frexp(zeros)[1]
        coded_bit = WINDOW_BITS - (2 + num_seconds + 2 + self._layer.num_time_bits + 2)
        if not is_intra.all() or coded_bit.min() < 0 or not (value >> coded_bit & 1).all():
            raise UncertainError("pictures that refer to others or are not coded")

    def find_disposable(self, shown: Numbers) -> NDArray[np.bool_]:
        if (shown[1:] < shown[:-1]).any():
            raise UncertainError("reordered pictures")
        return np.ones(len(shown), np.bool_)


class H265Check:
    """A `SampleCheck` for H.265. No packet is disposable."""

    def __init__(self, extradata: bytes):
        self._reader = open_headers("hevc", extradata)
        self._headers: list[Header] = []

    def add(self, data: bytes, position: Numbers, size: Numbers) -> None:
        for start, end in zip(position.tolist(), (position + size).tolist(), strict=True):
            self._headers.append(self._reader.read(data[start:end], False))

    def find_disposable(self, shown: Numbers) -> NDArray[np.bool_]:
        self._reader.finish()
        times = shown.tolist()
        is_hidden = len(find_shown(self._headers, times, [False] * len(times))) < len(times)
        if self._reader.has_orientation or is_hidden:
            raise UncertainError("pictures that are turned or not shown")
        if not are_presentation_times(self._headers, times):
            raise UncertainError("presentation times that do not give the order")
        return np.zeros(len(times), np.bool_)


@lru_cache
def _parse_sequence(extradata: bytes) -> H264Sequence:
    """Return the sequence parameter set of H.264's extradata, if it describes plain frames."""
    sequences = {H264Sequence.parse(unit) for unit in h264_parameters(extradata)}
    if len(sequences) != 1:
        raise UncertainError("different sequences")
    (sequence,) = sequences
    if sequence.has_fields or sequence.has_colour_planes:
        raise UncertainError("fields")
    return sequence


def _find_slices(
    data: bytes, bytes_: NDArray[np.uint8], extradata: bytes, start: Numbers, end: Numbers
) -> Numbers:
    """Return the position of the NAL header of each packet's first slice.

    Raises:
        UncertainError: a unit before a slice may change what is shown.
    """
    length_bytes = (extradata[4] & 3) + 1
    at = start + length_bytes
    if (end - at).min() < 2:
        raise UncertainError("a packet without a slice")
    kinds = bytes_[at] & 31
    is_slice = (kinds == SLICE_KINDS[0]) | (kinds == SLICE_KINDS[1])
    for number in np.flatnonzero(~is_slice).tolist():
        at[number] = _find_slice(data, extradata, int(at[number]), int(end[number]))
    return at


def _find_slice(data: bytes, extradata: bytes, at: int, end: int) -> int:
    """Return the position of the first slice in a packet whose first NAL header is at `at`."""
    length_bytes = (extradata[4] & 3) + 1
    while at + 2 <= end:
        if data[at] & 31 in SLICE_KINDS:
            return at
        stop = at + int.from_bytes(data[at - length_bytes : at], "big")
        if not at < stop <= end:
            break
        _check_unit(data[at:stop], extradata)
        at = stop + length_bytes
    raise UncertainError("a packet without a slice")


def _check_unit(unit: bytes, extradata: bytes) -> None:
    kind = unit[0] & 31
    if kind == SEI_KIND:
        if any(message == ORIENTATION_SEI for message, _ in sei_messages(unit, 1)):
            raise UncertainError("turned pictures")
    elif kind == SEQUENCE_KIND:
        if unit not in extradata:
            raise UncertainError("different sequences")
    elif kind not in PASSED_KINDS:
        raise UncertainError(f"a unit of type {kind}")


def _frame_numbers(data: bytes, at: Numbers, frame_number_bits: int) -> Numbers:
    """Return each slice's frame number (H.264, 7.3.3), from its header at `at`."""
    value = _windows(data, at)
    type_bits = TYPE_BITS[value >> 24]
    used = 2 + type_bits + frame_number_bits
    # zeros may be followed by a byte that is no part of the header (7.4.1)
    is_unclear = (used > 24) & (value & 0xFFFF00 == 0)
    # one bit for macroblock 0, and one for picture parameter set 0
    has_first_parameters = value >> (WINDOW_BITS - 2 - type_bits) & 1
    if (is_unclear | (has_first_parameters == 0) | (type_bits > 7)).any():
        raise UncertainError("a header that is not read here")
    numbers: Numbers = value >> (WINDOW_BITS - used) & ((1 << frame_number_bits) - 1)
    return numbers


def _windows(data: bytes, at: Numbers) -> Numbers:
    """Return the 32 bits from each byte of `at` on."""
    if at.max() + WINDOW_BITS // 8 > len(data):
        raise UncertainError("a header at the file's end")
    windows: NDArray[np.uint32] = np.ndarray(len(data) - 3, ">u4", data, strides=(1,))
    return windows[at].astype(np.int64)


def _check_gaps(
    number: Numbers, is_idr: NDArray[np.bool_], is_reference: NDArray[np.bool_], limit: int
) -> None:
    """Refuse a picture before which a reference picture is missing (7.4.3)."""
    places = np.maximum.accumulate(np.where(is_reference, np.arange(len(number)), 0))
    step = (number[1:] - number[places[:-1]]) % limit
    if not (is_idr[1:] | (step <= 1)).all():
        raise UncertainError("missing pictures")
