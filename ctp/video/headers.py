"""The header of a packet: what it says about the picture, and how to read it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

START_CODE = b"\0\0\1"
"""The bytes before each unit in streams of MPEG and H.264."""


class UncertainError(Exception):
    """The headers do not show which pictures FFmpeg displays."""


class Header(NamedTuple):
    """What a packet's header says.

    Attributes:
        num_pictures: number of shown pictures that are coded in it.
        is_key: whether a decoder that starts here decodes this picture exactly.
        is_open: whether earlier pictures may follow this key picture in decoding order.
        is_leading: whether it follows a key picture, is shown before it, and may refer to pictures
            before that.
        is_reordered: whether it is of a kind that is usually shown before earlier packets.
        is_needless: whether it is not shown if no key picture is before it.
        field: parity and frame number of a single field, otherwise None.
    """

    num_pictures: int = 1
    is_key: bool = False
    is_open: bool = False
    is_leading: bool = False
    is_reordered: bool = False
    is_needless: bool = False
    field: tuple[int, int] | None = None


class HeaderReader(Protocol):
    """Reads the headers of a stream's packets, in decoding order.

    Attributes:
        has_orientation: whether a packet so far says how to turn its picture.
    """

    has_orientation: bool

    def read(self, data: bytes, is_key: bool) -> Header:
        """Read the header of the next packet.

        Args:
            data: the packet.
            is_key: whether the container marks it as a key packet.

        Raises:
            UncertainError: it does not show which pictures are displayed.
        """

    def finish(self) -> None:
        """Check what only the end of the stream shows.

        Raises:
            UncertainError: there is a doubt.
        """


class Headers:
    """Defaults of a `HeaderReader`."""

    has_orientation = False

    def finish(self) -> None:
        """Accept every end."""


class Bits:
    """Reads bits from bytes, the highest bit first."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return an unsigned number of `count` bits.

        Raises:
            UncertainError: fewer are left.
        """
        if count > self._left:
            raise UncertainError("a header ends early")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return an unsigned number in Exp-Golomb code (H.264, 9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_golomb(self) -> int:
        """Return a signed number in Exp-Golomb code (H.264, 9.1.1)."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def find_all(data: bytes, code: bytes) -> list[int]:
    """Return where `code` is in `data`."""
    found = []
    at = data.find(code)
    while at >= 0:
        found.append(at)
        at = data.find(code, at + len(code))
    return found
