"""Every loader makes the requested clip, frame by frame and pixel by pixel."""

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
from ctp.bench.baselines import BASELINES
from ctp.bench.ingest import (
    CPU_STAGES,
    LoaderTiming,
    compare,
    fastest_of_each,
    usable_videos,
)
from ctp.bench.loaders import ClipRequest, Loader, draw_request, ours
from ctp.bench.timing import DEVICE_STAGES, ON_DEVICE, Timing
from ctp.build.config import TranscodeConfig
from ctp.build.transcode import inspect
from ctp.data.sources import open_catalog
from ctp.data.stream import SampleStream
from ctp.pretext.ctp.appearance import ELLIPSE, HARD_EDGE, RECTANGLE
from ctp.pretext.ctp.config import RULES, CtpConfig
from ctp.pretext.ctp.game import Game
from ctp.pretext.ctp.task import CtpTask
from ctp.rng import generator
from ctp.storage import Storage
from ctp.training.transfer import to_device
from ctp.video.augment import IMAGENET_MEAN, IMAGENET_STD, to_input
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop

CPU = torch.device("cpu")
WHOLE = Crop(1, 0, 0, False)
"""All of the shorter side, from the left or upper edge on."""
SAME_COLOR = (0.0, 1.0, 0.0, 1.0)
NUMBERS = (0, 3, 3, 17, 18, 30, 39)
GOPS = {"g": "10", "bf": "3"}
OURS = ("ours transcoded", "ours original")


WAYS = ["opencv-zip-jpeg", *(f"{name} {way}" for name in list(BASELINES)[1:] for way in range(6))]
"""Names of the baselines; of torchcodec's six ways, each with its number."""
TRANSCODING = TranscodeConfig(short_side_px=240)


def loader_of(name: str, config: CtpConfig) -> Loader:
    """Return a loader by name; skip the test if its package is missing."""
    if name in OURS:
        return ours(CPU, config, None if name.endswith("original") else TRANSCODING)
    baseline, _, way = name.partition(" ")
    try:
        return BASELINES[baseline](CPU, TRANSCODING)[int(way or 0)]
    except ValueError as error:
        pytest.skip(str(error))


def config_of(size_px: int = 64, num_frames: int = len(NUMBERS), **options: object) -> CtpConfig:
    """Return a task with one patch, in clips of a size."""
    return CtpConfig.model_validate(
        {
            "num_patches": 1,
            "box_size_px": (8, 16),
            "sampling": {"num_frames": num_frames},
            "augment": {"frame_size_px": size_px, "short_sides_px": (size_px,)},
            **options,
        }
    )


def clip_of(name: str, video: EncodedVideo, request: ClipRequest, *, stored: bool = False):
    """Return a loader's result before normalisation: float [T, S, S, 3] in 0 … 255."""
    loader = loader_of(name, config_of(request.size_px, len(request.frame_numbers)))
    if not stored:
        video = replace(video, data=loader.store(video))
    (clip,) = loader.finish([loader.prepare(video, request, {})], [request], {})
    assert clip.dtype == torch.float32
    return pixels_of(clip)


def pixels_of(clip: torch.Tensor) -> np.ndarray:
    return (clip.permute(1, 2, 3, 0).double().numpy() * IMAGENET_STD + IMAGENET_MEAN) * 255


def request_of(
    frame_numbers: tuple[int, ...] = NUMBERS,
    *,
    picture_size_px: tuple[int, int] = (96, 64),
    crop: Crop = WHOLE,
    size_px: int = 64,
    color: tuple[float, float, float, float] = SAME_COLOR,
    **game: np.ndarray,
) -> ClipRequest:
    """Return a request with one patch, hidden in all frames unless `game` differs."""
    num_frames = len(frame_numbers)
    hidden = Game(
        boxes=np.tile(np.array([8, 8, 24, 24], np.float32), (1, num_frames, 1)),
        visible=np.zeros((1, num_frames), np.bool_),
        source_frame=np.zeros(1, np.int64),
        shape=np.array([RECTANGLE]),
        soft_edge_start=np.array([HARD_EDGE]),
        opacity=np.ones((1, num_frames), np.float32),
        order=np.arange(1),
    )
    colors = np.tile(np.array(color, np.float32), (num_frames, 1))
    return ClipRequest(
        frame_numbers, picture_size_px, crop, size_px, hidden._replace(**game), colors
    )


