"""Loaders that are compared: each makes the clip asked for, frame by frame and pixel by pixel."""

from __future__ import annotations

import colorsys
import io
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ctp.bench
from ctp.bench.baselines import BASELINES, READ, LoaderTiming, MissingPackageError, compare
from ctp.bench.loading import (
    ON_DEVICE,
    ClipRequest,
    DeviceStage,
    Loader,
    Stage,
    draw_requests,
    ours,
)
from ctp.bench.timing import Timing
from ctp.build.config import TranscodeConfig
from ctp.data.catalog import open_catalog, prepare_corpus
from ctp.pretext.clips import ClipMaker
from ctp.pretext.ctp.appearance import ELLIPSE, HARD_EDGE, RECTANGLE, PatchLooks
from ctp.pretext.ctp.config import PRESETS
from ctp.pretext.ctp.game import Round
from ctp.pretext.ctp.trajectory import Trajectories
from ctp.video.augment import IMAGENET_MEAN, IMAGENET_STD
from ctp.video.config import AugmentConfig, SamplingConfig
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop

CPU = torch.device("cpu")
WHOLE = Crop(1, 0, 0, False)
"""All of the shorter side, from the left or upper edge on."""
SAME_COLOR = (0.0, 1.0, 0.0, 1.0)
OURS = {
    loader.name: loader
    for transcoding in (None, TranscodeConfig(short_side_px=240))
    for loader in (ours(CPU, transcoding), ours(CPU, transcoding, play_on="device"))
}
NUMBERS = (0, 3, 3, 17, 18, 30, 39)
GOPS = {"g": "10", "bf": "3"}


def loader_of(name: str) -> Loader:
    """A loader by name; skips where its package is missing."""
    if name in OURS:
        return OURS[name]
    try:
        return BASELINES[name](CPU)
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(params=[*OURS, *BASELINES])
def loader(request) -> Loader:
    return loader_of(request.param)


def clip_of(loader: Loader, stored: EncodedVideo, request: ClipRequest) -> np.ndarray:
    """Pixels of 255, float [T, H, W, 3]: what a loader makes, with the normalisation undone."""
    (clip,) = loader.finish([loader.prepare(stored, request, {})], [request], {})
    assert clip.dtype == torch.float32
    assert clip.shape[:2] == (3, len(request.frame_numbers))
    return (clip.permute(1, 2, 3, 0).double().numpy() * IMAGENET_STD + IMAGENET_MEAN) * 255


def asked(
    frame_numbers: tuple[int, ...] = NUMBERS,
    *,
    picture_size_px: tuple[int, int] = (96, 64),
    crop: Crop = WHOLE,
    size_px: int = 64,
    color: tuple[float, float, float, float] = SAME_COLOR,
) -> ClipRequest:
    """A clip with one patch, which is never shown."""
    num_frames = len(frame_numbers)
    boxes = np.tile(np.array([8, 8, 24, 24], np.float32), (1, num_frames, 1))
    hidden = np.zeros((1, num_frames), np.bool_)
    trajectories = Trajectories(boxes, hidden, np.zeros(1, np.int64))
    opacity = np.ones((1, num_frames), np.float32)
    looks = PatchLooks(np.array([RECTANGLE]), np.array([HARD_EDGE]), opacity)
    game = Round(trajectories, looks, np.arange(1))
    colors = np.tile(np.array(color, np.float32), (num_frames, 1))
    return ClipRequest(0, frame_numbers, picture_size_px, crop, size_px, game, colors, lambda: None)


