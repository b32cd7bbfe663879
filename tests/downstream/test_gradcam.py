"""Guided Grad-CAM against its definition written out by hand."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctp.bench.timing import one_thread
from ctp.downstream.gradcam import FULL_QUANTILE, explain
from ctp.encoders.config import ANY_ENCODER_CONFIG, R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.encoders.resnet3d import R3d

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


def classifier(name="r3d", seed=0, width=4):
    """One whose head has the same ReLU in two places, and most of whose evidence is positive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"width": width, "blocks_per_stage": (1, 1, 1, 1)}
        config = ANY_ENCODER_CONFIG.validate_python({"name": name, **sizes})
        encoder, relu, channels = build_encoder(config), nn.ReLU(inplace=True), 8 * width
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


@pytest.mark.parametrize("name", ["r3d", "r2plus1d"])
def test_the_maps_are_those_written_out_by_hand(name):
    model, pixels = classifier(name), clip()
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


def test_the_predicted_class_is_explained_by_default():
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


def test_without_evidence_for_a_class_the_maps_are_empty():
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


def test_the_map_shows_what_the_class_depends_on():
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
        encoder = R3d(R3dConfig(width=8, blocks_per_stage=(1, 1, 1, 1)))
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
    ("pixels", "message"),
    [
        (torch.zeros(2, 3, 4, 16, 16), r"one clip.*got torch.float32 \[2, 3, 4"),
        (torch.zeros(3, 4, 16, 16), "one clip"),
        (torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8), "torch.uint8"),
    ],
    ids=["two clips", "no batch", "pixels"],
)
def test_what_is_not_a_clip_is_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        explain(classifier(), pixels)


def test_a_model_without_logits_is_refused():
    model = classifier()
    model.forward = model.encoder.forward
    with pytest.raises(ValueError, match=r"logits.*returns \[1, 32, 1, 2, 2"):
        explain(model, torch.zeros(1, 3, 4, 16, 16))


@pytest.mark.parametrize("target", [-1, 3])
def test_a_missing_class_is_refused(target):
    with pytest.raises(ValueError, match=f"no class {target}: the model has 3"):
        explain(classifier(), clip(), target)
