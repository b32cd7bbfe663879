"""Pasting, held to a pixel-by-pixel reference in float64 and to cases worked by hand."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp.pretext.ctp.appearance import ELLIPSE, HARD_EDGE, RECTANGLE, RHOMBUS
from ctp.pretext.ctp.config import OFFICIAL, PAPER
from ctp.pretext.ctp.game import Game, draw_game
from ctp.pretext.ctp.paste import paste, patch_alpha

T, H, W = 4, 13, 17
PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
RULES = st.sampled_from([PAPER, OFFICIAL, OFFICIAL.replace(whole_pixel_boxes=False)])
SEEDS = st.integers(0, 2**32)


def opaque_game(boxes, **fields):
    """A game of opaque rectangles, cut from frame 0 and pasted in turn; `fields` differ."""
    boxes = np.asarray(boxes, np.float32)
    k, t, _ = boxes.shape
    game = Game(
        boxes=boxes,
        visible=np.ones((k, t), bool),
        source_frame=np.zeros(k, np.int64),
        shape=np.full(k, RECTANGLE),
        soft_edge_start=np.full(k, HARD_EDGE),
        opacity=np.ones((k, t), np.float32),
        order=np.arange(k),
    )
    return game._replace(**{name: np.asarray(value) for name, value in fields.items()})


def random_frames(rng, t=T, h=H, w=W):
    return rng.integers(0, 256, size=(t, h, w, 3), dtype=np.uint8)


def random_boxes(rng, k):
    """Fractional boxes that keep their centres inside and often reach over the frame's edge."""
    center = rng.uniform(0, 1, size=(k, T, 2)) * [W, H]
    half = rng.uniform(1, 6, size=(k, T, 2))
    return np.concatenate([center - half, center + half], axis=2).astype(np.float32)


def pixels_inside(low, high, size):
    return [i for i in range(size) if low <= i + 0.5 < high]


def taps(center, box, source, pixels):
    """Two neighbours among the patch's pixels and the weight of the second."""
    place = (center - box[0]) / (box[1] - box[0])
    position = source[0] + place * (source[1] - source[0]) - 0.5
    position = min(max(position, pixels[0]), pixels[-1])
    lower = math.floor(position)
    return lower, min(lower + 1, pixels[-1]), position - lower


def alpha_at(x, y, shape, start):
    distance = {
        RECTANGLE: max(abs(x), abs(y)),
        ELLIPSE: math.sqrt(x * x + y * y),
        RHOMBUS: abs(x) + abs(y),
    }[shape]
    if start == HARD_EDGE:
        return 1.0 if shape == RECTANGLE or distance < 0.5 else 0.0
    return min(max((0.5 - distance) / (0.5 - start), 0.0), 1.0)


def reference_paste(frames, game, sources):
    """The definition at the top of paste.py, one pixel at a time."""
    out = frames.astype(np.float64)
    _, height, width, _ = frames.shape
    for k, t in product(game.order, range(len(frames))):
        if not game.visible[k, t]:
            continue
        x1, y1, x2, y2 = game.boxes[k, t].astype(np.float64)
        sx1, sy1, sx2, sy2 = game.boxes[k, game.source_frame[k]].astype(np.float64)
        source = sources[k].astype(np.float64)
        rows, columns = pixels_inside(sy1, sy2, height), pixels_inside(sx1, sx2, width)
        for j in pixels_inside(y1, y2, height):
            for i in pixels_inside(x1, x2, width):
                left, right, u = taps(i + 0.5, (x1, x2), (sx1, sx2), columns)
                top, bottom, v = taps(j + 0.5, (y1, y2), (sy1, sy2), rows)
                above = (1 - u) * source[top, left] + u * source[top, right]
                below = (1 - u) * source[bottom, left] + u * source[bottom, right]
                value = (1 - v) * above + v * below
                x, y = (i + 0.5 - x1) / (x2 - x1) - 0.5, (j + 0.5 - y1) / (y2 - y1) - 0.5
                alpha = alpha_at(x, y, game.shape[k], game.soft_edge_start[k])
                alpha *= float(game.opacity[k, t])
                out[t, j, i] = np.floor((1 - alpha) * out[t, j, i] + alpha * value + 0.5)
    return out


