"""Measures of single pictures have known answers."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ctp.curation.pictures import Bars, FlowMeter, find_bars, hash_picture, text_share


@pytest.fixture
def scene():
    """A bright smooth picture without text, 120×160."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(60, 250, (12, 16)).astype(np.uint8))
    return np.asarray(rough.resize((160, 120), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("bars", [(0, 0, 0, 0), (10, 14, 0, 0), (0, 0, 7, 9), (12, 3, 5, 20)])
def test_black_bars_are_measured_to_the_pixel(scene, bars):
    top, bottom, left, right = bars
    noise = np.random.default_rng(1).integers(0, 3, (120, 160)).astype(np.uint8)
    inside = scene[: 120 - top - bottom, : 160 - left - right]
    assert find_bars(np.pad(inside, ((top, bottom), (left, right))) + noise) == Bars(*bars)


def test_a_dark_sky_is_no_bar(scene):
    rise = np.linspace(0, 1, 120)[:, None]
    assert find_bars((scene * rise).astype(np.uint8)).top in {0, None}


def test_a_black_picture_has_no_known_bars():
    assert find_bars(np.zeros((60, 80), np.uint8)) == Bars(None, None, None, None)


def test_text_covers_more_than_a_scene(scene):
    slide = Image.new("L", (320, 240), 255)
    draw = ImageDraw.Draw(slide)
    for y in range(20, 200, 30):
        draw.text((20, y), "a line of text on a slide", 0, ImageFont.load_default(16))
    assert text_share(scene) == 0
    assert 0.1 < text_share(np.asarray(slide)) < 0.6


def test_motion_is_the_shift_in_picture_widths():
    rng = np.random.default_rng(0)
    wide = np.asarray(
        Image.fromarray(rng.integers(0, 255, (18, 40)).astype(np.uint8)).resize((160, 72))
    )
    meter = FlowMeter()
    moved = meter.measure(wide[:, 3:131], wide[:, :128])
    assert moved.motion == pytest.approx(3 / 128, rel=0.1)
    assert moved.camera == pytest.approx((3 / 128, 0), abs=0.1 * 3 / 128)
    assert meter.measure(wide[:, :128], wide[:, :128]).motion == pytest.approx(0, abs=1e-4)


def test_a_hash_survives_scaling_and_compression(scene):
    smaller = cv2.resize(scene, (100, 80), interpolation=cv2.INTER_AREA)
    again = cv2.imdecode(cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0)
    (first, quality), (second, _) = hash_picture(scene), hash_picture(again)
    other, _ = hash_picture(scene[::-1, ::-1])
    assert quality >= 50
    assert distance(first, second) <= 31
    assert distance(first, other) > 64


def distance(first: bytes, second: bytes) -> int:
    return (int.from_bytes(first) ^ int.from_bytes(second)).bit_count()
