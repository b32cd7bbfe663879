"""A measured video is divided at its cuts, and each segment has its own measures."""

from array import array
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctp.curation.pictures import Bars, Movement
from ctp.curation.segments import divide, to_table
from ctp.curation.timeline import Sample, Timeline
from ctp.data.catalog import VideoEntry

ENTRY = VideoEntry("film.mp4", "/films/film.mp4", "talk")


def make_timeline(num_frames=250, cuts=(), rate=25.0, samples=()):
    return Timeline(
        seconds=array("d", [i / rate for i in range(num_frames)]),
        change=array("f", [i / 1000 for i in range(num_frames)]),
        brightness=array("f", [0.5] * num_frames),
        damaged=array("b", [0] * num_frames),
        cuts=list(cuts),
        sizes=[(0, 320, 240)],
        samples=list(samples),
    )


def make_sample(frame, *, bars=(0, 0, 0, 0), motion=0.2, camera=(0.0, 0.0), hash=b"h" * 32):
    picture = cv2.imencode(".jpg", np.full((72, 96, 3), 99, np.uint8))[1].tobytes()
    return Sample(frame, Movement(motion, camera), 0.1, Bars(*bars), hash, 90, picture)


def test_each_cut_begins_a_segment():
    segments = divide(ENTRY, make_timeline(cuts=[100, 150]), 60, crops_bars=True)
    assert [(s.first_frame, s.num_frames) for s in segments] == [(0, 100), (100, 50), (150, 100)]
    assert [s.id for s in segments] == [f"film.mp4/0000{i}" for i in range(3)]
    assert segments[1].start_seconds == 4
    assert segments[1].end_seconds == 6
    assert segments[2].end_seconds == pytest.approx(10, abs=0.05)
    assert segments[1].cut_score == pytest.approx(0.1)
    assert {s.label for s in segments} == {"talk"}


@given(
    st.integers(2, 600),
    st.lists(st.integers(1, 599), max_size=5),
    st.floats(0.5, 20),
    st.sampled_from([12.0, 25.0, 29.97]),
)
def test_segments_cover_the_video_and_none_is_too_long(num_frames, cuts, max_seconds, rate):
    inside = sorted({cut for cut in cuts if cut < num_frames})
    line = make_timeline(num_frames, inside, rate)
    segments = divide(ENTRY, line, max_seconds, crops_bars=True)
    firsts = [each.first_frame for each in segments]
    ends = [each.first_frame + each.num_frames for each in segments]
    assert firsts == [0, *ends[:-1]]
    assert ends[-1] == num_frames
    assert set(inside) <= set(firsts)
    for each in segments:
        assert each.end_seconds - each.start_seconds <= max_seconds + 1 / rate


def test_a_long_shot_is_divided_from_its_start():
    segments = divide(ENTRY, make_timeline(cuts=[10]), 4, crops_bars=True)
    assert [s.num_frames for s in segments] == [10, 100, 100, 40]


def test_measures_are_means_over_the_samples_of_the_segment():
    samples = [make_sample(10, motion=0.1), make_sample(20, motion=0.3), make_sample(120, motion=9)]
    first, second = divide(ENTRY, make_timeline(cuts=[100], samples=samples), 60, crops_bars=True)
    assert first.motion == pytest.approx(0.2)
    assert second.motion == 9


def test_a_steady_pan_does_not_shake():
    pan = [make_sample(i, camera=(0.5, 0)) for i in range(5, 100, 10)]
    hand = [make_sample(i, camera=((-1) ** i * 0.2, 0)) for i in range(5, 100, 9)]
    for samples, shake in ((pan, 0), (hand, 0.4)):
        [segment] = divide(ENTRY, make_timeline(100, samples=samples), 60, crops_bars=True)
        assert segment.shake == pytest.approx(shake)


@pytest.mark.parametrize(
    ("widths", "crop"),
    [
        ([(30, 30, 0, 0)] * 3, (0, 30, 320, 180)),
        ([(31, 30, 0, 0)] * 3, (0, 32, 320, 178)),  # even, since chroma has half the size
        ([(30, 30, 0, 0), (None, 30, 0, 0), (28, 30, 0, 0)], (0, 28, 320, 182)),
        ([(30, 30, 0, 0), (0, 30, 0, 0)], (0, 0, 320, 210)),  # something is there at times
        ([(None, None, None, None)] * 3, (0, 0, 320, 240)),
        # what is black at the top in one sample is not in the next, and they overlap
        ([(200, None, 10, 0), (None, 200, 10, 0)], (10, 0, 310, 240)),
        ([(0, 0, 160, None), (0, 0, None, 160)], (0, 0, 320, 240)),
        ([(120, None, 0, 0), (None, 118, 0, 0)], (0, 120, 320, 2)),
        ([(30, None, 0, 0), (None, None, 0, 0), (None, None, 0, 0)], (0, 0, 320, 240)),
    ],
)
def test_what_is_always_black_is_cut_off(widths, crop):
    samples = [make_sample(10 * i, bars=each) for i, each in enumerate(widths, 1)]
    line = make_timeline(100, samples=samples)
    [segment] = divide(ENTRY, line, 60, crops_bars=True)
    assert segment.crop == crop
    [whole] = divide(ENTRY, line, 60, crops_bars=False)
    assert whole.crop == (0, 0, 320, 240)


def test_bars_change_neither_brightness_nor_motion():
    line = make_timeline(100, samples=[make_sample(i, bars=(60, 60, 0, 0)) for i in (10, 50)])
    [segment] = divide(ENTRY, line, 60, crops_bars=True)
    # half of the picture is black and still
    assert segment.brightness == pytest.approx(1.0)
    assert segment.motion == pytest.approx(0.4)


def test_hashes_are_at_the_quarters():
    samples = [make_sample(i, hash=bytes([i]) * 32) for i in (5, 26, 49, 74)]
    [segment] = divide(ENTRY, make_timeline(100, samples=samples), 60, crops_bars=True)
    assert segment.hashes == b"".join(bytes([i]) * 32 for i in (26, 49, 74))


def test_a_segment_without_samples_has_measures():
    [segment] = divide(ENTRY, make_timeline(3), 60, crops_bars=True)
    assert (segment.motion, segment.hash_quality, segment.pictures) == (0, 0, b"")
    assert len(to_table([segment])) == 1


def test_ids_sort_like_the_segments():
    line = make_timeline(100, cuts=range(1, 100))
    ids = [each.id for each in divide(ENTRY, line, 60, crops_bars=True)]
    assert all(a < b for a, b in pairwise(ids))