def largest_difference(first, second):
    return np.abs(first.astype(np.float64) - second.astype(np.float64)).max()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [RECTANGLE, ELLIPSE, RHOMBUS])
@pytest.mark.parametrize("soft_edge_start", [HARD_EDGE, 0.3])
@pytest.mark.parametrize("min_opacity", [1.0, 0.5])
def test_equals_the_reference_for_every_appearance(shape, soft_edge_start, min_opacity):
    rng = np.random.default_rng([shape, round(10 * soft_edge_start), round(10 * min_opacity)])
    frames, k = random_frames(rng), 3
    game = opaque_game(
        random_boxes(rng, k),
        shape=np.full(k, shape),
        soft_edge_start=np.full(k, soft_edge_start),
        opacity=rng.uniform(min_opacity, 1, size=(k, T)).astype(np.float32),
        visible=rng.random((k, T)) < 0.8,
        source_frame=rng.integers(T, size=k),
        order=rng.permutation(k),
    )
    sources = random_frames(rng, t=k)
    pasted, expected = paste(frames, game, sources), reference_paste(frames, game, sources)
    assert largest_difference(frames, expected) > 50
    assert largest_difference(pasted, expected) <= 1
    assert (pasted == expected).mean() > 0.99


@PROPERTY
@given(rules=RULES, k=st.integers(1, 4), hidden_prob=st.floats(0, 1), seed=SEEDS)
def test_pixels_change_only_in_the_boxes_of_visible_patches(rules, k, hidden_prob, seed):
    rng = np.random.default_rng(seed)
    config = rules.replace(num_patches=k, hidden_prob=hidden_prob)
    frames = random_frames(rng, t=5, h=70, w=80)
    before, game = frames.copy(), draw_game(config, 5, (80, 70), rng)
    pasted = paste(frames, game)
    may_change = np.zeros(frames.shape[:3], bool)
    for k, t in zip(*np.nonzero(game.visible), strict=True):
        x1, y1, x2, y2 = np.ceil(game.boxes[k, t] - 0.5).clip(0).astype(int)
        may_change[t, y1:y2, x1:x2] = True
    assert np.array_equal(pasted[~may_change], frames[~may_change])
    assert np.array_equal(frames, before)


@PROPERTY
@given(rules=RULES, patch=st.integers(0, 2), seed=SEEDS)
def test_a_hidden_patch_changes_nothing(rules, patch, seed):
    rng = np.random.default_rng(seed)
    frames, sources = random_frames(rng, h=70, w=80), random_frames(rng, t=3, h=70, w=80)
    game = draw_game(rules, T, (80, 70), rng)
    game.visible[patch] = False
    without = game._replace(order=game.order[game.order != patch])
    rest = np.array([k for k in range(3) if k != patch])
    fields = {name: getattr(game, name)[rest] for name in Game._fields if name != "order"}
    without = Game(**fields, order=np.searchsorted(rest, without.order))
    assert np.array_equal(paste(frames, game, sources), paste(frames, without, sources[rest]))


@PROPERTY
@given(seed=SEEDS)
def test_the_source_frame_gets_its_own_pixels_back(seed):
    rng = np.random.default_rng(seed)
    frames = random_frames(rng)
    game = opaque_game(random_boxes(rng, 2), source_frame=[2, 2])
    pasted = paste(frames, game)
    assert np.array_equal(pasted[2], frames[2])
    assert not np.array_equal(pasted[[0, 1, 3]], frames[[0, 1, 3]])


