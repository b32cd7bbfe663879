"""R3D and R(2+1)D encoders from torchvision's blocks, under torchvision's parameter names."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple

from ctp.encoders.config import (
    IMAGENET,
    KINETICS,
    STANDARD_WIDTH,
    R2plus1dConfig,
    R3dConfig,
    ResNet3dConfig,
)
from ctp.encoders.encoder import Encoder, PublishedWeights, State

R2PLUS1D_STEM_MIDPLANES = 45
IMAGE_NET_NAMES = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"\.conv([123])\.", r".conv\1.0."),
    (r"\.bn([123])\.", r".conv\1.1."),
)
"""Rename the parameters of torchvision's 2D ResNet to those of R3D."""


class ResNet3d(Encoder):
    """Base of R3D and R(2+1)D.

    The state dict is that of `torchvision.models.video.r3d_18` or `r2plus1d_18` without `fc`;
    `middle_channels` changes some shapes.
    """

    stages = ("stem", "layer1", "layer2", "layer3", "layer4")
    checkpoint_names = (
        (r"^stem\.conv(_s)?\.", "stem.0."),
        (r"^stem\.bn(_s)?\.", "stem.1."),
        (r"^stem\.conv_t\.", "stem.3."),
        (r"^stem\.bn_t\.", "stem.4."),
        (r"\.conv([12])\.conv\.", r".conv\1.0."),
        (r"\.conv([12])\.conv_s\.", r".conv\1.0.0."),
        (r"\.conv([12])\.bn_s\.", r".conv\1.0.1."),
        (r"\.conv([12])\.conv_t\.", r".conv\1.0.3."),
        (r"\.bn([12])\.", r".conv\1.1."),
        (r"\.downsample\.conv\.", ".downsample.0."),
        (r"\.downsample_bn\.", ".downsample.1."),
    )

    def __init__(
        self,
        config: ResNet3dConfig,
        stem: nn.Sequential,
        conv: type[Conv3DSimple] | type[Conv2Plus1D],
    ):
        super().__init__(config)
        width, depths = config.width, config.blocks_per_stage
        self.out_channels = 8 * width
        self.stride = (8, config.spatial_stride, config.spatial_stride)
        self.stem = stem
        self.layer1 = build_stage(BasicBlock, conv, width, width, depths[0], 1)
        self.layer2 = build_stage(BasicBlock, conv, width, 2 * width, depths[1], 2)
        self.layer3 = build_stage(BasicBlock, conv, 2 * width, 4 * width, depths[2], 2)
        self.layer4 = build_stage(BasicBlock, conv, 4 * width, 8 * width, depths[3], 2)
        # after the stage is built with stride 2, so that the weights have the same shapes at both
        # strides
        if config.spatial_stride == 8:
            drop_spatial_stride(self.layer4)
        initialise(self)
        self.set_norm_eps(config.norm_eps)

    def halve_temporal_stride(self) -> None:
        """Let `layer2` keep the length in time; see `Encoder.halve_temporal_stride`."""
        for module in self.layer2.modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, *module.stride[1:])
        self.stride = (4, *self.stride[1:])


def inflate(images: State, own: State) -> State:
    """Return weights of a 2D ResNet as weights of R3D, as in I3D.

    Kernels [C', C, h, w] are repeated over time and divided by its length, so that a clip that
    does not move has the features of its image.
    """
    inflated = {}
    for key, value in images.items():
        for pattern, name in IMAGE_NET_NAMES:
            key = re.sub(pattern, name, key)
        if value.ndim == 4 and key in own:
            length = own[key].shape[2]
            # the response to T equal frames is then that to the one image
            value = value[:, :, None].expand(-1, -1, length, -1, -1) / length
        inflated[key] = value
    return inflated


