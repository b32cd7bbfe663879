"""The embedded corpus: same bytes, declared format, balanced names, and motion as labelled.

Motion is measured here by phase correlation of the decoded pictures, which shares nothing with
the way the corpus is rendered.
"""

import hashlib
import io
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from ctp.data import corpus

SEED = 7
PER_CLASS = 3
GAP_FRAMES = 3


@cache
def grey_frames(name: str) -> np.ndarray:
    """Decoded luma of a video as shown, float32 (40, 96, 128), 0 to 255."""
    with av.open(io.BytesIO(corpus.render_video(name, seed=SEED))) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack(frames).astype(np.float32).mean(axis=-1)


def shift_px(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the shift of the picture, (right, down) in whole pixels, by phase correlation.

    The spectrum is whitened by half: wholly, sharp objects outvote the scene behind them, and not
    at all, the peak is too wide.
    """
    window = np.outer(np.hanning(before.shape[0]), np.hanning(before.shape[1]))
    first, second = (np.fft.rfft2((p - p.mean()) * window) for p in (before, after))
    cross = second * first.conj()
    peaks = np.fft.irfft2(cross / (np.sqrt(np.abs(cross)) + 1e-3), before.shape)
    down, right = np.unravel_index(peaks.argmax(), before.shape)
    height, width = before.shape
    return np.array([(right + width // 2) % width - width // 2,
                     (down + height // 2) % height - height // 2])  # fmt: skip


def mean_shift(name: str, cols: slice = slice(None), gap_frames: int = GAP_FRAMES) -> np.ndarray:
    """Median (right, down) shift in pixels over `gap_frames`, of one part of the picture."""
    frames = grey_frames(name)[:, :, cols]
    starts = range(0, corpus.NUM_FRAMES - gap_frames, 2)
    return np.median([shift_px(frames[t], frames[t + gap_frames]) for t in starts], axis=0)


def sample(motion: str) -> list[str]:
    return [f"{motion}/{number:05d}" for number in range(PER_CLASS)]


def digest(name: str, seed: int) -> str:
    return hashlib.sha256(corpus.render_video(name, seed=seed)).hexdigest()


def test_shift_measure_on_a_known_shift():
    scene = np.random.default_rng(0).random((120, 160))
    before, after = scene[10:106, 10:138], scene[8:104, 15:143]
    assert shift_px(before, after).tolist() == [-5, 2]


def test_names_cycle_over_the_classes():
    names = corpus.video_names(25)
    assert names[:2] == ("pan-left/00000", "pan-right/00000")
    assert names[len(corpus.MOTIONS)] == "pan-left/00001"
    assert len(set(names)) == 25


@pytest.mark.parametrize("num_videos", [0, 1, 9, 10, 137])
def test_every_prefix_is_balanced(num_videos):
    counts = Counter(map(corpus.label_of, corpus.video_names(num_videos)))
    sizes = [counts[motion] for motion in corpus.MOTIONS]
    assert sum(sizes) == num_videos
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_videos", [-1, corpus.MAX_VIDEOS + 1])
def test_impossible_number_of_videos(num_videos):
    with pytest.raises(ValueError, match=f"num_videos is {num_videos}, expected a number from 0"):
        corpus.video_names(num_videos)


def test_same_bytes_in_another_process_and_order():
    names = ["rotate/00003", "bounce/00000", "pan-left/00001"]
    here = [digest(name, SEED) for name in names]
    code = (
        "import hashlib; from ctp.data.corpus import render_video\n"
        f"for n in {names[::-1]}:\n"
        f"    print(hashlib.sha256(render_video(n, seed={SEED})).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert here == there[::-1]


def test_other_seed_or_name_other_bytes():
    made = [digest("orbit/00000", 0), digest("orbit/00000", 1), digest("orbit/00001", 0)]
    assert len(set(made)) == 3


@pytest.mark.parametrize("motion", corpus.MOTIONS)
def test_format(motion):
    data = corpus.render_video(f"{motion}/00000", seed=SEED)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 24
        frames = list(container.decode(stream))
    assert [(f.width, f.height) for f in frames] == [(128, 96)] * 40
    assert [f.key_frame for f in frames] == [number % 12 == 0 for number in range(40)]
    assert {int(f.pict_type) for f in frames} <= {int(PictureType.I), int(PictureType.P)}
    assert [f.time for f in frames] == pytest.approx(np.arange(40) / 24)


@pytest.mark.parametrize("motion", corpus.MOTIONS)
def test_bright_and_contrasty(motion):
    for name in sample(motion):
        frames = grey_frames(name)
        assert 90 < frames.mean() < 165
        assert frames.std(axis=(1, 2)).min() > 20


@pytest.mark.parametrize(
    ("motion", "right", "down"),
    [("pan-left", 1, 0), ("pan-right", -1, 0), ("tilt-up", 0, 1), ("tilt-down", 0, -1)],
)
def test_scene_moves_against_the_camera(motion, right, down):
    for name in sample(motion):
        shift = mean_shift(name)
        along = shift @ (right, down)
        assert along >= 2, (name, shift)
        assert abs(shift @ (down, right)) < along / 2, (name, shift)


LEFT, RIGHT = slice(0, 64), slice(64, 128)


@pytest.mark.parametrize(("motion", "sign"), [("zoom-in", 1), ("zoom-out", -1)])
def test_zoom_spreads_or_gathers_the_halves(motion, sign):
    for name in sample(motion):
        left, right = (mean_shift(name, half, gap_frames=6) for half in (LEFT, RIGHT))
        spread = right[0] - left[0]
        assert sign * spread >= 2, (name, spread)


def test_rotation_moves_the_halves_up_and_down():
    for name in sample("rotate"):
        left, right = mean_shift(name, LEFT), mean_shift(name, RIGHT)
        assert left[1] * right[1] < 0, (name, left, right)
        assert abs(right[1] - left[1]) > 2 * abs(right[0] - left[0]), (name, left, right)


def test_shake_moves_without_travel():
    for name in sample("shake"):
        frames = grey_frames(name)
        steps = np.array([shift_px(a, b) for a, b in pairwise(frames)])
        assert np.abs(steps).sum(axis=0).min() > 20, name
        assert np.abs(steps.sum(axis=0)).max() < 20, name


@pytest.mark.parametrize("motion", ["bounce", "orbit"])
def test_still_camera_with_moving_objects(motion):
    for name in sample(motion):
        frames = grey_frames(name)
        steps = np.abs(np.diff(frames, axis=0))
        changed = steps > 25
        # most of the picture is still, but something moves
        assert np.median(steps) <= 1, name
        assert changed.mean() < 0.4, name
        assert changed.any(axis=0).mean() > 0.05, name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pan-lft/00012", "did you mean pan-left?"),
        ("zoom-in", "LABEL/NNNNN"),
        ("rotate/12", "LABEL/NNNNN"),
        ("", "LABEL/NNNNN"),
    ],
)
def test_an_unknown_name_is_refused_with_a_near_miss(name, hint):
    with pytest.raises(ValueError, match="is not a video of the embedded corpus") as error:
        corpus.render_video(name, seed=0)
    assert repr(name) in str(error.value)
    assert hint in str(error.value)
    assert all(motion in str(error.value) for motion in corpus.MOTIONS)


@pytest.mark.parametrize("name", ["orbit/00007", "orbit/00009", "bounce/00007"])
def test_boxes_surround_what_moves_before_a_still_camera(name):
    """These videos have one object. A pixel of it differs from the median of the frames."""
    (boxes,) = corpus.object_boxes(name, seed=SEED)
    frames = grey_frames(name)
    moving = np.abs(frames - np.median(frames, axis=0)) > 40
    inside = (boxes[:, :2] > 2).all(axis=1) & (boxes[:, 2:] < [126, 94]).all(axis=1)
    errors_px = []
    for number in np.flatnonzero(inside):
        rows, cols = np.nonzero(moving[number])
        seen = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        errors_px.append(np.abs(boxes[number] - seen))
    assert len(errors_px) >= 10
    assert np.median(errors_px) < 1.5
    assert np.quantile(errors_px, 0.9) < 2.5
