"""Headers of VP8 and VP9."""

from __future__ import annotations

from ctp.video.headers import Bits, Header, UncertainError


def read_vp8(data: bytes, is_key: bool) -> Header:
    """Read a frame tag (RFC 6386, 9.1)."""
    return Header(num_pictures=data[0] >> 4 & 1, is_key=not data[0] & 1)


def read_vp9(data: bytes, is_key: bool) -> Header:
    """Read the headers of a frame or superframe (VP9 bitstream, 6.2 and annex B)."""
    shown, keys = 0, []
    for frame in _split_superframe(data):
        bits = Bits(frame[:2])
        if bits.take(2) != 2:
            raise UncertainError("no frame of VP9")
        profile = bits.take(1) + 2 * bits.take(1)
        if profile == 3:
            bits.take(1)
        if bits.take(1):  # shows a picture that was decoded before
            shown += 1
            keys.append(False)
        else:
            keys.append(not bits.take(1))
            shown += bits.take(1)
    if shown > 1:
        raise UncertainError("several pictures in a packet")
    return Header(shown, is_key=keys[0])


def _split_superframe(data: bytes) -> list[bytes]:
    mark = data[-1]
    if mark >> 5 != 0b110:
        return [data]
    count, size_bytes = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index = len(data) - 2 - count * size_bytes
    if index < 0 or data[index] != mark:
        return [data]
    frames, at = [], 0
    for number in range(count):
        start = index + 1 + number * size_bytes
        size = int.from_bytes(data[start : start + size_bytes], "little")
        if size:
            frames.append(data[at : at + size])
        at += size
    return frames
