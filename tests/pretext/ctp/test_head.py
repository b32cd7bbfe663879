"""The head, held to a float64 NumPy reference of all its parts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctp import recipes
from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.pretext.ctp.config import HeadConfig
from ctp.pretext.ctp.head import TrackHead
from ctp.training.config import OptimizerConfig
from ctp.training.step import LossTerms, build_optimizer, train_step

T = 12
ENCODER = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))  # 32 channels, 2 moments


def build_head(config, num_frames=T):
    """A head with weights large enough to be seen in its output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = TrackHead(config, R3d(ENCODER), num_frames)
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.15)
    return head


def relu(values):
    return np.maximum(values, 0)


def bilinear(plane, y, x):
    """One sample of a plane [C, H, W], clamped at its edge, 0 from a pixel beyond it."""
    _, height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(plane))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    above = (1 - u) * plane[:, top, left] + u * plane[:, top, right]
    below = (1 - u) * plane[:, bottom, left] + u * plane[:, bottom, right]
    return (1 - v) * above + v * below


def roi_align(plane, box, size, scale):
    """RoIAlign (Mask R-CNN, §3) with half-pixel centres and 2×2 samples a bin, [C, size, size]."""
    x1, y1, x2, y2 = box * scale - 0.5
    bin_width, bin_height = (x2 - x1) / size, (y2 - y1) / size
    out = np.zeros((len(plane), size, size))
    for row in range(size):
        for column in range(size):
            samples = [
                bilinear(plane, y1 + (row + v) * bin_height, x1 + (column + u) * bin_width)
                for v in (0.25, 0.75)
                for u in (0.25, 0.75)
            ]
            out[:, row, column] = np.mean(samples, axis=0)
    return out


def reference_forward(head, features, queries, *, squeeze):
    weights = {key: value.double().numpy() for key, value in head.state_dict().items()}
    features, queries = features.double().numpy(), queries.double().numpy()
    offsets = np.zeros((*queries.shape[:2], T * 4))
    for b, k in np.ndindex(queries.shape[:2]):
        if squeeze:
            kernel = weights["squeeze.0.weight"][..., 0, 0]  # [out, in, T']
            plane = np.einsum("oct,cthw->ohw", kernel, features[b])
            plane = relu(plane + weights["squeeze.0.bias"][:, None, None])
        else:
            plane = features[b].reshape(-1, *features.shape[-2:])
        region = roi_align(plane, queries[b, k], 5, 1 / 8).ravel()
        hidden = relu(weights["mlp.0.weight"] @ region + weights["mlp.0.bias"])
        offsets[b, k] = weights["mlp.2.weight"] @ hidden + weights["mlp.2.bias"]
    return offsets.reshape(*queries.shape[:2], T, 4)


@pytest.mark.parametrize("squeeze", [True, False])
def test_equals_the_reference(squeeze):
    head = build_head(HeadConfig(squeeze=squeeze, hidden_channels=8))
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 32, 2, 6, 7, generator=generator)
    queries = torch.tensor(
        [
            [[0.0, 0, 56, 48], [10.3, 5.1, 30.9, 41.2], [-9, -6, 12, 9]],
            [[40, 30, 70, 60], [20, 20, 22.5, 21], [3.7, 8.2, 51, 17]],
        ]
    )
    with torch.no_grad():
        offsets = head(features, queries)
    assert offsets.shape == (2, 3, T, 4)
    assert offsets.dtype == torch.float32
    assert offsets.std() > 0.1
    expected = reference_forward(head, features, queries, squeeze=squeeze)
    np.testing.assert_allclose(offsets.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_sizes_follow_the_strides_and_channels_of_the_encoder():
    for stride in (8, 16):
        encoder = R3d(ENCODER.replace(spatial_stride=stride))
        head = TrackHead(HeadConfig(hidden_channels=8), encoder, num_frames=20)
        assert head.spatial_scale == 1 / stride
        assert head.squeeze[0].weight.shape == (8, 32, 3, 1, 1)
        assert head.mlp[0].in_features == 8 * 25
        assert head.mlp[2].out_features == 80
    apart = TrackHead(HeadConfig(squeeze=False, hidden_channels=8), encoder, num_frames=20)
    assert apart.mlp[0].in_features == 3 * 32 * 25
    assert not [key for key in apart.state_dict() if key.startswith("squeeze")]


@pytest.mark.parametrize(
    ("init", "first_std"), [("official", 0.001), ("torch", 75**-0.5 / 256**0.5)]
)
def test_a_new_head_predicts_that_all_boxes_stay_still(init, first_std):
    """`nn.Linear` draws from U(±1/√n), whose deviation is 1/√(3n), for n = 25 · 256 inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = R3d(ENCODER)
        head = TrackHead(HeadConfig(hidden_channels=256, init=init), encoder, T)
    conv, first, last = head.squeeze[0], head.mlp[0], head.mlp[2]
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 2)) ** 0.5, rel=0.05)
    for linear, std in ((first, first_std), (last, 0.001)):
        assert linear.weight.std().item() == pytest.approx(std, rel=0.05)
    for part in (conv, first, last):
        assert torch.equal(part.bias, torch.zeros_like(part.bias))
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, 32, 2, 6, 6, generator=generator)
    offsets = head(features, torch.tensor([[[4.0, 4, 40, 40]]]))
    assert 0 < offsets.abs().max() < 0.05


def test_gradients_reach_every_weight_and_the_features():
    head = build_head(HeadConfig(hidden_channels=8))
    features = torch.randn(2, 32, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    features.requires_grad_()
    head(features, torch.tensor([4.0, 4, 40, 40]).repeat(2, 3, 1)).square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def dead_unit_share(config: HeadConfig) -> float:
    """Train a head by AdamW on noise as in the first 60 steps of the recipe small; return the share
    of units of its perceptron that no box of the last batch makes fire."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = TrackHead(config, R3d(recipes.SMALL_ENCODER), T)
        rate = recipes.small().optimizer.learning_rate
        optimizer = build_optimizer(OptimizerConfig(name="adamw"), head)
        for step in range(60):
            features = torch.randn(16, head.squeeze[0].in_channels, 2, 6, 6).relu()
            corner = 24 * torch.rand(16, 2, 2)
            queries = torch.cat([corner, corner + 12 + 12 * torch.rand(16, 2, 2)], dim=-1)
            targets = torch.randn(16, 2, T, 4) / 2

            def loss(features=features, queries=queries, targets=targets) -> LossTerms:
                return LossTerms(F.smooth_l1_loss(head(features, queries), targets), {})

            train_step(loss, list(head.parameters()), optimizer, rate * min(1, 0.1 + step / 100))
        fired = []
        head.mlp[1].register_forward_hook(lambda _, __, out: fired.append((out > 0).any(dim=0)))
        head(features, queries)
    return 1 - fired[0].float().mean().item()


def test_units_of_the_small_recipes_head_live_under_adamw():
    assert dead_unit_share(HeadConfig(hidden_channels=64)) > 0.9
    assert dead_unit_share(recipes.SMALL_HEAD) < 0.75
