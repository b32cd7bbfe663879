"""GOT-10k's files, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ctp.data.got10k import is_visible, parse_boxes, parse_class, parse_flags


def test_left_top_width_height_becomes_corners() -> None:
    boxes = parse_boxes(b"10.0000,20.0000,30.0000,40.0000\r\n0.5,1.5,2,3\n\n")
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[10, 20, 40, 60], [0.5, 1.5, 2.5, 4.5]]


def test_flags_are_one_number_per_line() -> None:
    flags = parse_flags(b"0\n8\n1\n", "cover.label")
    assert flags.dtype == np.int8
    assert flags.tolist() == [0, 8, 1]


def test_an_object_is_visible_with_a_box_and_a_cover_above_0() -> None:
    boxes = np.array([[1, 1, 5, 5]] * 6 + [[3, 1, 3, 9], [np.nan, 1, 2, 3]], np.float32)
    absence = np.array([0, 1, 0, 0, 1, 0, 0, 0], np.int8)
    cover = np.array([8, 8, 0, 1, 0, 4, 8, 8], np.int8)
    assert np.flatnonzero(is_visible(boxes, absence, cover)).tolist() == [0, 3, 5]
    assert np.flatnonzero(is_visible(boxes, absence, None)).tolist() == [0, 2, 3, 5]
    assert np.flatnonzero(is_visible(boxes, None, cover)).tolist() == [0, 1, 3, 5]
    assert np.flatnonzero(is_visible(boxes, None, None)).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_class_is_none_if_unknown() -> None:
    text = b"[METAINFO]\nurl: https://a.b/c?d=%20\nbegin: 00:00:24\nobject_class: sea lion\n"
    assert parse_class(text) == "sea lion"
    assert parse_class(b"[METAINFO]\nurl: x\n") is None


@pytest.mark.parametrize("text", [b"", b"1,2,3\n", b"1,2,3,4\n1,2,3\n", b"1,2,3,x\n", b"\xff\xfe"])
def test_malformed_boxes_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_boxes(text)


@pytest.mark.parametrize("text", [b"x\n", b"300\n", b"0.5\n"])
def test_malformed_flags_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"absence\.label: expected an 8-bit number"):
        parse_flags(text, "absence.label")


def test_a_malformed_description_is_refused() -> None:
    with pytest.raises(ValueError, match=r"meta_info\.ini: File contains no section headers"):
        parse_class(b"what is this\n")
