"""Find from the headers of packets which pictures FFmpeg shows, without decoding them.

A packet is not always one picture. It may hold a field, a picture that is never shown, two
pictures, or a picture that cannot be decoded because the file begins after those it refers to. For
each codec, all packets show one picture, except:

* H.264: two fields of one frame may be two packets. Pictures before the first IDR picture or exact
  recovery point, in the order of presentation, are not shown.
* H.265: RASL pictures after a CRA picture at the start, and after every BLA picture, are not shown.
* MPEG-4: a packet may hold a second VOP (packed B-frames). VOPs that are not coded are not shown.
* MPEG-1, MPEG-2: B-pictures before the first two reference pictures are not shown, unless their
  group of pictures is closed.
* VP8, VP9: pictures without the flag `show_frame` are not shown.
* AV1 and the codecs in `ONE_PICTURE`: none.

These rules hold only if no picture is missing: the headers of H.264, H.265 and MPEG number the
pictures. For all other codecs, and where the headers leave a doubt (missing pictures, several
sequences, presentation times in decoding order, …), `UncertainError` is raised, and the video has
to be decoded in order to count its pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ctp.video.h26x import H264Headers, H265Headers
from ctp.video.headers import Header, HeaderReader, Headers, UncertainError
from ctp.video.mpeg import Mpeg2Headers, Mpeg4Headers
from ctp.video.vpx import read_vp8, read_vp9

# fmt: off
ONE_PICTURE = frozenset({
    "mjpeg", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "prores", "dnxhd", "png", "gif",
    "dvvideo", "qtrle", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "flv1",
})
# fmt: on
"""FFmpeg's names of codecs without reordered, hidden or skipped pictures."""


def open_headers(codec: str, extradata: bytes) -> HeaderReader:
    """Return a reader for a stream of a codec, named as by FFmpeg.

    Raises:
        UncertainError: there are no rules for the codec.
    """
    if codec in ONE_PICTURE:
        return _PlainHeaders(lambda data, is_key: Header(is_key=is_key))
    if codec not in READERS:
        raise UncertainError(f"no rules for {codec}")
    return READERS[codec](extradata)


def find_shown(
    headers: Sequence[Header], times: Sequence[int | None], discarded: Sequence[bool]
) -> list[int | None]:
    """Return the presentation time of each shown picture, in decoding order.

    Args:
        headers: of all packets that are not empty, in decoding order.
        times: presentation time of each packet, or None.
        discarded: whether the container says that the packet is decoded but not shown.

    Raises:
        UncertainError: the headers leave a doubt.
    """
    hidden = _find_undecodable(headers, times)
    is_second = _find_second_fields(headers)
    shown: list[int | None] = []
    for number, header in enumerate(headers):
        if number in hidden or is_second[number] or discarded[number]:
            continue
        if header.num_pictures > 2:
            raise UncertainError("more than two pictures in a packet")
        if header.num_pictures == 2:
            # the decoder takes the second picture instead of the next packet, which is a filler
            following = headers[number + 1 : number + 2]
            if not following or following[0].num_pictures:
                raise UncertainError("two pictures in a packet and no filler after it")
            shown += [times[number], times[number + 1]]
        elif header.num_pictures:
            shown.append(times[number])
    return shown


def are_presentation_times(headers: Sequence[Header], times: Sequence[int | None]) -> bool:
    """Return whether times of packets in decoding order give the order of the shown pictures.

    Times that rise although pictures are reordered are those of decoding: the file's writer did
    not know others. In recordings that were joined, times start again.
    """
    is_reordered = any(header.is_reordered for header in headers)
    highest: int | None = None
    rises = True
    for header, time in zip(headers, times, strict=True):
        if time is None or not header.num_pictures:
            continue
        is_later = highest is None or time > highest
        # all that is decoded before a key picture is also shown before it
        if not is_later and (header.is_key or not is_reordered):
            return False
        rises &= is_later
        highest = time if highest is None else max(highest, time)
    return not (is_reordered and rises)


def _find_undecodable(headers: Sequence[Header], times: Sequence[int | None]) -> set[int]:
    """Return the packets whose pictures refer to others before the start of the file."""
    start = next((i for i, header in enumerate(headers) if header.is_key), None)
    if start is None or not all(each.is_needless for each in headers[:start]):
        raise UncertainError("it does not start at a key picture")
    undecodable = set(range(start))
    for number in range(start + 1, len(headers)):
        if headers[number].is_key:
            break
        if headers[number].is_leading:
            undecodable.add(number)
    if undecodable or headers[start].is_open:
        # check by the times, because the kind of a picture alone does not give its order
        first = times[start]
        for number, time in enumerate(times):
            is_before = time is None or first is None or time < first
            if is_before != (number in undecodable):
                raise UncertainError("pictures before the first key picture")
    return undecodable


def _find_second_fields(headers: Sequence[Header]) -> list[bool]:
    """Return which packets are the second field of a frame.

    Raises:
        UncertainError: a field has no other one.
    """
    is_second = [False] * len(headers)
    number = 0
    while number < len(headers):
        first = headers[number].field
        if first is not None:
            second = headers[number + 1].field if number + 1 < len(headers) else None
            if second is None or second[0] == first[0] or second[1] != first[1]:
                raise UncertainError("a single field")
            is_second[number + 1] = True
            number += 1
        number += 1
    return is_second


class _PlainHeaders(Headers):
    """A `HeaderReader` whose packets do not depend on one another."""

    def __init__(self, read: Callable[[bytes, bool], Header]):
        self.read = read


READERS: dict[str, Callable[[bytes], HeaderReader]] = {
    "h264": H264Headers,
    "hevc": H265Headers,
    "mpeg4": Mpeg4Headers,
    "mpeg1video": Mpeg2Headers,
    "mpeg2video": Mpeg2Headers,
    "vp8": lambda extradata: _PlainHeaders(read_vp8),
    "vp9": lambda extradata: _PlainHeaders(read_vp9),
    "av1": lambda extradata: _PlainHeaders(lambda data, is_key: Header(is_key=is_key)),
}
"""FFmpeg's name of a codec -> what opens a reader of its headers."""
