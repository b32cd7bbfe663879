"""Guided Grad-CAM against its definition written out by hand, and pictures of it."""

import copy
import io
import math

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ctp.bench.timing import one_thread
from ctp.downstream import gradcam
from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.report.gradcam import (
    FULL_QUANTILE,
    MAPS,
    RIGHT_COLOR,
    WRONG_COLOR,
    Explained,
    Explanation,
    explain,
    overlay,
    side_by_side_mp4,
    strip_png,
)
from ctp.report.html import GAP_PX, INK, LOOP_SECONDS, MARGIN_PX, TEXT_LINE_PX

NAMES = ("Jump", "Run", "Sit")
CLASSES = range(len(NAMES))


@pytest.fixture(autouse=True)
def single_threaded():
    with one_thread():  # small tensors on a busy machine
        yield


class Classifier(nn.Module):
    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, clips):
        return self.head(self.encoder(clips).mean(dim=(2, 3, 4)))


def classifier(arch="r3d", seed=0, width=4):
    """One whose head has the same ReLU in two places, and most of whose evidence is positive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = EncoderConfig(arch=arch, width=width, blocks_per_stage=(1, 1, 1, 1))
        encoder, relu, channels = ResNet3d(config), nn.ReLU(inplace=True), 8 * width
        layers = nn.Linear(channels, channels), nn.Linear(channels, len(NAMES))
        for layer in layers:
            nn.init.uniform_(layer.weight, -0.5, 1)
        for part in encoder.modules():
            if isinstance(part, nn.BatchNorm3d):  # norms that change something
                nn.init.uniform_(part.running_mean, -0.5, 0.5)
                nn.init.uniform_(part.bias, -0.5, 0.5)
    return Classifier(encoder, nn.Sequential(relu, layers[0], relu, nn.Dropout(0.5), layers[1]))


def clip(seed=0, frames=8, size=32):
    return torch.randn(1, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


class GuidedReLU(torch.autograd.Function):
    """A ReLU that passes back what is positive, where its input was."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (x > 0)


class Guided(nn.Module):
    def forward(self, x):
        return GuidedReLU.apply(x)


def with_guided_relus(module):
    for name, child in module._modules.items():
        if isinstance(child, nn.ReLU):
            setattr(module, name, Guided())
        elif child is not None:
            with_guided_relus(child)
    return module


def written_out(model, pixels, target):
    """Guided Grad-CAM [1, 3, T, H, W] and Grad-CAM [1, 1, T, H, W], by their definitions."""
    model = copy.deepcopy(model).eval()
    features = model.encoder(pixels)
    features.retain_grad()
    model.head(features.mean(dim=(2, 3, 4)))[0, target].backward()
    weights = features.grad.mean(dim=(2, 3, 4), keepdim=True)
    cam = (weights * features).sum(dim=1, keepdim=True).relu().detach()
    cam = F.interpolate(cam, pixels.shape[2:], mode="trilinear", align_corners=False)
    leaf = pixels.clone().requires_grad_()
    with_guided_relus(model)(leaf)[0, target].backward()
    return (cam * leaf.grad).numpy(), cam.numpy()


@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
def test_the_maps_are_those_written_out_by_hand(arch):
    model, pixels = classifier(arch), clip()
    for target in CLASSES:
        guided, cam = written_out(model, pixels, target)
        found = explain(model, pixels, target)
        np.testing.assert_allclose(found.cam, cam[0, 0] / cam.max(), atol=1e-5)
        magnitude = np.abs(guided).max(axis=1)[0]
        expected = np.clip(magnitude / np.quantile(magnitude, FULL_QUANTILE), 0, 1)
        np.testing.assert_allclose(found.guided, expected, atol=1e-5)


def test_maps_have_the_clips_shape_and_fill_the_range():
    found = explain(classifier("r2plus1d"), clip(frames=5, size=40))
    for values in (found.guided, found.cam):
        assert values.shape == (5, 40, 40)
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert values.max() == 1