def zip_of(*colors: tuple[int, int, int]) -> EncodedVideo:
    """Return a stored video of opencv-zip-jpeg whose 64×64 frames have one colour each."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for number, color in enumerate(colors):
            jpeg = io.BytesIO()
            Image.new("RGB", (64, 64), color).save(jpeg, "jpeg", quality=100, subsampling=0)
            file.writestr(f"{number:05d}.jpg", jpeg.getvalue())
    return EncodedVideo("v", "v.zip", archive.getvalue())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[EncodedVideo]:
    """Return two videos in colour."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return usable_videos("corpus:2")


# ---- the same clip ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OURS, *WAYS])
@pytest.mark.parametrize("size_px", [32, 64, 100])
def test_the_requested_frames_are_loaded(name, encode_video, read_numbers, size_px):
    video = EncodedVideo("v", "v.mp4", encode_video(40, width=64, height=64, options=GOPS))
    clip = clip_of(name, video, request_of(picture_size_px=(64, 64), size_px=size_px))
    assert clip.shape[1:] == (size_px, size_px, 3)
    assert read_numbers(clip) == list(NUMBERS)


@pytest.mark.parametrize("name", [*OURS, *WAYS])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_slices_of_the_picture(name, encode_video, flip):
    video = EncodedVideo("v", "v.mp4", encode_video(40, width=360, height=240, options=GOPS))
    size = 360, 240
    left = clip_of(name, video, request_of(picture_size_px=size, size_px=240))
    at_right = request_of(picture_size_px=size, size_px=240, crop=replace(WHOLE, x=1))
    right = clip_of(name, video, at_right)
    whole = np.concatenate([left, right[:, :, 120:]], axis=2)
    crop = Crop(0.5, 0.75, 0.25, flip)  # 120 pixels large, at ¾ of 240 and a quarter of 120
    cut = clip_of(name, video, request_of(picture_size_px=size, size_px=120, crop=crop))
    expected = whole[:, 30:150, 180:300]
    np.testing.assert_allclose(cut, expected[:, :, ::-1] if flip else expected, atol=0.01)


def requests_of(videos, config):
    """Return a request for the first clip of each video."""
    return [
        draw_request(config, config.game, inspect(each), generator(3, "clip", 0, each.id, 0))
        for each in videos
    ]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", WAYS)
def test_baselines_return_the_clips_of_our_loader(name, rules, corpus):
    config = CtpConfig(rules=rules)
    for video, request in zip(corpus, requests_of(corpus, config), strict=True):
        # stronger than most colour changes that are drawn
        request = replace(request, color=np.tile(np.float32([12, 0.9, -20, 1.1]), (16, 1)))
        mirrored = replace(request, crop=replace(request.crop, flip=not request.crop.flip))
        clip, own, other = (
            clip_of(each, video, wanted)
            for each, wanted in ((name, request), (OURS[1], request), (OURS[1], mirrored))
        )
        # fine textures differ: bilinear resampling with and without a low-pass filter
        assert np.abs(clip - own).mean() < 0.15 * np.abs(other - own).mean()


@pytest.mark.parametrize("rules", RULES)
def test_our_loader_returns_the_clips_of_training(rules, corpus):
    config = CtpConfig(rules=rules)
    task, catalog = CtpTask(config), open_catalog("corpus:2")
    stream = SampleStream(task, catalog, seed=3, total_batch=2, total_steps=1)
    batch = next(stream.batches(0, 0, 1))
    samples = to_device(batch.samples, CPU)
    expected = to_input(task.paste(samples), samples.color)

    loader, requests = ours(CPU, config), requests_of(corpus, config)
    made = [loader.prepare(v, r, {}) for v, r in zip(corpus, requests, strict=True)]
    order = [stream.plan.clip(int(position)).video for position in batch.positions]
    clips = loader.finish(made, requests, {})[order]
    torch.testing.assert_close(clips, expected, rtol=0, atol=0)