def zipped(*colors: tuple[int, int, int]) -> EncodedVideo:
    """A stored video for opencv-zip-jpeg whose 64×64 frames are of one colour each."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for number, color in enumerate(colors):
            jpeg = io.BytesIO()
            Image.new("RGB", (64, 64), color).save(jpeg, "jpeg", quality=100, subsampling=0)
            file.writestr(f"{number:05d}.jpg", jpeg.getvalue())
    return EncodedVideo("v", "v.zip", archive.getvalue())


# ---- the same clip ------------------------------------------------------------------------------


@pytest.mark.parametrize("size_px", [32, 64, 100])
def test_exactly_the_frames_asked_for_come_out(loader, encode_video, read_numbers, size_px):
    video = EncodedVideo("v", "v.mp4", encode_video(40, width=64, height=64, options=GOPS))
    request = asked(picture_size_px=(64, 64), size_px=size_px)
    clip = clip_of(loader, loader.store(video), request)
    assert clip.shape[1:] == (size_px, size_px, 3)
    assert read_numbers(clip) == list(NUMBERS)


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_slices_of_the_picture(loader, encode_video, flip):
    video = EncodedVideo("v", "v.mp4", encode_video(40, width=360, height=240, options=GOPS))
    stored, size = loader.store(video), (360, 240)
    left = clip_of(loader, stored, asked(picture_size_px=size, size_px=240))
    right = replace(WHOLE, x=1)
    right = clip_of(loader, stored, asked(picture_size_px=size, size_px=240, crop=right))
    whole = np.concatenate([left, right[:, :, 120:]], axis=2)
    crop = Crop(0.5, 0.75, 0.25, flip)  # 120 pixels large, at ¾ of 240 and a quarter of 120
    cut = clip_of(loader, stored, asked(picture_size_px=size, size_px=120, crop=crop))
    expected = whole[:, 30:150, 180:300]
    np.testing.assert_allclose(cut, expected[:, :, ::-1] if flip else expected, atol=0.01)


def test_a_square_is_the_same_in_a_scaled_picture():
    crop = Crop(0.5, 1, 0.5, False)
    request = asked(picture_size_px=(320, 240), size_px=60, crop=crop)
    assert crop.window(320, 240) == (200, 60, 120)
    assert request.scaled_size_px == (160, 120)
    assert request.scaled_window == (slice(30, 90), slice(100, 160))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_make_the_clips_that_ours_makes(name, preset, corpus):
    loader = loader_of(name)
    for request in requests_of(corpus, preset):
        video = corpus[request.video]
        own = clip_of(ours(CPU), video, request)
        clip = clip_of(loader, loader.store(video), request)
        mirrored = replace(request, crop=replace(request.crop, flip=not request.crop.flip))
        other = clip_of(ours(CPU), video, mirrored)
        # bilinear resampling, with and without a low-pass, of fine textures
        assert np.abs(clip - own).mean() < 0.15 * np.abs(other - own).mean()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_played_on_the_device_is_the_clips_played_on_the_cpu(preset, corpus):
    requests = requests_of(corpus, preset)
    on_cpu, on_device = ours(CPU), ours(CPU, play_on="device")
    batches = [
        loader.finish([loader.prepare(corpus[r.video], r, {}) for r in requests], requests, {})
        for loader in (on_cpu, on_device)
    ]
    step = 1 / (255 * min(IMAGENET_STD))
    # a value next to it before the colours change can be a little more after
    torch.testing.assert_close(*batches, rtol=0, atol=2 * step)


def requests_of(corpus, preset):
    """A clip of each video, its colours changed in every way."""
    every_color = AugmentConfig(hue_saturation_prob=1, brightness_prob=1, contrast_prob=1)
    game = PRESETS[preset]()
    return draw_requests(corpus, 2, SamplingConfig(), every_color, game, seed=3)


def test_what_is_drawn_again_is_the_same(corpus):
    for request in requests_of(corpus, "paper"):
        again = request.draw()
        assert again.frame_numbers == request.frame_numbers
        assert again.crop == request.crop
        boxes = again.game.trajectories.boxes
        np.testing.assert_array_equal(boxes, request.game.trajectories.boxes)
        np.testing.assert_array_equal(again.color, request.color)


def test_ours_makes_the_clip_of_training(small_run, video_folder):
    maker = ClipMaker(small_run.replace(curriculum=None), open_catalog(str(video_folder(good=1))))
    wanted, _ = maker.at(0)
    (request,) = draw_requests(
        [maker.catalog[0].read()],
        1,
        small_run.sampling,
        small_run.augment,
        small_run.game,
        small_run.seed,
    )
    np.testing.assert_array_equal(request.game.trajectories.boxes, wanted.boxes)
    np.testing.assert_array_equal(request.game.trajectories.visible, wanted.visible)
    np.testing.assert_array_equal(request.color, wanted.color)
    unchanged = replace(request, color=asked(request.frame_numbers).color)
    clip = clip_of(ours(CPU), maker.catalog[0].read(), unchanged)
    np.testing.assert_allclose(clip, wanted.frames, atol=1e-3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[EncodedVideo]:
    """Two videos in colour."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        catalog = open_catalog("corpus:2")
        prepare_corpus(catalog)
        return [entry.read() for entry in catalog]


# ---- opencv-zip-jpeg, worked by hand ------------------------------------------------------------


def test_an_opencv_patch_is_blended_where_it_is_shown():
    loader = loader_of("opencv-zip-jpeg")
    boxes = np.array([[[10, 12, 20, 40], [4, 4, 8, 8], [30, -6, 50, 6]]], np.float32)
    visible, opacity = np.array([[True, False, True]]), np.array([[0.5, 1, 0.75]], np.float32)
    request = asked((0, 1, 2), picture_size_px=(64, 64))
    looks = replace(request.game.looks, opacity=opacity)
    game = Round(Trajectories(boxes, visible, np.array([1])), looks, np.arange(1))
    stored = zipped((100, 100, 100), (200, 200, 200), (40, 40, 40))
    clip = clip_of(loader, stored, replace(request, game=game))
    expected = np.ones((3, 64, 64, 3)) * np.array([100, 200, 40])[:, None, None, None]
    expected[0, 12:40, 10:20] = 150  # half of 200 over half of 100
    expected[2, 0:6, 30:50] = 160  # ¾ of 200 over ¼ of 40; half the box lies above the picture
    np.testing.assert_allclose(clip, expected, atol=0.01)