def test_the_predicted_class_is_explained_unless_another_is_asked_for():
    model, pixels = classifier("r2plus1d"), clip()
    with torch.no_grad():
        probabilities = model.eval()(pixels).softmax(dim=1)[0].numpy()
    found = explain(model, pixels)
    assert found.target == found.predicted == probabilities.argmax()
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-6)
    asked = explain(model, pixels, target=found.target)
    np.testing.assert_array_equal(found.guided, asked.guided)
    other = explain(model, pixels, target=(found.target + 1) % 3)
    assert other.predicted == found.predicted
    assert not np.array_equal(other.guided, found.guided)


def test_where_nothing_speaks_for_a_class_the_maps_are_empty():
    model = classifier()
    with torch.no_grad():
        model.head[-1].weight[1] = 0
    found = explain(model, clip(), target=1)
    assert not found.guided.any()
    assert not found.cam.any()


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(frozen):
    model = classifier().train()
    if frozen:
        model.encoder.eval().requires_grad_(False)
    model.head[-1].bias.grad = torch.ones(len(NAMES))

    def look():
        return (
            [part.training for part in model.modules()],
            [part.inplace for part in model.modules() if isinstance(part, nn.ReLU)],
            [parameter.requires_grad for parameter in model.parameters()],
            [None if p.grad is None else p.grad.sum().item() for p in model.parameters()],
            [len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks)
             for part in model.modules()],
        )  # fmt: skip

    before, weights = look(), copy.deepcopy(model.state_dict())
    pixels = clip()
    explain(model, pixels)
    assert look() == before
    assert any(before[0])
    assert all(before[1])
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not pixels.requires_grad
    with pytest.raises(ValueError, match="no class 3"):
        explain(model, pixels, target=3)
    assert look() == before


def test_while_it_works_no_relu_is_in_place_and_nothing_is_dropped():
    model, seen = classifier().train(), []

    def look(part, *_):
        seen.append(part.training or getattr(part, "inplace", False))

    for part in model.modules():
        if isinstance(part, nn.ReLU | nn.Dropout | nn.BatchNorm3d):
            part.register_forward_hook(look)
    explain(model, clip())
    assert seen
    assert not any(seen)


def test_a_frozen_or_a_training_model_is_explained_as_in_a_test_and_so_without_gradients():
    expected = explain(classifier().eval(), clip(), 0)
    training = classifier().train()
    training.encoder.requires_grad_(False)
    with torch.no_grad():
        found = explain(training, clip(), 0)
    np.testing.assert_allclose(found.guided, expected.guided, atol=1e-6)
    np.testing.assert_allclose(found.cam, expected.cam, atol=1e-6)


