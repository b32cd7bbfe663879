"""C3D with batch normalisation, the net of VCOP (Tran et al., ICCV 2015; Xu et al., CVPR 2019)."""

from __future__ import annotations

import itertools

from torch import nn

from ctp.encoders.config import C3dConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.resnet3d import conv_norm_relu, initialise


class C3d(Encoder):
    """Eight convolutions of 3×3×3 in five stages, with a max pool between stages.

    At spatial stride 8, the last pool is over time alone.
    """

    Config = C3dConfig
    stages = ("conv1", "conv2", "conv3", "conv4", "conv5")

    def __init__(self, config: C3dConfig):
        super().__init__(config)
        width, last = config.width, config.spatial_stride // 8
        self.out_channels = 8 * width
        self.stride = (8, config.spatial_stride, config.spatial_stride)
        self.conv1 = _convolutions(3, width)
        self.conv2 = nn.Sequential(_pool(1, 2), _convolutions(width, 2 * width))
        self.conv3 = nn.Sequential(_pool(2, 2), _convolutions(2 * width, 4 * width, 4 * width))
        self.conv4 = nn.Sequential(_pool(2, 2), _convolutions(4 * width, 8 * width, 8 * width))
        self.conv5 = nn.Sequential(_pool(2, last), _convolutions(8 * width, 8 * width, 8 * width))
        initialise(self)
        self.set_norm_eps(config.norm_eps)


def _convolutions(*channels: int) -> nn.Sequential:
    pairs = itertools.pairwise(channels)
    return nn.Sequential(
        *(part for pair in pairs for part in conv_norm_relu(*pair, (3, 3, 3), (1, 1, 1)))
    )


def _pool(time: int, side: int) -> nn.MaxPool3d:
    # odd sizes are rounded up, as those of strided convolutions
    return nn.MaxPool3d((time, side, side), ceil_mode=True)
