"""Trajectories by both rules: what holds for every draw, and distributions over many draws."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp.keyframes import LINEAR
from ctp.pretext.ctp.config import OFFICIAL, PAPER
from ctp.pretext.ctp.trajectory import sample_trajectories

T, SIZE = 16, (112, 112)
SMOOTH_OFFICIAL = OFFICIAL.replace(whole_pixel_boxes=False, easing_probs=LINEAR)
"""Without rounding and with linear motion, so that rates can be measured."""
PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
FRAME_SIZES = st.tuples(st.integers(24, 200), st.integers(24, 200))
SMALL_BOX = {"box_size_px": (4, 16)}
GAMES = st.builds(
    lambda rules, k, speed, scale: rules.replace(
        num_patches=k, max_speed_px_per_frame=speed, max_log_scale_per_frame=scale, **SMALL_BOX
    ),
    st.sampled_from([PAPER, SMOOTH_OFFICIAL]),
    st.integers(1, 5),
    st.floats(0, 8),
    st.floats(0, 0.1),
)
"""Linear motion, speeds and scales of any size."""
LENGTHS = st.integers(2, 24)
SEEDS = st.integers(0, 2**32)


class Clips(NamedTuple):
    """N draws: boxes float64 [N, K, T, 4], visible bool [N, K, T], source_frame int64 [N, K]."""

    boxes: np.ndarray
    visible: np.ndarray
    source_frame: np.ndarray


def draw(config, num_frames=T, size=SIZE, seeds=range(300)):
    clips = [
        sample_trajectories(config, num_frames, size, np.random.default_rng(seed)) for seed in seeds
    ]
    boxes, visible, source_frame = map(np.stack, zip(*clips, strict=True))
    return Clips(boxes.astype(np.float64), visible, source_frame)


def sizes_of(boxes):
    return boxes[..., 2:] - boxes[..., :2]


def centers_of(boxes):
    return (boxes[..., 2:] + boxes[..., :2]) / 2


def kink_frames(boxes):
    """Frames where a centre's velocity changes, a set for each of K patches."""
    bend = np.abs(np.diff(centers_of(boxes), n=2, axis=1)).max(axis=2)
    return [set(np.flatnonzero(row > 1e-3) + 1) for row in bend]


@pytest.fixture(scope="module")
def paper():
    return draw(PAPER)


@pytest.fixture(scope="module")
def smooth_official():
    return draw(SMOOTH_OFFICIAL)


@pytest.fixture(params=["paper", "smooth_official"])
def clips(request):
    """Draws by either rules."""
    return request.getfixturevalue(request.param)


# ---- what holds for every draw ------------------------------------------------------------------


@PROPERTY
@given(config=GAMES, num_frames=LENGTHS, size=FRAME_SIZES, seed=SEEDS)
def test_there_are_k_trajectories_of_boxes_and_source_frames(config, num_frames, size, seed):
    rng = np.random.default_rng(seed)
    boxes, visible, source_frame = sample_trajectories(config, num_frames, size, rng)
    k = config.num_patches
    assert (boxes.shape, boxes.dtype) == ((k, num_frames, 4), np.float32)
    assert (visible.shape, visible.dtype) == ((k, num_frames), np.bool_)
    assert (source_frame.shape, source_frame.dtype) == ((k,), np.int64)
    assert ((source_frame >= 0) & (source_frame < num_frames)).all()


@PROPERTY
@given(config=GAMES, num_frames=LENGTHS, size=FRAME_SIZES, seed=SEEDS)
def test_centers_keep_a_box_of_the_first_size_inside_the_frame(config, num_frames, size, seed):
    boxes = draw(config, num_frames, size, [seed]).boxes
    half, center = sizes_of(boxes)[:, :, :1] / 2, centers_of(boxes)
    assert (center - half).min() >= -1e-3
    assert (center + half <= np.array(size) + 1e-3).all()


@PROPERTY
@given(config=GAMES, num_frames=LENGTHS, size=FRAME_SIZES, seed=SEEDS)
def test_speed_and_scale_keep_their_limits(config, num_frames, size, seed):
    boxes = draw(config, num_frames, size, [seed]).boxes
    speed = np.abs(np.diff(centers_of(boxes), axis=2))
    assert speed.max() <= config.max_speed_px_per_frame + 1e-3
    # between key frames sizes are linear: the line to the greatest last size is the bound
    reach = config.max_log_scale_per_frame * (num_frames - 1)
    share = np.arange(num_frames) / (num_frames - 1)
    growth = np.abs(np.log(sizes_of(boxes) / sizes_of(boxes)[:, :, :1])).max(axis=(0, 1, 3))
    assert (growth <= np.log1p(np.expm1(reach) * share) + 1e-3).all()
    assert growth[-1] <= reach + 1e-3


