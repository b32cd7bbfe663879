"""The whole game on frames whose pixels say where they come from."""

import numpy as np
import pytest

from ctp.pretext.ctp.config import GameConfig, official, paper
from ctp.pretext.ctp.game import play

T = 8
STILL = GameConfig(
    max_speed_px_per_frame=0, max_log_scale_per_frame=0, min_box_size_px=20, max_box_size_px=40
)


def numbered_frames(t=T):
    """Frames of one value each, 10 times their number."""
    return np.broadcast_to((10 * np.arange(t, dtype=np.uint8))[:, None, None, None], (t, 64, 64, 3))


def gradient():
    y, x = np.mgrid[:64, :64]
    return np.stack([3 * x, 3 * y, 100 + x - y], axis=-1).astype(np.uint8)


def inside(box):
    """Slices of the pixels whose centres lie in a box of the 64×64 frame."""
    x1, y1, x2, y2 = np.clip(np.ceil(box - 0.5), 0, 64).astype(int)
    return slice(y1, y2), slice(x1, x2)


@pytest.mark.parametrize("seed", range(5))
def test_a_patch_shows_the_frame_that_it_was_cut_from(seed):
    frames = numbered_frames()
    pasted, game = play(frames, STILL.replace(num_patches=1), np.random.default_rng(seed))
    for t in range(T):
        expected = frames[t].copy()
        if game.visible[0, t]:
            expected[inside(game.boxes[0, t])] = 10 * game.source_frame[0]
        assert np.array_equal(pasted[t], expected)


@pytest.mark.parametrize("seed", range(5))
def test_all_patches_are_cut_before_one_is_pasted(seed):
    config = STILL.replace(hidden_prob=0, min_box_size_px=40)  # so large that they overlap
    frames = numbered_frames()
    pasted, game = play(frames, config, np.random.default_rng(seed))
    expected = frames.copy()
    for k in range(config.num_patches):
        for t in range(T):
            expected[t][inside(game.boxes[k, t])] = 10 * game.source_frame[k]
    assert np.array_equal(pasted, expected)


@pytest.mark.parametrize("seed", range(5))
def test_another_clip_gives_the_patch_at_the_same_box(seed):
    donor = gradient()
    config = STILL.replace(num_patches=1, patch_source="other_clip", hidden_prob=0)
    pasted, game = play(numbered_frames(), config, np.random.default_rng(seed), donor[None])
    box = inside(game.boxes[0, 0])
    for t in range(T):
        assert np.array_equal(pasted[t][box], donor[box])
        outside = np.ones((64, 64), bool)
        outside[box] = False
        assert (pasted[t][outside] == 10 * t).all()


@pytest.mark.parametrize("seed", range(8))
def test_the_smallest_patch_lies_on_top_if_large_first(seed):
    config = STILL.replace(large_first=True, hidden_prob=0, min_box_size_px=16, max_box_size_px=60)
    pasted, game = play(numbered_frames(), config, np.random.default_rng(seed))
    size = (game.boxes[:, 0, 2:] - game.boxes[:, 0, :2]).prod(axis=1)
    smallest = size.argmin()
    shown = pasted[0][inside(game.boxes[smallest, 0])]
    assert (shown == 10 * game.source_frame[smallest]).all()


def test_without_large_first_a_large_patch_hides_small_ones():
    config = STILL.replace(hidden_prob=0, min_box_size_px=16, max_box_size_px=60)
    covered = 0
    for seed in range(20):
        pasted, game = play(numbered_frames(), config, np.random.default_rng(seed))
        smallest = (game.boxes[:, 0, 2:] - game.boxes[:, 0, :2]).prod(axis=1).argmin()
        shown = pasted[0][inside(game.boxes[smallest, 0])]
        covered += (shown != 10 * game.source_frame[smallest]).any()
    assert covered > 0


@pytest.mark.parametrize("preset", [paper, official])
@pytest.mark.parametrize("patch_source", ["trajectory", "other_clip"])
def test_a_pure_function_of_its_arguments(preset, patch_source):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(T, 64, 64, 3), dtype=np.uint8)
    before = frames.copy()
    config = preset().replace(patch_source=patch_source)
    donors = np.stack([gradient()] * config.num_patches)
    first, game = play(frames, config, np.random.default_rng(3), donors)
    again, game_again = play(frames, config, np.random.default_rng(3), donors)
    other, _ = play(frames, config, np.random.default_rng(4), donors)
    assert np.array_equal(first, again)
    assert np.array_equal(game.boxes, game_again.boxes)
    assert not np.array_equal(first, other)
    assert np.array_equal(frames, before)


@pytest.mark.parametrize("seed", range(10))
def test_pixels_change_only_inside_visible_boxes(seed):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, size=(T, 64, 64, 3), dtype=np.uint8)
    pasted, game = play(frames, official(), rng)
    may_change = np.zeros(frames.shape[:3], bool)
    for k, t in zip(*np.nonzero(game.visible), strict=True):
        may_change[t][inside(game.boxes[k, t])] = True
    assert np.array_equal(pasted[~may_change], frames[~may_change])
    assert not np.array_equal(pasted, frames)


def test_opacity_stays_in_its_range():
    frames = np.zeros((T, 64, 64, 3), np.uint8)
    donor = np.full((64, 64, 3), 200, np.uint8)
    config = STILL.replace(num_patches=1, patch_source="other_clip", min_opacity=0.5, hidden_prob=0)
    middle = []
    for seed in range(30):
        pasted, game = play(frames, config, np.random.default_rng(seed), donor[None])
        x, y = (game.boxes[0, 0, :2] + game.boxes[0, 0, 2:]).astype(int) // 2
        middle.append(pasted[:, y, x, 0])
    shown = np.stack(middle)
    assert shown.min() >= 100
    assert shown.max() <= 200
    assert shown.min() < 120
    assert (np.ptp(shown.astype(int), axis=1) > 0).mean() > 0.9  # it varies within a clip


def test_one_frame_is_refused():
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        play(numbered_frames(1), paper(), np.random.default_rng(0))


def test_each_patch_has_a_donor_of_its_own():
    frames = np.zeros((T, 64, 64, 3), np.uint8)
    donors = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (50, 100, 150)])
    config = STILL.replace(patch_source="other_clip", hidden_prob=0)
    pasted, game = play(frames, config, np.random.default_rng(0), donors)
    assert (pasted[0][inside(game.boxes[2, 0])] == 150).all()  # pasted last
    assert set(np.unique(pasted)) <= {0, 50, 100, 150}
    assert {0, 50, 100, 150} - set(np.unique(pasted)) <= {50, 100}  # may lie under another


@pytest.mark.parametrize(
    ("donors", "message"),
    [(None, "got none"), (np.zeros((3, 32, 64, 3), np.uint8), r"got an array of \(3, 32, 64, 3\)")],
)
def test_another_clip_needs_donors_of_the_same_size(donors, message):
    config = paper().replace(patch_source="other_clip")
    with pytest.raises(ValueError, match=message):
        play(numbered_frames(), config, np.random.default_rng(0), donors)
