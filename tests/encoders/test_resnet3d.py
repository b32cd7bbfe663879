"""The encoders, held to torchvision's."""

import pytest
import torch
from torch import nn
from torchvision.models.video import r2plus1d_18, r3d_18

from ctp.encoders.config import R2plus1dConfig, R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.encoders.resnet3d import R3d
from ctp.pretext.ctp.config import HeadConfig
from ctp.pretext.ctp.head import TrackHead

TORCHVISION = {"r3d": r3d_18, "r2plus1d": r2plus1d_18}
SMALL = {"width": 4, "blocks_per_stage": (1, 1, 1, 1)}
CONFIGS = {"r3d": R3dConfig, "r2plus1d": R2plus1dConfig}


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def build(config, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(config)


@pytest.mark.parametrize(("arch", "parameters"), [("r3d", 33_166_272), ("r2plus1d", 31_300_125)])
def test_is_torchvisions_net(arch, parameters):
    config = CONFIGS[arch](norm_eps=1e-5, spatial_stride=16)
    ours, theirs = build(config), TORCHVISION[arch](weights=None)
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == shapes
    assert count_parameters(ours) == parameters

    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(2, 3, 8, 32, 32, generator=generator)
    for training in (True, False):  # in training first, so that the running statistics move
        with torch.no_grad():
            features = ours.train(training)(clips)
            expected = theirs.train(training)(clips).view_as(features)
        assert features.shape == (2, 512, 1, 2, 2)
        assert expected.max() > 0.1
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_encoder_share_of_the_pretrained_model():
    encoder = R3d(R3dConfig())
    head = TrackHead(HeadConfig(), encoder, num_frames=16)
    share = count_parameters(encoder) / (count_parameters(encoder) + count_parameters(head))
    assert round(100 * share, 1) == 82.3


@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
@pytest.mark.parametrize(
    ("stride", "size", "expected"),
    [
        (8, (16, 112, 112), (2, 14, 14)),
        (16, (16, 112, 112), (2, 7, 7)),
        (8, (9, 50, 33), (2, 7, 5)),
        (16, (8, 50, 33), (1, 4, 3)),
    ],
)
def test_output_shape(arch, stride, size, expected):
    config = CONFIGS[arch](**SMALL, spatial_stride=stride)
    encoder = build(config)
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, *size))
    assert features.shape == (1, 32, *expected)
    assert (encoder.out_channels, encoder.stride) == (32, (8, stride, stride))


@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
def test_weights_fit_both_strides(arch):
    config = CONFIGS[arch](**SMALL)
    pretrained = build(config)
    downstream = build(config.replace(spatial_stride=16), seed=1)
    downstream.load_state_dict(pretrained.state_dict())
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        at_8, at_16 = pretrained.eval()(clips), downstream.eval()(clips)
    assert at_8.shape[-2:] == (4, 4)
    assert at_16.shape[-2:] == (2, 2)


def test_width_and_depth():
    encoder = build(R3dConfig(width=8, blocks_per_stage=(1, 2, 3, 1)))
    stages = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    assert [len(stage) for stage in stages] == [1, 2, 3, 1]
    assert [stage[-1].conv2[0].out_channels for stage in stages] == [8, 16, 32, 64]
    assert encoder.out_channels == 64


@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
def test_initialisation(arch):
    encoder = build(CONFIGS[arch](width=32, blocks_per_stage=(1, 1, 1, 1)))
    convs = [part for part in encoder.modules() if isinstance(part, nn.Conv3d)]
    norms = [part for part in encoder.modules() if isinstance(part, nn.BatchNorm3d)]
    assert len(convs) == len(norms) > 8
    for conv in convs:
        assert conv.bias is None
        if conv.weight.numel() > 5000:
            fan_out = conv.out_channels * conv.weight[0, 0].numel()
            assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
            assert abs(conv.weight.mean().item()) < 0.05 * conv.weight.std().item()
    for norm in norms:
        assert norm.eps == 1e-3
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


@pytest.mark.parametrize("fields", [{"width": 2}, {"blocks_per_stage": (1, 1)}, {"name": "c2d"}])
def test_wrong_configs_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        R3dConfig(**fields)