@PROPERTY
@given(config=GAMES, num_frames=st.integers(4, 24), seed=SEEDS)
def test_first_and_last_frame_are_key_frames_and_motion_is_linear_between(config, num_frames, seed):
    only_ends = config.replace(inner_key_frame_probs=(1.0,))
    boxes = draw(only_ends, num_frames, (200, 200), [seed]).boxes
    assert np.abs(np.diff(boxes, n=2, axis=2)).max() < 1e-3
    inner = draw(config, num_frames, (200, 200), [seed]).boxes
    most = len(config.inner_key_frame_probs) - 1
    assert max(len(kinks) for clip in inner for kinks in kink_frames(clip)) <= most


@PROPERTY
@given(
    k=st.integers(1, 5),
    num_frames=LENGTHS,
    size=FRAME_SIZES,
    speed=st.floats(0, 20),
    seed=SEEDS,
)
def test_official_boxes_are_whole_pixels_inside_the_frame(k, num_frames, size, speed, seed):
    config = OFFICIAL.replace(num_patches=k, max_speed_px_per_frame=speed)
    boxes = draw(config, num_frames, size, [seed]).boxes
    assert np.array_equal(boxes, np.round(boxes))
    assert boxes[..., :2].min() >= 0
    assert (boxes[..., 2:] <= size).all()
    assert sizes_of(boxes).min() >= 1


@PROPERTY
@given(config=GAMES, num_frames=LENGTHS, size=FRAME_SIZES, seed=SEEDS)
def test_rounding_moves_a_side_by_half_a_pixel_at_most(config, num_frames, size, seed):
    raw = draw(config, num_frames, size, [seed]).boxes
    rounded = draw(config.replace(whole_pixel_boxes=True), num_frames, size, [seed]).boxes
    assert np.abs(rounded - raw.clip(0, [*size, *size])).max() <= 0.5 + 1e-3


@PROPERTY
@given(config=st.sampled_from([PAPER, OFFICIAL]), num_frames=LENGTHS, seed=SEEDS)
def test_trajectories_are_a_pure_function_of_the_generator(config, num_frames, seed):
    np.random.seed(0)  # the global state must not matter
    first = draw(config, num_frames, seeds=[seed])
    np.random.seed(1)
    again = draw(config, num_frames, seeds=[seed])
    other = draw(config, num_frames, seeds=[seed + 1])
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(first.boxes, other.boxes)


@PROPERTY
@given(config=st.sampled_from([PAPER, OFFICIAL]), num_frames=LENGTHS, seed=SEEDS)
def test_nothing_or_everything_is_hidden(config, num_frames, seed):
    shown = draw(config.replace(hidden_prob=0), num_frames, seeds=[seed]).visible
    hidden = draw(config.replace(hidden_prob=1, never_hidden_in=()), num_frames, seeds=[seed])
    assert shown.all()
    assert not hidden.visible.any()


# ---- distributions over many draws --------------------------------------------------------------


def test_the_papers_first_boxes_fill_their_ranges(paper):
    width, height = sizes_of(paper.boxes)[:, :, 0].reshape(-1, 2).T
    size, ratio = np.sqrt(width * height), width / height
    assert size.min() >= 16 - 1e-3
    assert size.max() <= 64 + 1e-3
    assert ratio.min() >= 0.5 - 1e-4
    assert ratio.max() <= 2 + 1e-4
    assert (size.min() < 17, size.max() > 63) == (True, True)
    assert (ratio.min() < 0.52, ratio.max() > 1.95) == (True, True)
    assert abs(np.log(ratio).mean()) < 0.06  # as often wide as high


def test_official_first_boxes_are_the_listed_ones_jittered():
    listed = SMOOTH_OFFICIAL.replace(max_log_box_jitter=0)
    products = {
        (size * ratio**0.5, size * ratio**-0.5)
        for size in listed.box_sizes_px
        for ratio in listed.aspect_ratios
    }
    expected = np.array(sorted(products))
    first = sizes_of(draw(listed, size=(200, 200)).boxes)[:, :, 0].reshape(-1, 2)
    distance = np.abs(first[:, None] - expected).max(axis=2)
    assert distance.min(axis=1).max() < 1e-3
    assert (distance.min(axis=0) < 1e-3).all()  # each of the 42 was drawn

    jittered = sizes_of(draw(SMOOTH_OFFICIAL, size=(200, 200)).boxes)[:, :, 0]
    log_jitter = np.log(jittered.reshape(-1, 1, 2) / expected)
    nearest = np.abs(log_jitter).max(axis=2).min(axis=1)
    assert nearest.max() <= 0.18 + 1e-5
    assert nearest.mean() > 0.02


def test_first_boxes_are_clipped_to_a_small_frame():
    first = draw(SMOOTH_OFFICIAL, size=(40, 30)).boxes[:, :, 0]
    assert first[..., :2].min() >= -1e-4
    assert (first[..., 2:] <= np.array([40, 30]) + 1e-4).all()
    assert sizes_of(first)[..., 1].max() == pytest.approx(29, abs=1e-4)


