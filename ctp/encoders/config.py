"""What the nets are: their configs, and what their weights may start from."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen, MinLen

from ctp.config import Config

STANDARD_WIDTH = 64
RANDOM, KINETICS, IMAGENET = "random", "kinetics400", "imagenet"
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
"""Of the encoder, from its input on; as many may be frozen, in this order."""


class EncoderConfig(Config):
    """A 3D residual encoder. The defaults are R3D-18 as the paper pretrains it (§5.1)."""

    arch: Literal["r3d", "r2plus1d"] = "r3d"
    """Full 3D convolutions, or a spatial one followed by a temporal one."""
    width: Annotated[int, Ge(4)] = STANDARD_WIDTH
    """Channels of the first stage; each later one has twice as many. 64 for the paper's nets."""
    blocks_per_stage: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(4), MaxLen(4)] = (
        2,
        2,
        2,
        2,
    )
    """Residual blocks of the four stages; (2, 2, 2, 2) makes an 18-layer net."""
    last_stage_spatial_stride: Annotated[int, Ge(1), Le(2)] = 1
    """1 keeps a total spatial stride of 8, for pretraining; 2 makes it 16, for downstream tasks
    (supplement D). Weights have the same shapes either way."""
    middle_channels: Literal["block", "convolution"] = "block"
    """Channels between the spatial and the temporal part in R(2+1)D: as many in all of a block, as
    in torchvision (31.3 M weights), or reckoned for each convolution, as its inventors and this
    paper's authors do (33.2 M), whose published weights need that."""
    norm_eps: float = 1e-3
    """ε of batch normalisation (the authors' implementation)."""


class HeadConfig(Config):
    """The prediction head. The defaults are the paper's (§3.2, §5.1)."""

    squeeze: bool = True
    """Whether a T'×1×1 convolution squeezes time before RoIAlign (supplement F)."""
    hidden_channels: Annotated[int, Ge(1)] = 512
    """Channels of the squeeze and of the two-layer perceptron."""
    roi_size: Annotated[int, Ge(1)] = 5
    """Height and width that RoIAlign gives every query box."""