def test_the_map_lies_on_what_the_class_depends_on():
    """The class is the colour of a square on noise, and that alone."""
    rng, side, size = np.random.default_rng(0), 10, 32

    def draw(count):
        clips = rng.normal(0, 0.5, (count, 3, 4, size, size)).astype(np.float32)
        labels, corners = rng.integers(0, 2, count), rng.integers(0, size - side, (count, 2))
        for pixels, label, (y, x) in zip(clips, labels, corners, strict=True):
            pixels[2 * label, :, y : y + side, x : x + side] += 2
        return torch.from_numpy(clips), torch.from_numpy(labels), corners

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ResNet3d(EncoderConfig(width=8, blocks_per_stage=(1, 1, 1, 1)))
        model = Classifier(encoder, nn.Linear(encoder.out_channels, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(25):
        clips, labels, _ = draw(8)
        optimizer.zero_grad()
        F.cross_entropy(model(clips), labels).backward()
        optimizer.step()
    clips, labels, corners = draw(6)
    shares = []
    for pixels, label, (y, x) in zip(clips, labels, corners, strict=True):
        found = explain(model, pixels[None])
        assert found.predicted == label
        inside = found.guided[:, y : y + side, x : x + side]
        shares.append(inside.sum() / found.guided.sum())
    assert np.mean(shares) > 2 * side**2 / size**2


@pytest.mark.parametrize(
    ("model", "pixels", "said"),
    [
        (classifier(), torch.zeros(2, 3, 4, 16, 16), r"one clip .* got torch.float32 \[2, 3, 4"),
        (classifier(), torch.zeros(3, 4, 16, 16), "one clip"),
        (classifier(), torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (classifier().encoder, torch.zeros(1, 3, 4, 16, 16), r"no classifier .* \[1, 32, 1, 2, 2"),
        (nn.Linear(2, 2), torch.zeros(1, 3, 4, 16, 16), "Linear has 0"),
        (nn.Sequential(classifier(), classifier()), torch.zeros(1, 3, 4, 16, 16), "has 2"),
    ],
    ids=["two clips", "no batch", "pixels", "encoder", "no encoder", "two encoders"],
)
def test_what_cannot_be_explained_is_refused(model, pixels, said):
    with pytest.raises(ValueError, match=said):
        explain(model, pixels)


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_is_not_there_is_refused(target):
    with pytest.raises(ValueError, match=f"no class {target} to explain: the model tells 3"):
        explain(classifier(), clip(), target)


def explanation(target=0, probabilities=(0.7, 0.2, 0.1), frames=6, size=40):
    """Guided Grad-CAM in the left half alone, Grad-CAM in the upper half."""
    guided, cam = np.zeros((2, frames, size, size), np.float32)
    guided[:, :, : size // 2] = 1
    cam[:, : size // 2] = 1
    return Explanation(target, np.array(probabilities, np.float32), guided, cam)


def explained(label=0, frames=6, size=40, names=("CtP", "random"), **options):
    pixels = np.full((frames, size, size, 3), 200, np.uint8)
    found = explanation(frames=frames, size=size, **options)
    return Explained(pixels, "a clip", label, dict.fromkeys(names, found))


def png(*args, **options):
    with Image.open(io.BytesIO(strip_png(*args, **options))) as image:
        return np.asarray(image.convert("RGB"))


def has(picture, color):
    return (picture == np.array(color, np.uint8)).all(axis=-1)


def test_overlays_show_the_map_and_leave_the_frames():
    frames = np.full((1, 4, 4, 3), 200, np.uint8)
    values = np.zeros((1, 4, 4), np.float32)
    values[:, :, :2] = 1
    guided, cam = (overlay(frames, values, name) for name in MAPS)
    np.testing.assert_array_equal(guided[0, 0, 3], [80, 80, 80])  # a dim grey where there is none
    np.testing.assert_array_equal(guided[0, 0, 0], [252, 255, 164])  # the brightest of the colours
    red, _, blue = cam[0, 0, 0].astype(int) - cam[0, 0, 3]
    assert red > 0 > blue
    assert (frames == 200).all()


def test_a_guided_map_glows_the_more_the_stronger_it_is():
    frames = np.full((1, 1, 9, 3), 100, np.uint8)
    values = np.linspace(0.1, 1, 9, dtype=np.float32)[None, None]
    brightness = overlay(frames, values, "guided").astype(int).sum(axis=-1)[0, 0]
    assert (np.diff(brightness) > 0).all()


def test_the_strip_has_a_row_a_map_and_a_column_a_frame():
    one, two = explained(names=("CtP",)), explained()
    row = 40 + GAP_PX + TEXT_LINE_PX
    plain = png([one], NAMES, num_columns=6, size_px=40)
    assert png([two], NAMES, num_columns=6, size_px=40).shape[0] - plain.shape[0] == 2 * row
    fewer = png([one], NAMES, maps=("guided",), num_columns=6, size_px=40)
    assert plain.shape[0] - fewer.shape[0] == row + TEXT_LINE_PX  # and its line in the legend
    assert png([one, one], NAMES, num_columns=6, size_px=40).shape[0] - plain.shape[0] == 3 * row
    narrower = png([one], NAMES, num_columns=4, size_px=40)
    assert plain.shape[1] - narrower.shape[1] == 2 * (40 + GAP_PX)


def test_frames_stand_above_the_maps_of_each_classifier():
    picture = png([explained()], NAMES, num_columns=1, size_px=40)
    row = 40 + GAP_PX + TEXT_LINE_PX
    top = MARGIN_PX + 2 * TEXT_LINE_PX
    cells = [picture[top + n * row :][:40, MARGIN_PX:][:, :40] for n in range(5)]
    assert (cells[0] == 200).all()
    for guided in (cells[1], cells[3]):
        assert (guided[:, :20] == [252, 255, 164]).all()
        assert (guided[:, 20:] == 80).all()
    for cam in (cells[2], cells[4]):
        upper, lower = cam[:20].reshape(-1, 3), cam[20:].reshape(-1, 3)
        assert (upper == upper[0]).all()
        assert (lower == lower[0]).all()
        assert upper[0, 0] > lower[0, 0]


@pytest.mark.parametrize(
    ("label", "color", "others"),
    [
        (0, RIGHT_COLOR, (WRONG_COLOR,)),
        (2, WRONG_COLOR, (RIGHT_COLOR,)),
        (None, INK, (RIGHT_COLOR, WRONG_COLOR)),
    ],
)
def test_what_is_right_what_is_wrong_and_what_is_not_known_look_otherwise(label, color, others):
    picture = png([explained(label)], NAMES, size_px=100)
    assert has(picture, color).any()
    assert not any(has(picture, other).any() for other in others)


def test_the_words_say_who_says_what_how_surely_and_for_which_class():
    frames, first, _ = gradcam._panels(explained(label=2, names=("CtP",)), NAMES, tuple(MAPS))
    assert frames.lines == ("a clip", "true class: Sit", "")
    assert first.lines == ("CtP", "Jump 70%, wrong", "guided Grad-CAM")
    unlabelled = gradcam._panels(explained(label=None, target=1), NAMES, ("cam",))
    assert unlabelled[0].lines == ("a clip", "", "")
    assert unlabelled[1].lines == ("CtP", "Jump 70%", "Grad-CAM for Run 20%")
    assert gradcam._panels(explained(label=0), NAMES, ("cam",))[1].lines[1] == "Jump 70%, right"


def test_long_names_fit():
    long = ["pretending to put something next to something"] * 3
    short = png([explained()], NAMES, num_columns=3, size_px=40)
    assert png([explained()], long, num_columns=3, size_px=40).shape == short.shape


def test_classifiers_of_other_classes_are_refused():
    for draw in (strip_png, side_by_side_mp4):
        with pytest.raises(ValueError, match="CtP tells 3 classes apart, and 2 are named"):
            draw([explained()], NAMES[:2])


@pytest.mark.parametrize(("names", "maps"), [(("CtP",), ("guided",)), (("CtP", "random"), MAPS)])
def test_the_video_shows_clip_and_maps_side_by_side_over_and_over(names, maps):
    data = side_by_side_mp4(
        [explained(names=names)] * 2, NAMES, maps=tuple(maps), size_px=40, frames_per_second=8
    )
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6 * math.ceil(LOOP_SECONDS * 8 / 6)
    columns = 1 + len(names) * len(maps)
    width = 2 * MARGIN_PX + columns * 40 + (columns - 1) * GAP_PX
    assert frames[0].shape[1] == width + width % 2
    top = MARGIN_PX + 3 * TEXT_LINE_PX
    shown, guided = (frames[0][top + 10 : top + 30, MARGIN_PX + x :][:, 4:16] for x in (0, 44))
    assert abs(float(shown.mean()) - 200) < 5
    assert np.abs(guided.mean(axis=(0, 1)) - [252, 255, 164]).max() < 20
