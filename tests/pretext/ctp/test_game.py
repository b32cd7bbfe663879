"""Rounds of the game: how patches look and which lies on top, and whole rounds on frames whose
pixels show where they come from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp.pretext.ctp.appearance import ELLIPSE, HARD_EDGE, RECTANGLE, RHOMBUS
from ctp.pretext.ctp.config import OFFICIAL, PAPER, GameConfig
from ctp.pretext.ctp.game import draw_game
from ctp.pretext.ctp.paste import paste

T = 8
STILL = GameConfig(max_speed_px_per_frame=0, max_log_scale_per_frame=0, box_size_px=(20, 40))
PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
SEEDS = st.integers(0, 2**32)
RULES = st.sampled_from([PAPER, OFFICIAL])


def draw(config, seed, num_frames=T, size=(64, 64)):
    return draw_game(config, num_frames, size, np.random.default_rng(seed))


def inside(box):
    """Slices of the pixels whose centres lie in a box of the 64×64 frame."""
    x1, y1, x2, y2 = np.clip(np.ceil(box - 0.5), 0, 64).astype(int)
    return slice(y1, y2), slice(x1, x2)


@pytest.fixture
def numbered():
    """Frames with one value each, 10 times their number."""
    return np.broadcast_to((10 * np.arange(T, dtype=np.uint8))[:, None, None, None], (T, 64, 64, 3))


@pytest.fixture
def gradient():
    """A picture whose pixels all differ."""
    y, x = np.mgrid[:64, :64]
    return np.stack([3 * x, 3 * y, 100 + x - y], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def many():
    """Games by the official rules."""
    return [draw(OFFICIAL, seed, num_frames=16, size=(112, 112)) for seed in range(400)]


# ---- what is drawn ------------------------------------------------------------------------------


@PROPERTY
@given(config=RULES, k=st.integers(1, 5), num_frames=st.integers(2, 24), seed=SEEDS)
def test_a_game_has_k_patches_in_every_array(config, k, num_frames, seed):
    game = draw(config.replace(num_patches=k), seed, num_frames)
    assert [(array.shape, array.dtype) for array in game] == [
        ((k, num_frames, 4), np.float32),
        ((k, num_frames), np.bool_),
        ((k,), np.int64),
        ((k,), np.int64),
        ((k,), np.float64),
        ((k, num_frames), np.float32),
        ((k,), np.int64),
    ]
    assert sorted(game.order) == list(range(k))


@PROPERTY
@given(config=RULES, seed=SEEDS)
def test_a_game_is_a_pure_function_of_the_generator(config, seed):
    first, again, other = draw(config, seed), draw(config, seed), draw(config, seed + 1)
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(first.boxes, other.boxes)


@PROPERTY
@given(k=st.integers(1, 6), seed=SEEDS)
def test_large_patches_are_pasted_first_if_the_rules_say_so(k, seed):
    official = draw(OFFICIAL.replace(num_patches=k), seed)
    mean_size = (official.boxes[..., 2:] - official.boxes[..., :2]).mean(axis=1)
    area = mean_size.prod(axis=1)[official.order]
    assert (np.diff(area) <= 0).all()
    assert draw(PAPER.replace(num_patches=k), seed).order.tolist() == list(range(k))


@PROPERTY
@given(seed=SEEDS)
def test_patches_of_the_paper_are_opaque_rectangles_with_hard_edges(seed):
    game = draw(PAPER, seed)
    assert (game.shape == RECTANGLE).all()
    assert (game.soft_edge_start == HARD_EDGE).all()
    assert (game.opacity == 1).all()


def test_official_shapes_and_edges_have_their_shares(many):
    shapes = np.concatenate([game.shape for game in many])
    for shape, share in ((RECTANGLE, 0.5), (ELLIPSE, 0.35), (RHOMBUS, 0.15)):
        assert (shapes == shape).mean() == pytest.approx(share, abs=0.06)
    starts = np.concatenate([game.soft_edge_start for game in many])
    soft = starts[starts != HARD_EDGE]
    assert len(soft) / len(starts) == pytest.approx(0.5, abs=0.06)
    assert 0.30 <= soft.min() < 0.31
    assert 0.44 < soft.max() <= 0.45


def test_official_opacity_fills_its_range_and_varies_within_a_clip(many):
    opacity = np.concatenate([game.opacity for game in many])
    assert 0.8 <= opacity.min() < 0.81
    assert 0.99 < opacity.max() <= 1
    assert (np.ptp(opacity, axis=1) > 0).mean() > 0.9


def test_one_frame_is_refused():
    with pytest.raises(ValueError, match="2 frames, got 1"):
        draw(PAPER, 0, num_frames=1)


# ---- whole rounds -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_patch_shows_the_frame_that_it_was_cut_from(numbered, seed):
    game = draw(STILL.replace(num_patches=1), seed)
    expected = numbered.copy()
    for t in np.flatnonzero(game.visible[0]):
        expected[t][inside(game.boxes[0, t])] = 10 * game.source_frame[0]
    assert np.array_equal(paste(numbered, game), expected)


@pytest.mark.parametrize("seed", range(5))
def test_all_patches_are_cut_before_one_is_pasted(numbered, seed):
    game = draw(STILL.replace(hidden_prob=0, box_size_px=(40, 40)), seed)  # they overlap
    expected = numbered.copy()
    for k in range(3):
        for t in range(T):
            expected[t][inside(game.boxes[k, t])] = 10 * game.source_frame[k]
    assert np.array_equal(paste(numbered, game), expected)


@pytest.mark.parametrize("seed", range(5))
def test_another_picture_gives_the_patch_at_the_same_box(numbered, gradient, seed):
    game = draw(STILL.replace(num_patches=1, hidden_prob=0), seed)
    pasted, box = paste(numbered, game, gradient[None]), inside(game.boxes[0, 0])
    expected = numbered.copy()
    expected[:, *box] = gradient[box]
    assert np.array_equal(pasted, expected)


def test_each_patch_has_a_source_of_its_own():
    frames = np.zeros((T, 64, 64, 3), np.uint8)
    sources = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (50, 100, 150)])
    game = draw(STILL.replace(hidden_prob=0), 0)
    pasted = paste(frames, game, sources)
    assert (pasted[0][inside(game.boxes[2, 0])] == 150).all()  # pasted last
    assert set(np.unique(pasted)) <= {0, 50, 100, 150}
    assert {0, 50, 100, 150} - set(np.unique(pasted)) <= {50, 100}  # may lie under another


@pytest.mark.parametrize("seed", range(8))
def test_the_smallest_patch_is_on_top_with_large_first(numbered, seed):
    game = draw(STILL.replace(large_first=True, hidden_prob=0, box_size_px=(16, 60)), seed)
    smallest = (game.boxes[:, 0, 2:] - game.boxes[:, 0, :2]).prod(axis=1).argmin()
    shown = paste(numbered, game)[0][inside(game.boxes[smallest, 0])]
    assert (shown == 10 * game.source_frame[smallest]).all()


def test_without_large_first_a_large_patch_hides_small_ones(numbered):
    covered = 0
    for seed in range(20):
        game = draw(STILL.replace(hidden_prob=0, box_size_px=(16, 60)), seed)
        smallest = (game.boxes[:, 0, 2:] - game.boxes[:, 0, :2]).prod(axis=1).argmin()
        shown = paste(numbered, game)[0][inside(game.boxes[smallest, 0])]
        covered += (shown != 10 * game.source_frame[smallest]).any()
    assert covered > 0
