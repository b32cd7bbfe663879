"""Cuts are found, and what only looks like one is not."""

import cv2
import numpy as np
import pytest
from PIL import Image

from ctp.curation.config import CutsConfig
from ctp.curation.cuts import CutDetector


def make_shot(seed, length=40):
    """A camera that pans over a random scene, uint8 [N, 72, 96, 3]."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(20, 230, (9, 24, 3)).astype(np.uint8))
    wide = np.asarray(rough.resize((192, 72), Image.Resampling.BICUBIC))
    return np.stack([wide[:, i : i + 96] for i in range(length)])


def cuts_in(frames, **options):
    detector = CutDetector(CutsConfig(**options))
    found = [cut for frame in frames for cut in detector.add(frame, cv2.cvtColor(frame, 6))]
    return sorted(found + detector.finish())


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_a_hard_cut_is_found_to_the_frame(detector):
    frames = np.concatenate([make_shot(0), make_shot(1), make_shot(2)])
    assert cuts_in(frames, detector=detector) == [40, 80]
    assert cuts_in(frames, detector="off") == []


def test_a_pan_is_no_cut():
    assert cuts_in(make_shot(0, 90)) == []


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_flash_is_no_cut(length):
    frames = make_shot(0, 60)
    frames[30 : 30 + length] = 250
    assert cuts_in(frames) == []


def test_a_cut_right_behind_a_flash_is_found():
    frames = np.concatenate([make_shot(0), make_shot(1)])
    frames[30] = 250
    assert cuts_in(frames) == [40]


def test_a_fade_through_black_ends_one_shot_and_begins_another():
    first, second = make_shot(0).astype(float), make_shot(1).astype(float)
    ramp = np.linspace(1, 0, 15)[:, None, None, None]
    first[-15:] *= ramp
    second[:15] *= ramp[::-1]
    frames = np.concatenate([first, np.zeros((10, 72, 96, 3)), second]).astype(np.uint8)
    black = [n for n, frame in enumerate(frames) if frame.mean() < 8]
    assert cuts_in(frames) == [black[0], black[-1] + 1]


def test_a_lower_threshold_finds_more():
    # the second shot is the first one, half of it hidden
    frames = make_shot(0, 60)
    frames[30:, :, :40] = frames[30:, :, 40:80]
    assert len(cuts_in(frames, threshold=1.5)) >= len(cuts_in(frames, threshold=50))
    assert cuts_in(frames, threshold=1.5) == [30]
