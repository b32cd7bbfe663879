"""TSM: a 2D ResNet that shifts channels along time (Lin et al., ICCV 2019)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv3DNoTemporal

from ctp.encoders.config import IMAGENET, TsmConfig
from ctp.encoders.encoder import Encoder, PublishedWeights
from ctp.encoders.resnet3d import (
    build_stage,
    conv_norm_relu,
    drop_spatial_stride,
    inflate,
    initialise,
)

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Residual blocks of the four stages, by depth."""
DEEP_STAGE = 23
"""A net with a stage of this many blocks, or more, shifts in every second block only."""
SHIFTED = 8
"""One in this many channels is shifted back in time, and one forward."""


class Tsm(Encoder):
    """A ResNet of 1×3×3 convolutions whose residual blocks also see the neighbouring frames.

    Before the first convolution of a block, 1/8 of the channels move one frame back and 1/8 one
    frame forward; the shortcut is not shifted. All frames are kept.

    The strides of the image net multiply to 32. At spatial stride 16 the last stage has stride 1,
    at 8 the last two; convolutions are not dilated. The names are R3D's.
    """

    Config = TsmConfig
    stages = ("stem", "layer1", "layer2", "layer3", "layer4")
    published_weights: ClassVar = {
        # an inflated kernel of length 1 is that of the image net
        IMAGENET: PublishedWeights("ResNet{depth}_Weights.IMAGENET1K_V1", inflate)
    }

    def __init__(self, config: TsmConfig):
        super().__init__(config)
        block = BasicBlock if config.depth == 18 else Bottleneck
        blocks = BLOCKS[config.depth]
        every = 2 if max(blocks) >= DEEP_STAGE else 1
        self.out_channels = 8 * config.width * block.expansion
        self.stride = (1, config.spatial_stride, config.spatial_stride)
        self.stem = nn.Sequential(
            *conv_norm_relu(3, config.width, (1, 7, 7), (1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        channels = config.width
        for number, depth in enumerate(blocks, start=1):
            planes = config.width * 2 ** (number - 1)
            stride = 1 if number == 1 else 2
            stage = build_stage(block, Conv3DNoTemporal, channels, planes, depth, stride)
            shifted: Any
            for shifted in stage[::every]:
                # in place of the sequence, so that the names of the weights stay
                shifted.conv1 = ShiftedConv(*shifted.conv1)
            self.add_module(f"layer{number}", stage)
            channels = planes * block.expansion
        # after the stages are built with stride 2, so that the shortcuts have the same weights
        for name, largest in (("layer4", 16), ("layer3", 8)):
            if config.spatial_stride <= largest:
                drop_spatial_stride(self.get_submodule(name))
        initialise(self)
        self.set_norm_eps(config.norm_eps)


class ShiftedConv(nn.Sequential):
    """Layers whose input is shifted along time."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the layers' output for float [B, C, T, H, W]."""
        shifted = shift(features)
        for layer in self:
            shifted = layer(shifted)
        return shifted


def shift(features: Tensor) -> Tensor:
    """Move 1/8 of the channels one frame back and the next 1/8 one frame forward.

    Zeros replace the frames beyond the clip's ends.

    Args:
        features: float [B, C, T, H, W].
    """
    size = features.shape[1] // SHIFTED
    back, forth, rest = features.tensor_split([size, 2 * size], dim=1)
    back = pad(back[:, :, 1:], (0, 0, 0, 0, 0, 1))
    forth = pad(forth[:, :, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([back, forth, rest], dim=1)