def test_the_limits_of_speed_and_scale_are_reached(clips):
    speed = np.abs(np.diff(centers_of(clips.boxes), axis=2))
    assert 2.95 < speed.max() <= 3 + 1e-4
    growth = np.abs(np.log(sizes_of(clips.boxes) / sizes_of(clips.boxes)[:, :, :1]))
    assert growth.max() > 0.7 * 0.025 * (T - 1)


def test_eased_motion_keeps_the_limits_between_key_frames():
    only_ends = OFFICIAL.replace(inner_key_frame_probs=(1.0,), whole_pixel_boxes=False)
    boxes = draw(only_ends, size=(300, 300)).boxes
    move = np.abs(centers_of(boxes)[:, :, -1] - centers_of(boxes)[:, :, 0])
    assert move.max() <= 3 * (T - 1) + 1e-3
    assert move.max() > 0.95 * 3 * (T - 1)
    growth = np.abs(np.log(sizes_of(boxes)[:, :, -1] / sizes_of(boxes)[:, :, 0]))
    assert growth.max() <= 0.025 * (T - 1) + 1e-5
    assert growth.max() > 0.95 * 0.025 * (T - 1)
    speed = np.abs(np.diff(centers_of(boxes), axis=2)).max()
    assert 3.5 < speed <= 2 * 3 + 1e-3  # p² is twice as fast at its end


def test_the_paper_keeps_the_aspect_ratio_and_the_official_rules_do_not(paper, smooth_official):
    for clips, keeps in ((paper, True), (smooth_official, False)):
        size = sizes_of(clips.boxes)
        ratio = size[..., 0] / size[..., 1]
        drift = np.abs(np.log(ratio / ratio[:, :, :1])).max()
        assert (drift < 1e-4) == keeps


def test_boxes_of_the_paper_may_grow_over_the_edge(paper):
    assert paper.boxes.min() < -0.5
    assert paper.boxes.max() > 112.5


def test_official_patches_share_key_frames_and_the_papers_do_not(paper, smooth_official):
    together = [len(set().union(*kink_frames(clip))) for clip in smooth_official.boxes]
    apart = [len(set().union(*kink_frames(clip))) for clip in paper.boxes]
    assert set(together) == {0, 1, 2}  # inner key frames, whatever the patch
    assert max(apart) > 3
    alone = [len(kinks) for clip in paper.boxes for kinks in kink_frames(clip)]
    assert max(alone) == 3


def test_official_sizes_change_at_other_key_frames_than_positions(smooth_official):
    boxes = smooth_official.boxes
    size_bends = np.abs(np.diff(sizes_of(boxes), n=2, axis=2)).max(axis=(1, 3)) > 1e-3
    center_bends = np.abs(np.diff(centers_of(boxes), n=2, axis=2)).max(axis=(1, 3)) > 1e-3
    assert (size_bends & ~center_bends).any()
    assert (center_bends & ~size_bends).any()


def test_a_fifth_of_the_frames_is_hidden(clips):
    always = np.zeros(clips.visible.shape, bool)
    if clips.visible[:, :, 0].all():  # official
        always[:, :, 0] = True
        np.put_along_axis(always, clips.source_frame[..., None], True, axis=2)
    trials = (~always).sum()
    hidden = (~clips.visible).sum()
    assert abs(hidden - 0.2 * trials) < 5 * np.sqrt(trials * 0.2 * 0.8)


def test_official_rules_show_the_first_and_the_source_frame_and_the_paper_may_hide_them(
    paper, smooth_official
):
    for clips, always in ((smooth_official, True), (paper, False)):
        assert clips.visible[:, :, 0].all() == always
        source = clips.source_frame[..., None]
        assert np.take_along_axis(clips.visible, source, axis=2).all() == always


def test_source_frames_are_uniform(clips):
    count = np.bincount(clips.source_frame.ravel(), minlength=T)
    expected = clips.source_frame.size / T
    assert len(count) == T
    assert np.abs(count - expected).max() < 5 * np.sqrt(expected)


def test_official_patches_share_their_easing():
    config = OFFICIAL.replace(
        inner_key_frame_probs=(1.0,), whole_pixel_boxes=False, max_log_scale_per_frame=0
    )
    center = centers_of(draw(config, size=(300, 300)).boxes)
    move = center[:, :, -1] - center[:, :, 0]
    share = (center[:, :, 5] - center[:, :, 0]) / np.where(np.abs(move) > 1, move, np.nan)
    kinds = [1 / 9, 1 / 3, 5 / 9]  # p², p, 1 - (1 - p)² at p = 5 / 15
    kind = np.abs(share[..., None] - kinds).argmin(axis=-1)
    drawn = ~np.isnan(share)
    np.testing.assert_allclose(share[drawn], np.take(kinds, kind)[drawn], atol=1e-3)
    first = np.nanmedian(np.where(drawn, kind, np.nan), axis=(1, 2))
    assert (np.where(drawn, kind, first[:, None, None]) == first[:, None, None]).all()
    np.testing.assert_allclose(np.bincount(first.astype(int)) / 300, [0.15, 0.7, 0.15], atol=0.08)