def test_an_opencv_ellipse_leaves_the_corners():
    loader = loader_of("opencv-zip-jpeg")
    request = asked((0, 1), picture_size_px=(64, 64))
    first, looks = np.array([[True, False]]), request.game.looks
    trajectories = Trajectories(request.game.trajectories.boxes, first, np.array([1]))
    game = Round(trajectories, replace(looks, shape=np.array([ELLIPSE])), np.arange(1))
    clip = clip_of(loader, zipped((50, 50, 50), (90, 90, 90)), replace(request, game=game))
    y, x = np.mgrid[:16, :16] - 7.5
    expected = np.where(np.hypot(x, y) < 8, 90, 50)
    np.testing.assert_allclose(clip[0, 8:24, 8:24, 0], expected, atol=0.01)


@pytest.mark.parametrize("hue", [12.0, -12.0])
def test_opencv_colours_are_those_of_colorsys(hue):
    loader = loader_of("opencv-zip-jpeg")
    stored = zipped((210, 40, 60), (210, 60, 40))  # on both sides of hue 0
    request = asked((0, 1), picture_size_px=(64, 64), color=(hue, 1.1, 20.0, 0.9))
    clip = clip_of(loader, stored, request)
    before = clip_of(loader, stored, replace(request, color=asked((0, 1)).color))
    for picture, old in zip(clip[:, 5, 5], before[:, 5, 5], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*old / 255)
        changed = colorsys.hsv_to_rgb((h + hue / 360) % 1, min(s * 1.1, 1), v)
        expected = np.clip(255 * np.array(changed) + 20, 0, 255) * 0.9
        np.testing.assert_allclose(picture, expected, atol=0.1)


# ---- the comparison -----------------------------------------------------------------------------


def timing(name: str, *repeats: float) -> Timing:
    return Timing(name, "ms", repeats, "")


def test_cpu_work_is_the_sum_of_what_is_done_on_the_cpu():
    stages = timing("read", 1, 2), timing("decode", 3, 4), timing(f"{ON_DEVICE}game", 50, 60)
    own = LoaderTiming("own", 24, stages)
    assert own.cpu.repeats == (4, 6)
    other = LoaderTiming("other", 500, (timing("read", 12, 12),))
    assert other.times(own).repeats == (3, 2)
    assert other.times(own).unit == "×"


def test_a_comparison_has_all_stages_of_all_loaders(encode_video):
    loaders = [*OURS.values(), loader_of("opencv-zip-jpeg")]
    video = EncodedVideo("v", "v.mp4", encode_video(40))
    compared = compare(loaders, [video], [asked(), asked(), asked()], repeats=3, batch=2)
    assert [each.name for each in compared] == [loader.name for loader in loaders]
    for loader, each in zip(loaders, compared, strict=True):
        on_device = [ON_DEVICE + stage.name for stage in loader.device_stages]
        on_cpu = [stage.name for stage in loader.stages]
        assert [stage.name for stage in each.stages] == [READ, *on_cpu, *on_device]
        assert all(len(stage.repeats) == 3 for stage in each.stages)
        assert each.kib_per_video == len(loader.store(video).data) / 1024


def test_every_clip_is_made_in_every_repeat_and_in_batches(encode_video):
    prepared, sizes = [], []
    loader = Loader(
        "counting",
        lambda video: video,
        CPU,
        (Stage("decode", lambda video, request: prepared.append(video.data)),),
        (DeviceStage("transfer", lambda made, requests: sizes.append(len(made))),),
    )
    videos = [EncodedVideo(f"v{i}", f"v{i}.mp4", bytes([i])) for i in range(2)]
    requests = [replace(asked(), video=i % 2) for i in range(5)]
    compare([loader], videos, requests, repeats=2, batch=3)
    assert prepared == 3 * [b"\0", b"\1", b"\0", b"\1", b"\0"]
    assert sizes == 3 * [3, 2]


def test_a_video_that_a_loader_cannot_read_is_named(encode_video):
    def fail(video, request):
        raise RuntimeError("no such codec")

    broken = Loader("broken", lambda video: video, CPU, (Stage("decode", fail),), ())
    video = EncodedVideo("v7", "folder/v7.mp4", encode_video(40))
    with pytest.raises(ValueError, match=r"broken cannot load.*v7.*no such codec"):
        compare([broken], [video], [asked()], repeats=1)


@pytest.mark.parametrize(
    ("name", "module"), [("opencv-zip-jpeg", "cv2"), ("torchcodec", "torchcodec.decoders")]
)
def test_a_missing_package_says_how_to_install_it(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "ctp.bench.opencv_zip_jpeg", raising=False)
    monkeypatch.delattr(ctp.bench, "opencv_zip_jpeg", raising=False)
    with pytest.raises(MissingPackageError, match=r"pip install -e '\.\[bench\]'"):
        BASELINES[name](CPU)
