"""Key frames and the interpolation between them: properties, and cases worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp.keyframes import LINEAR, interpolate, sample_key_frames

ACCELERATE, DECELERATE = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
PAPER, OFFICIAL = (0.0, 1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2)
PROPERTY = settings(deadline=None, derandomize=True, max_examples=50)
PROBS = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(
    lambda weights: tuple(weight / sum(weights) for weight in weights)
)
EASINGS = st.sampled_from([LINEAR, ACCELERATE, DECELERATE, (0.4, 0.3, 0.3)])


def rng(seed=0):
    return np.random.default_rng(seed)


def fill(values, key_frames, easing=LINEAR):
    """Interpolate one trajectory of one number."""
    array = np.array(values, np.float64)[None, :, None]
    return interpolate(array, np.array([key_frames]), easing, rng())[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("easing", "expected"),
    [
        (LINEAR, [0, 2, 4, 6, 8]),
        (ACCELERATE, [0, 0.5, 2, 4.5, 8]),
        (DECELERATE, [0, 3.5, 6, 7.5, 8]),
    ],
)
def test_one_segment_by_hand(easing, expected):
    assert fill([0, 8], [0, 4], easing) == expected


@pytest.mark.parametrize(
    ("easing", "expected"),
    [
        (LINEAR, [1, 3, 5, 4, 3, 2, 1]),
        (ACCELERATE, [1, 2, 5, 4.75, 4, 2.75, 1]),
        (DECELERATE, [1, 4, 5, 3.25, 2, 1.25, 1]),
    ],
)
def test_two_segments_by_hand(easing, expected):
    assert fill([1, 5, 1], [0, 2, 6], easing) == expected


def test_padding_has_no_effect():
    assert fill([1, 5, 1, 1], [0, 2, 6, 6]) == fill([1, 5, 1], [0, 2, 6])
    # of two values on the last frame, the first counts
    assert fill([1, 5, 1, 99], [0, 2, 6, 6]) == fill([1, 5, 1], [0, 2, 6])


@PROPERTY
@given(num_frames=st.integers(2, 64), probs=PROBS, easing=EASINGS, seed=st.integers(0, 2**32))
def test_values_at_key_frames_are_exact(num_frames, probs, easing, seed):
    keys = sample_key_frames(20, num_frames, probs, rng(seed))
    values = rng(seed).normal(size=(*keys.shape, 3))
    filled = interpolate(values, keys, easing, rng(seed))
    assert filled.shape == (20, num_frames, 3)
    for row, frames in enumerate(keys.tolist()):
        for frame in set(frames):
            assert np.array_equal(filled[row, frame], values[row, frames.index(frame)])


@PROPERTY
@given(num_frames=st.integers(2, 64), probs=PROBS, easing=EASINGS, seed=st.integers(0, 2**32))
def test_interpolated_values_are_between_those_of_the_key_frames(num_frames, probs, easing, seed):
    keys = sample_key_frames(20, num_frames, probs, rng(seed))
    values = rng(seed).random((*keys.shape, 1))
    filled = interpolate(values, keys, easing, rng(seed))
    assert (filled.min(axis=1) >= values.min(axis=1) - 1e-12).all()
    assert (filled.max(axis=1) <= values.max(axis=1) + 1e-12).all()


@PROPERTY
@given(num_frames=st.integers(2, 64), probs=PROBS, seed=st.integers(0, 2**32))
def test_key_frames_rise_from_the_first_to_the_last(num_frames, probs, seed):
    keys = sample_key_frames(50, num_frames, probs, rng(seed))
    assert keys.shape == (50, len(probs) + 1)
    assert keys.dtype == np.int64
    assert (keys[:, 0] == 0).all()
    assert (keys[:, -1] == num_frames - 1).all()
    assert (np.diff(keys, axis=1) >= 0).all()


def test_segments_draw_their_easing_independently():
    values = np.tile(np.float64([[[0], [4], [8]]]), (400, 1, 1))
    keys = np.tile([[0, 2, 4]], (400, 1))
    filled = interpolate(values, keys, (0.6, 0.3, 0.1), rng())[..., 0]
    for frame, start in ((1, 0), (3, 4)):
        share = [(filled[:, frame] == start + middle).mean() for middle in (2, 1, 3)]
        np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.12)
        assert sum(share) == pytest.approx(1)
    assert np.corrcoef(filled[:, 1], filled[:, 3])[0, 1] < 0.2


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        (PAPER, {3: 1 / 3, 4: 1 / 3, 5: 1 / 3}),  # 3 to 5
        (OFFICIAL, {2: 0.5, 3: 0.3, 4: 0.2}),  # 2 to 4
    ],
)
def test_the_number_of_key_frames(probs, expected):
    keys = sample_key_frames(3000, 16, probs, rng())
    count = np.array([len(set(row)) for row in keys.tolist()])
    assert set(count) == set(expected)
    for number, share in expected.items():
        assert (count == number).mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(("num_inner", "reach"), [(1, 4), (2, 2), (3, 2)])
def test_inner_key_frames_are_shifted_by_a_third_of_their_spacing(num_inner, reach):
    probs = (0.0,) * num_inner + (1.0,)
    keys = sample_key_frames(2000, 24, probs, rng())
    spacing = 24 / (num_inner + 1)
    jitter = keys[:, 1:-1] - (spacing * np.arange(1, num_inner + 1)).astype(int)
    assert np.abs(jitter).max() <= spacing / 3
    for column in jitter.T:
        share = np.bincount(column + reach, minlength=2 * reach + 1) / len(column)
        np.testing.assert_allclose(share, 1 / (2 * reach + 1), atol=0.05)


def test_probabilities_that_sum_to_a_little_less_than_one():
    class AlmostOne(np.random.Generator):
        def random(self, *args, **kwargs):
            return np.full_like(super().random(*args, **kwargs), np.nextafter(1, 0))

    thirds = (0.1,) * 10
    assert np.cumsum(thirds)[-1] < 1
    keys = sample_key_frames(1, 64, thirds, AlmostOne(np.random.PCG64(0)))
    # nine inner ones, each shifted by the maximum: 64 / 10 / 3, rounded down
    assert keys[0].tolist() == [0, *(int(6.4 * i) + 2 for i in range(1, 10)), 63]


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        ((0.0, 1.0), [{6, 7, 8, 9}]),  # 16 / 2 = 8, shifted by -2 to 1
        ((0.0, 0.0, 1.0), [{4, 5}, {9, 10}]),  # 5 and 10, shifted by -1 or 0
    ],
)
def test_the_authors_exclude_the_greatest_shift(probs, expected):
    keys = sample_key_frames(4000, 16, probs, rng(), half_open_shift=True)
    for column, frames in zip(keys[:, 1:-1].T, expected, strict=True):
        found, counts = np.unique(column, return_counts=True)
        assert set(found) == frames
        np.testing.assert_allclose(counts / len(column), 1 / len(frames), atol=0.04)


def test_key_frames_too_close_to_be_shifted_stay():
    keys = sample_key_frames(50, 4, (0.0, 1.0), rng(), half_open_shift=True)
    assert set(map(tuple, keys.tolist())) == {(0, 2, 3)}


def test_rows_may_share_the_easing_of_a_segment():
    values = np.tile(np.float64([[[0], [4], [8]]]), (3, 1, 1))
    keys = np.tile([[0, 2, 4]], (3, 1))
    seeds = range(200)
    filled = [
        interpolate(values, keys, (0.6, 0.3, 0.1), rng(seed), shared_easing=True)[..., 0]
        for seed in seeds
    ]
    assert all((clip == clip[0]).all() for clip in filled)
    kinds = {(clip[0, 1], clip[0, 3] - 4) for clip in filled}
    assert kinds == {(first, second) for first in (1, 2, 3) for second in (1, 2, 3)}
