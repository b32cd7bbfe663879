"""Trajectories of both presets, over many draws."""

import numpy as np
import pytest

from ctp.keyframes import LINEAR
from ctp.pretext.ctp.config import GameConfig, official, paper
from ctp.pretext.ctp.trajectory import sample_trajectories

T, SIZE = 16, (112, 112)
SEEDS = 300


def draws(config, *, num_frames=T, size=SIZE, seeds=SEEDS):
    """Boxes float64 [N, K, T, 4], visible [N, K, T], source frames [N, K] of many clips."""
    clips = [
        sample_trajectories(config, num_frames, size, np.random.default_rng(seed))
        for seed in range(seeds)
    ]
    return (
        np.stack([clip.boxes for clip in clips]).astype(np.float64),
        np.stack([clip.visible for clip in clips]),
        np.stack([clip.source_frame for clip in clips]),
    )


def sizes_of(boxes):
    return boxes[..., 2:] - boxes[..., :2]


def centers_of(boxes):
    return (boxes[..., 2:] + boxes[..., :2]) / 2


def kink_frames(boxes):
    """Frames where a centre's velocity changes, a set for each of K patches."""
    bend = np.abs(np.diff(centers_of(boxes), n=2, axis=1)).max(axis=2)
    return [set(np.flatnonzero(row > 1e-3) + 1) for row in bend]


def smooth_official():
    """The official preset before rounding, its motion linear, so that rates can be measured."""
    return official().replace(whole_pixel_boxes=False, easing_probs=LINEAR)


@pytest.mark.parametrize("preset", [paper, official])
def test_shapes_and_dtypes(preset):
    clip = sample_trajectories(preset(), 9, SIZE, np.random.default_rng(0))
    assert (clip.boxes.shape, clip.boxes.dtype) == ((3, 9, 4), np.float32)
    assert (clip.visible.shape, clip.visible.dtype) == ((3, 9), np.bool_)
    assert (clip.source_frame.shape, clip.source_frame.dtype) == ((3,), np.int64)


def test_paper_first_boxes_fill_their_ranges():
    boxes, _, _ = draws(paper())
    width, height = sizes_of(boxes)[:, :, 0].reshape(-1, 2).T
    size, ratio = np.sqrt(width * height), width / height
    assert size.min() >= 16 - 1e-3
    assert size.max() <= 64 + 1e-3
    assert ratio.min() >= 0.5 - 1e-4
    assert ratio.max() <= 2 + 1e-4
    assert (size.min() < 17, size.max() > 63) == (True, True)
    assert (ratio.min() < 0.52, ratio.max() > 1.95) == (True, True)
    assert abs(np.log(ratio).mean()) < 0.06  # as often wide as high


def test_official_first_boxes_are_the_listed_ones_jittered():
    listed = smooth_official().replace(max_log_box_jitter=0)
    products = {
        (size * ratio**0.5, size * ratio**-0.5)
        for size in listed.box_sizes_px
        for ratio in listed.aspect_ratios
    }
    expected = np.array(sorted(products))
    boxes, _, _ = draws(listed, size=(200, 200))
    first = sizes_of(boxes)[:, :, 0].reshape(-1, 2)
    distance = np.abs(first[:, None] - expected).max(axis=2)
    assert distance.min(axis=1).max() < 1e-3
    assert (distance.min(axis=0) < 1e-3).all()  # every one of the 42 came

    jittered, _, _ = draws(smooth_official(), size=(200, 200))
    log_jitter = np.log(sizes_of(jittered)[:, :, 0].reshape(-1, 1, 2) / expected)
    nearest = np.abs(log_jitter).max(axis=2).min(axis=1)
    assert nearest.max() <= 0.18 + 1e-5
    assert nearest.mean() > 0.02


def test_first_boxes_are_clipped_to_a_small_frame():
    boxes, _, _ = draws(smooth_official(), size=(40, 30))
    first = boxes[:, :, 0]
    assert first[..., :2].min() >= -1e-4
    assert (first[..., 2:] <= np.array([40, 30]) + 1e-4).all()
    assert sizes_of(first)[..., 1].max() == pytest.approx(29, abs=1e-4)


@pytest.mark.parametrize("config", [paper(), smooth_official()])
def test_linear_motion_never_exceeds_three_pixels_a_frame(config):
    speed = np.abs(np.diff(centers_of(draws(config)[0]), axis=2))
    assert speed.max() <= 3 + 1e-4
    assert speed.max() > 2.95
    slow = np.abs(np.diff(centers_of(draws(config.replace(max_speed_px_per_frame=0))[0]), axis=2))
    assert slow.max() < 1e-4


def test_eased_motion_keeps_the_limits_between_key_frames():
    only_ends = official().replace(inner_key_frame_probs=(1.0,), whole_pixel_boxes=False)
    boxes, _, _ = draws(only_ends, size=(300, 300))
    move = np.abs(centers_of(boxes)[:, :, -1] - centers_of(boxes)[:, :, 0])
    assert move.max() <= 3 * (T - 1) + 1e-3
    assert move.max() > 0.95 * 3 * (T - 1)
    growth = np.abs(np.log(sizes_of(boxes)[:, :, -1] / sizes_of(boxes)[:, :, 0]))
    assert growth.max() <= 0.025 * (T - 1) + 1e-5
    assert growth.max() > 0.95 * 0.025 * (T - 1)
    speed = np.abs(np.diff(centers_of(boxes), axis=2)).max()
    assert 3.5 < speed <= 2 * 3 + 1e-3  # p² is twice as fast at its end