@pytest.mark.parametrize("source_frame", range(T))
def test_whole_pixel_boxes_show_the_usual_bilinear_resize(source_frame):
    frames = random_frames(np.random.default_rng(source_frame))
    boxes = [[[1, 2, 9, 12], [0, 0, 17, 13], [5, 3, 8, 4], [2, 1, 6, 9]]]
    pasted = paste(frames, opaque_game(boxes, source_frame=[source_frame]))
    x1, y1, x2, y2 = boxes[0][source_frame]
    patch = torch.from_numpy(frames[source_frame, y1:y2, x1:x2]).permute(2, 0, 1)[None].double()
    for t, (x1, y1, x2, y2) in enumerate(boxes[0]):
        resized = F.interpolate(patch, size=(y2 - y1, x2 - x1), mode="bilinear")
        shown = torch.from_numpy(pasted[t, y1:y2, x1:x2]).permute(2, 0, 1).double()
        assert (shown - resized[0]).abs().max() <= 0.501
    assert np.array_equal(pasted[source_frame], frames[source_frame])


def test_two_by_two_patch_grown_to_four_by_four_by_hand():
    frames = np.full((2, 6, 6, 3), 7, np.uint8)
    frames[0, 1:3, 2:4] = np.array([[0, 100], [200, 60]])[..., None]
    pasted = paste(frames, opaque_game([[[2, 1, 4, 3], [1, 1, 5, 5]]]))
    grown = [[0, 25, 75, 100], [50, 60, 80, 90], [150, 130, 90, 70], [200, 165, 95, 60]]
    expected = np.full((6, 6), 7)
    expected[1:5, 1:5] = grown
    for channel in range(3):
        assert np.array_equal(pasted[1, ..., channel], expected)


@pytest.mark.parametrize("shape", [RECTANGLE, ELLIPSE])
def test_frames_and_sources_are_not_changed(rng, shape):
    frames, sources = random_frames(rng), random_frames(rng, t=2)
    before = frames.copy(), sources.copy()
    game = opaque_game(random_boxes(rng, 2), shape=[shape] * 2, soft_edge_start=[0.3] * 2)
    assert not np.array_equal(paste(frames, game, sources), frames)
    assert np.array_equal(frames, before[0])
    assert np.array_equal(sources, before[1])


@pytest.mark.parametrize("visible", [[True, False, True, False], [False] * T])
def test_a_hidden_frame_keeps_its_pixels(rng, visible):
    frames, sources = random_frames(rng), random_frames(rng, t=1)
    boxes = np.tile(np.float32([2, 2, 9, 9]), (1, T, 1))
    pasted = paste(frames, opaque_game(boxes, visible=[visible]), sources)
    assert [not np.array_equal(pasted[t], frames[t]) for t in range(T)] == visible


@pytest.mark.parametrize(("order", "on_top"), [([0, 1], 200), ([1, 0], 100)])
def test_the_last_in_the_order_is_on_top(order, on_top):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    sources = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (100, 200)])
    boxes = np.tile(np.float32([[[1, 1, 5, 5]], [[3, 3, 7, 7]]]), (1, 2, 1))
    pasted = paste(frames, opaque_game(boxes, order=order), sources)
    assert (pasted[:, 3:5, 3:5] == on_top).all()
    assert (pasted[:, 1:3, 1:3] == 100).all()
    assert (pasted[:, 5:7, 5:7] == 200).all()
    assert pasted[:, 0].max() == 0


def test_half_opacity_is_the_mean():
    frames = np.full((2, 6, 6, 3), 10, np.uint8)
    sources = np.full((1, 6, 6, 3), 110, np.uint8)
    boxes = np.tile(np.float32([1, 1, 5, 5]), (1, 2, 1))
    pasted = paste(frames, opaque_game(boxes, opacity=np.float32([[0.5, 1.0]])), sources)
    assert (pasted[0, 1:5, 1:5] == 60).all()
    assert (pasted[1, 1:5, 1:5] == 110).all()
    assert (pasted[:, [0, 5]] == 10).all()


@pytest.mark.parametrize("box", [[40, 40, 50, 50], [3.6, 3.6, 4.4, 4.4]])
def test_a_box_outside_the_frame_or_between_pixel_centres_shows_nothing(rng, box):
    frames, sources = random_frames(rng, t=2), random_frames(rng, t=1)
    game = opaque_game([[[4, 4, 9, 9], box]], visible=[[False, True]])
    assert np.array_equal(paste(frames, game, sources), frames)