class R3d(ResNet3d):
    """R3D: a residual net of full 3D convolutions."""

    Config = R3dConfig
    published_weights: ClassVar = {
        KINETICS: PublishedWeights("R3D_18_Weights.KINETICS400_V1"),
        IMAGENET: PublishedWeights("ResNet18_Weights.IMAGENET1K_V1", inflate),
    }

    def __init__(self, config: R3dConfig):
        stem = conv_norm_relu(3, config.width, (3, 7, 7), (1, 2, 2))
        super().__init__(config, nn.Sequential(*stem), Conv3DSimple)


class R2plus1d(ResNet3d):
    """R(2+1)D: a residual net of spatial convolutions, each followed by a temporal one.

    The weights of an image net cannot be inflated for it: a ReLU is between its spatial and its
    temporal kernels, and its stem has 45 spatial kernels instead of 64.
    """

    Config = R2plus1dConfig
    published_weights: ClassVar = {KINETICS: PublishedWeights("R2Plus1D_18_Weights.KINETICS400_V1")}

    config: R2plus1dConfig

    def __init__(self, config: R2plus1dConfig):
        width = config.width
        # torchvision's 45 of 64, in proportion for narrower nets
        middle = max(R2PLUS1D_STEM_MIDPLANES * width // STANDARD_WIDTH, 1)
        spatial = conv_norm_relu(3, middle, (1, 7, 7), (1, 2, 2))
        temporal = conv_norm_relu(middle, width, (3, 1, 1), (1, 1, 1))
        conv = Conv2Plus1D if config.middle_channels == "block" else WideConv2Plus1D
        super().__init__(config, nn.Sequential(*spatial, *temporal), conv)

    def mismatch_hint(self, state: State) -> str:
        """Return the `middle_channels` that the weights need, if the encoder has others."""
        kernels = [state.get(f"layer2.0.conv{number}.0.0.weight") for number in (1, 2)]
        channels = {kernel.shape[0] for kernel in kernels if kernel is not None}
        # computed for each convolution, the two of a block that doubles its channels have different
        # ones
        needed = "convolution" if len(channels) > 1 else "block"
        if not channels or needed == self.config.middle_channels:
            return ""
        return f"these are weights of an R(2+1)D with middle_channels {needed}"


class WideConv2Plus1D(Conv2Plus1D):  # type: ignore[misc]
    """A (2+1)D convolution with about as many weights as the 3D one in its place."""

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1
    ):
        # as torchvision computes it in `BasicBlock`, but from this convolution's own channels
        midplanes = 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
) -> tuple[nn.Module, ...]:
    """Return a convolution that keeps sizes at stride 1, batch normalisation and ReLU."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return (
        nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


def build_stage(
    block: Any, conv: Any, in_channels: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    """Return `depth` residual blocks, of which the first has the stride and the shortcut.

    Args:
        block: torchvision's BasicBlock or Bottleneck.
        conv: its 3×3×3 convolution, a class of torchvision's video nets.
        in_channels: channels of the input.
        planes: channels of the output over `block.expansion`.
        depth: number of blocks.
        stride: of the first block, in the dimensions in which `conv` has it.
    """
    out_channels, downsample = planes * block.expansion, None
    # the shortcut must have the shape of the block's output
    if stride != 1 or in_channels != out_channels:
        shortcut_stride = conv.get_downsample_stride(stride)
        downsample = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, 1, shortcut_stride, bias=False),
            nn.BatchNorm3d(out_channels),
        )
    first = block(in_channels, planes, conv, stride, downsample)
    rest = (block(out_channels, planes, conv) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def initialise(encoder: Encoder) -> None:
    """Draw the convolutions' weights as the authors do: Kaiming, fan-out."""
    # torch's defaults for norms, weight 1 and bias 0, are theirs too
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def drop_spatial_stride(stage: nn.Module) -> None:
    """Keep the stage's temporal stride and set the spatial one to 1 (supplement D)."""
    for module in stage.modules():
        if isinstance(module, nn.Conv3d):
            # the shortcut's too, or the sum of both would have two sizes
            module.stride = (module.stride[0], 1, 1)