@pytest.mark.parametrize("config", [paper(), smooth_official()])
def test_scale_limit(config):
    size = sizes_of(draws(config)[0])
    total = np.abs(np.log(size / size[:, :, :1])).max(axis=(0, 1, 3))
    # sizes are linear between key frames, so the line to the greatest last size bounds them
    greatest = np.expm1(0.025 * (T - 1)) * np.arange(T) / (T - 1)
    assert (total <= np.log1p(greatest) + 1e-4).all()
    assert total[-1] <= 0.025 * (T - 1) + 1e-5
    assert total[-1] > 0.7 * 0.025 * (T - 1)


def test_paper_keeps_the_aspect_ratio_and_official_does_not():
    for config, keeps in ((paper(), True), (smooth_official(), False)):
        size = sizes_of(draws(config)[0])
        ratio = size[..., 0] / size[..., 1]
        drift = np.abs(np.log(ratio / ratio[:, :, :1])).max()
        assert (drift < 1e-4) == keeps


@pytest.mark.parametrize("config", [paper(), smooth_official()])
@pytest.mark.parametrize("size", [(112, 112), (160, 90)])
def test_centres_keep_the_first_box_inside(config, size):
    boxes, _, _ = draws(config, size=size)
    half = sizes_of(boxes)[:, :, :1] / 2
    center = centers_of(boxes)
    assert (center - half).min() >= -1e-3
    assert (np.array(size) - center - half).min() >= -1e-3


def test_paper_boxes_may_grow_over_the_edge():
    boxes, _, _ = draws(paper())
    assert boxes.min() < -0.5


@pytest.mark.parametrize("size", [(112, 112), (48, 30)])
def test_official_boxes_are_whole_pixels_inside_the_frame(size):
    boxes, _, _ = draws(official(), size=size)
    assert np.array_equal(boxes, np.round(boxes))
    assert boxes[..., :2].min() >= 0
    assert (boxes[..., 2:] <= size).all()
    assert sizes_of(boxes).min() >= 1


def test_rounding_moves_an_edge_by_half_a_pixel_at_most():
    free = np.random.default_rng(3)
    whole = np.random.default_rng(3)
    config = official().replace(whole_pixel_boxes=False)
    raw = sample_trajectories(config, T, SIZE, free).boxes
    rounded = sample_trajectories(official(), T, SIZE, whole).boxes
    assert np.abs(rounded - raw.clip(0, 112)).max() <= 0.5 + 1e-4
    assert np.abs(rounded - raw).max() > 0.3


def test_official_patches_share_key_frames_and_paper_patches_do_not():
    together = [len(set().union(*kink_frames(clip))) for clip in draws(smooth_official())[0]]
    apart = [len(set().union(*kink_frames(clip))) for clip in draws(paper())[0]]
    assert set(together) == {0, 1, 2}  # inner key frames, whatever the patch
    assert max(apart) > 3
    alone = [len(kinks) for clip in draws(paper())[0] for kinks in kink_frames(clip)]
    assert max(alone) == 3


def test_official_sizes_change_at_key_frames_of_their_own():
    boxes = draws(smooth_official().replace(max_speed_px_per_frame=0))[0]
    moving = draws(smooth_official())[0]
    size_bends = np.abs(np.diff(sizes_of(moving), n=2, axis=2)).max(axis=(1, 3)) > 1e-3
    center_bends = np.abs(np.diff(centers_of(moving), n=2, axis=2)).max(axis=(1, 3)) > 1e-3
    assert np.abs(np.diff(centers_of(boxes), axis=2)).max() < 1e-4
    assert (size_bends & ~center_bends).any()
    assert (center_bends & ~size_bends).any()


def test_hidden_share_is_a_fifth():
    for preset in (paper, official):
        _, visible, source = draws(preset())
        free = np.ones(visible.shape, bool)
        if preset is official:
            free[:, :, 0] = False
            np.put_along_axis(free, source[..., None], False, axis=2)
        trials = free.sum()
        hidden = (~visible & free).sum()
        assert abs(hidden - 0.2 * trials) < 5 * np.sqrt(trials * 0.2 * 0.8)


def test_official_always_shows_the_first_and_the_source_frame_and_paper_does_not():
    for preset, always in ((official, True), (paper, False)):
        _, visible, source = draws(preset())
        assert visible[:, :, 0].all() == always
        assert np.take_along_axis(visible, source[..., None], axis=2).all() == always


@pytest.mark.parametrize(("hidden_prob", "shown"), [(0.0, True), (1.0, False)])
def test_hiding_nothing_or_all(hidden_prob, shown):
    _, visible, _ = draws(GameConfig(hidden_prob=hidden_prob), seeds=20)
    assert (visible == shown).all()


def test_source_frames_are_uniform():
    _, _, source = draws(paper())
    count = np.bincount(source.ravel(), minlength=T)
    expected = source.size / T
    assert len(count) == T
    assert np.abs(count - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("preset", [paper, official])
def test_a_pure_function_of_the_generator(preset):
    np.random.seed(0)  # the global state must not matter
    first = sample_trajectories(preset(), T, SIZE, np.random.default_rng(5))
    np.random.seed(1)
    again = sample_trajectories(preset(), T, SIZE, np.random.default_rng(5))
    other = sample_trajectories(preset(), T, SIZE, np.random.default_rng(6))
    for field in ("boxes", "visible", "source_frame"):
        assert np.array_equal(getattr(first, field), getattr(again, field))
    assert not np.array_equal(first.boxes, other.boxes)


@pytest.mark.parametrize("preset", [paper, official])
def test_two_frames_are_enough(preset):
    boxes, _, _ = draws(preset(), num_frames=2, seeds=50)
    assert boxes.shape == (50, 3, 2, 4)
    assert np.abs(np.diff(centers_of(boxes), axis=2)).max() <= 3 + 1  # and a pixel of rounding