@pytest.mark.parametrize("shape", [(1, H, W, 3), (2, W, H, 3)])
def test_sources_of_another_shape_are_refused(rng, shape):
    game = opaque_game(random_boxes(rng, 2))
    with pytest.raises(ValueError, match=r"expected .*\(2, 13, 17, 3\), got .*"):
        paste(random_frames(rng), game, np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("shape", "start", "place", "expected"),
    [
        (RECTANGLE, HARD_EDGE, (0.49, 0.49), 1.0),
        (RECTANGLE, 0.3, (0.4, 0.1), 0.5),
        (RECTANGLE, 0.3, (-0.1, -0.3), 1.0),
        (ELLIPSE, HARD_EDGE, (0.3, 0.39), 1.0),
        (ELLIPSE, HARD_EDGE, (0.3, 0.41), 0.0),
        (ELLIPSE, 0.4, (0.27, 0.36), 0.5),
        (RHOMBUS, HARD_EDGE, (0.2, -0.29), 1.0),
        (RHOMBUS, HARD_EDGE, (0.2, -0.31), 0.0),
        (RHOMBUS, 0.3, (0.2, 0.25), 0.25),
        (RHOMBUS, 0.3, (0.45, 0.45), 0.0),
    ],
)
def test_alpha_by_hand(shape, start, place, expected):
    x, y = (np.float32([value]) for value in place)
    alpha = patch_alpha(x, y, shape, start)
    assert alpha.dtype == np.float32
    np.testing.assert_allclose(alpha, [expected], atol=1e-5)


def official_paste(frames, game):
    """The authors' masks and blending, for whole-pixel boxes inside the frame."""
    out = frames.copy()
    for k, t in product(game.order, range(len(frames))):
        if not game.visible[k, t]:
            continue
        x1, y1, x2, y2 = (int(side) for side in game.boxes[k, game.source_frame[k]])
        width, height = x2 - x1, y2 - y1
        patch = frames[game.source_frame[k], y1:y2, x1:x2]
        mask = [
            [
                alpha_at(
                    (i - (width - 1) // 2) / width,
                    (j - (height - 1) // 2) / height,
                    game.shape[k],
                    game.soft_edge_start[k],
                )
                for i in range(width)
            ]
            for j in range(height)
        ]
        x1, y1, x2, y2 = (int(side) for side in game.boxes[k, t])
        layers = np.concatenate([patch, np.array(mask)[..., None]], axis=2).transpose(2, 0, 1)
        size = (y2 - y1, x2 - x1)
        resized = F.interpolate(torch.from_numpy(layers)[None].double(), size, mode="bilinear")
        *colors, alpha = resized[0].numpy()
        alpha = alpha[..., None] * float(game.opacity[k, t])
        window = out[t, y1:y2, x1:x2]
        mixed = window * (1 - alpha) + np.floor(np.stack(colors, -1) + 0.5) * alpha
        window[:] = np.floor(mixed + 1e-4)
    return out


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_official_rules_mask_and_mix_as_the_authors_do(k, seed):
    rng = np.random.default_rng(seed)
    frames = random_frames(rng, t=5, h=70, w=80)
    game = draw_game(OFFICIAL.replace(num_patches=k), 5, (80, 70), rng)
    pasted, expected = paste(frames, game, blending="official"), official_paste(frames, game)
    difference = np.abs(pasted.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002  # ties of rounding
    assert (paste(frames, game) != expected).mean() > 0.03


def test_official_masks_of_even_sizes_are_half_a_pixel_off_by_hand():
    """A rhombus of 4 pixels: the centre is pixel 1, and |x| + |y| < .5 is a pixel around it."""
    frames = np.zeros((2, 6, 6, 3), np.uint8)
    frames[0] = 201
    boxes = np.tile(np.float32([1, 1, 5, 5]), (1, 2, 1))
    game = opaque_game(boxes, shape=[RHOMBUS], opacity=np.full((1, 2), 0.5, np.float32))
    expected = np.zeros((6, 6))
    expected[2, 1:4] = expected[1:4, 2] = 100  # 100.5, truncated
    assert np.array_equal(paste(frames, game, blending="official")[1, ..., 0], expected)