# ---- opencv-zip-jpeg, worked by hand ------------------------------------------------------------


@pytest.fixture
def opencv():
    """Return the module of the baseline."""
    pytest.importorskip("cv2")
    from ctp.bench import opencv_zip_jpeg

    return opencv_zip_jpeg


def test_a_crop_is_the_same_in_the_scaled_picture(opencv):
    crop = Crop(0.5, 1, 0.5, False)
    request = request_of(picture_size_px=(320, 240), size_px=60, crop=crop)
    assert crop.window(320, 240) == (200, 60, 120, 120)
    assert opencv.scaled_size(request) == (160, 120)
    assert opencv.scaled_window(request) == (slice(30, 90), slice(100, 160))


def test_opencv_blends_a_patch_where_it_is_visible(opencv):
    request = request_of(
        (0, 1, 2),
        picture_size_px=(64, 64),
        boxes=np.array([[[10, 12, 20, 40], [4, 4, 8, 8], [30, -6, 50, 6]]], np.float32),
        visible=np.array([[True, False, True]]),
        opacity=np.array([[0.5, 1, 0.75]], np.float32),
        source_frame=np.array([1]),
    )
    stored = zip_of((100, 100, 100), (200, 200, 200), (40, 40, 40))
    clip = clip_of("opencv-zip-jpeg", stored, request, stored=True)
    expected = np.ones((3, 64, 64, 3)) * np.array([100, 200, 40])[:, None, None, None]
    expected[0, 12:40, 10:20] = 150  # half of 200 over half of 100
    expected[2, 0:6, 30:50] = 160  # ¾ of 200 over ¼ of 40; half the box lies above the picture
    np.testing.assert_allclose(clip, expected, atol=0.01)


def test_an_opencv_ellipse_leaves_the_corners(opencv):
    request = request_of(
        (0, 1),
        picture_size_px=(64, 64),
        visible=np.array([[True, False]]),
        source_frame=np.array([1]),
        shape=np.array([ELLIPSE]),
    )
    stored = zip_of((50, 50, 50), (90, 90, 90))
    clip = clip_of("opencv-zip-jpeg", stored, request, stored=True)
    y, x = np.mgrid[:16, :16] - 7.5
    expected = np.where(np.hypot(x, y) < 8, 90, 50)
    np.testing.assert_allclose(clip[0, 8:24, 8:24, 0], expected, atol=0.01)


@pytest.mark.parametrize("hue", [12.0, -12.0])
def test_opencv_colours_are_those_of_colorsys(hue, opencv):
    stored = zip_of((210, 40, 60), (210, 60, 40))  # on both sides of hue 0
    same, changed = (
        request_of((0, 1), picture_size_px=(64, 64), color=color)
        for color in (SAME_COLOR, (hue, 1.1, 20.0, 0.9))
    )
    before = clip_of("opencv-zip-jpeg", stored, same, stored=True)
    after = clip_of("opencv-zip-jpeg", stored, changed, stored=True)
    for new, old in zip(after[:, 5, 5], before[:, 5, 5], strict=True):
        h, s, v = colorsys.rgb_to_hsv(*old / 255)
        expected = colorsys.hsv_to_rgb((h + hue / 360) % 1, min(s * 1.1, 1), v)
        expected = np.clip(255 * np.array(expected) + 20, 0, 255) * 0.9
        np.testing.assert_allclose(new, expected, atol=0.1)


# ---- the comparison -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Storage:
    """Return a folder for the videos of the loaders."""
    return Storage.from_uri(tmp_path)


def timing(name: str, *repeats: float) -> Timing:
    return Timing(name, "ms", repeats)


