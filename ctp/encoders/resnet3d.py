"""R3D and R(2+1)D encoders from torchvision's blocks, under torchvision's parameter names."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, Conv3DSimple

from ctp.encoders.config import STANDARD_WIDTH, EncoderConfig

R2PLUS1D_STEM_MIDPLANES = 45


class WideConv2Plus1D(Conv2Plus1D):  # type: ignore[misc]
    """A (2+1)D convolution with about as many weights as the 3D one in its place."""

    def __init__(
        self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1
    ):
        midplanes = 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


CONVOLUTIONS = {"block": Conv2Plus1D, "convolution": WideConv2Plus1D}


class ResNet3d(nn.Module):
    """A 3D residual encoder.

    Its state dict is that of `torchvision.models.video.r3d_18` or `r2plus1d_18` without `fc`,
    but for the shapes that `middle_channels` changes.

    Attributes:
        config: what it was built from.
        out_channels: channels of its output.
        spatial_stride, temporal_stride: input size over output size.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        width = config.width
        conv = Conv3DSimple if config.arch == "r3d" else CONVOLUTIONS[config.middle_channels]
        self.stem = _stem(config)
        depths = config.blocks_per_stage
        self.layer1 = _stage(conv, width, width, depths[0], stride=1)
        self.layer2 = _stage(conv, width, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(conv, 2 * width, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(conv, 4 * width, 8 * width, depths[3], stride=2)
        if config.last_stage_spatial_stride == 1:
            _drop_spatial_stride(self.layer4)
        self.out_channels = 8 * width
        self.spatial_stride = 8 * config.last_stage_spatial_stride
        self.temporal_stride = 8
        _initialise(self, config.norm_eps)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips.

        Args:
            clips: float [B, 3, T, H, W].

        Returns:
            float [B, `out_channels`, ⌈T/8⌉, ⌈H/s⌉, ⌈W/s⌉], s = `spatial_stride`.
        """
        features: Tensor = self.stem(clips)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return features

    def out_frames(self, num_frames: int) -> int:
        """Temporal length of the output for a clip of `num_frames`."""
        return -(-num_frames // self.temporal_stride)


def _stem(config: EncoderConfig) -> nn.Sequential:
    width = config.width
    if config.arch == "r3d":
        return nn.Sequential(
            nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
    middle = max(R2PLUS1D_STEM_MIDPLANES * width // STANDARD_WIDTH, 1)
    return nn.Sequential(
        nn.Conv3d(3, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _stage(
    conv: type[Conv3DSimple] | type[Conv2Plus1D],
    in_channels: int,
    out_channels: int,
    depth: int,
    stride: int,
) -> nn.Sequential:
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm3d(out_channels),
        )
    first = BasicBlock(in_channels, out_channels, conv, stride, downsample)
    rest = (BasicBlock(out_channels, out_channels, conv) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def _drop_spatial_stride(stage: nn.Module) -> None:
    """Keep the stage's temporal stride and set the spatial one to 1 (supplement D)."""
    for module in stage.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (module.stride[0], 1, 1)


def _initialise(module: nn.Module, norm_eps: float) -> None:
    """Initialise as the authors do: Kaiming fan-out, norm weights 1, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm3d):
            part.eps = norm_eps