def test_cpu_time_is_the_sum_of_the_stages_on_the_cpu():
    stages = timing("read", 1, 2), timing("decode", 3, 4), timing(f"{ON_DEVICE}paste", 50, 60)
    own = LoaderTiming("own", 24, stages, num_frames=4)
    assert own.cpu.repeats == (4, 6)
    assert own.frames_per_second == 4 / (1.5e-3 + 3.5e-3)
    other = LoaderTiming("other", 500, (timing("read", 12, 12),), num_frames=4)
    assert other.ratio(own).repeats == (3, 2)
    figures = other.figures(own)
    assert figures["× own"].median == 2.5
    assert figures["decode"] is None


def test_the_fastest_way_of_each_baseline_is_shown():
    def loader(name: str, milliseconds: float, baseline: str = "") -> LoaderTiming:
        return LoaderTiming(name, 24, (timing("read", milliseconds),), 4, baseline)

    own = [loader("transcoded", 2), loader("original", 9)]
    first, second = loader("slow", 7, "a"), loader("fast", 5, "a")
    other = loader("other", 8, "b")
    assert fastest_of_each([*own, first, second, other]) == [*own, second, other]


def test_a_comparison_has_all_stages_of_all_loaders(encode_video, folder):
    config = config_of(num_frames=4)
    loaders = [loader_of(name, config) for name in (*OURS, "opencv-zip-jpeg")]
    video = EncodedVideo("v", "v.mp4", encode_video(40))
    compared = compare(loaders, [video], config, 3, repeats=2, folder=folder)
    for loader, each in zip(loaders, compared, strict=True):
        on_device = [ON_DEVICE + name for name in loader.device_stages]
        names = ["read", "draw", *loader.stages, *on_device]
        assert [stage.name for stage in each.stages] == names
        assert set(names) <= {*CPU_STAGES, *DEVICE_STAGES}  # each has a row in the table
        assert all(len(stage.repeats) == 2 for stage in each.stages)
        assert each.kib_per_video == len(loader.store(video)) / 1024


def test_every_clip_is_loaded_in_every_repeat_and_in_batches(encode_video, folder, monkeypatch):
    monkeypatch.setattr("ctp.bench.ingest.DEVICE_BATCH", 3)
    loaded, sizes = [], []
    loader = Loader(
        "counting",
        CPU,
        lambda video: video.id.encode(),
        {"decode": lambda video, request: loaded.append(video.data)},
        {"transfer": lambda made, requests: sizes.append(len(made))},
    )
    videos = [EncodedVideo(name, f"{name}.mp4", encode_video(20)) for name in "ab"]
    compare([loader], videos, config_of(), 5, repeats=2, folder=folder)
    assert loaded == 3 * [b"a", b"b", b"a", b"b", b"a"]
    assert sizes == 3 * [3, 2]


def test_a_video_that_a_loader_cannot_read_is_named(encode_video, folder):
    def fail(video, request):
        raise RuntimeError("no such codec")

    broken = Loader("broken", CPU, lambda video: video.data, {"decode": fail}, {})
    video = EncodedVideo("v7", "folder/v7.mp4", encode_video(40))
    with pytest.raises(ValueError, match=r"broken.*v7.*no such codec"):
        compare([broken], [video], config_of(), 1, repeats=1, folder=folder)


def test_videos_that_cannot_be_decoded_are_skipped_and_named(video_folder, capsys):
    videos = usable_videos(str(video_folder(good=2, bad=1)))
    assert [video.id for video in videos] == ["good0.mp4", "good1.mp4"]
    assert "bad0.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "module"), [("opencv-zip-jpeg", "cv2"), ("torchcodec", "torchcodec.decoders")]
)
def test_a_missing_package_is_named_with_its_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "ctp.bench.opencv_zip_jpeg", raising=False)
    monkeypatch.delattr(ctp.bench, "opencv_zip_jpeg", raising=False)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[bench\]'"):
        BASELINES[name](CPU, TRANSCODING)
