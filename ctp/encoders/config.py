"""Configs of encoders, and names of initial weights.

They are apart from the models because processes that only hold a config must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from annotated_types import Ge
from pydantic import TypeAdapter

from ctp.config import Config, NotAnOption, OneOf

RANDOM, KINETICS, IMAGENET = NAMED_WEIGHTS = ("random", "kinetics400", "imagenet")
PRETRAIN_SPATIAL_STRIDE: Final = 8
DOWNSTREAM_SPATIAL_STRIDE: Final = 16
STANDARD_WIDTH = 64
ENCODER_FILE = "encoder.safetensors"
"""Name of a pretrained encoder in a run folder."""

_Blocks = Annotated[int, Ge(1)]


class EncoderConfig(Config):
    """Base of every encoder's config. A subclass narrows `name` and gives it a default."""

    name: str
    """Name of the encoder."""
    spatial_stride: Annotated[Literal[8, 16], NotAnOption()] = PRETRAIN_SPATIAL_STRIDE
    """Height of a clip over height of its features: 8 for pretraining and tracking, 16 for
    fine-tuning and features (supplement D). The weights have the same shapes."""
    norm_eps: Annotated[float, NotAnOption()] = 1e-3
    """ε of batch normalisation (the authors' implementation)."""

    @property
    def departure(self) -> str:
        """Return what differs from the paper's encoder of this name; "" if nothing does."""
        return ""

    def describe(self) -> str:
        """Return the name, the options that are this encoder's own, and the departure from the
        paper, on one line."""
        own = [
            field for field in type(self).model_fields if field not in EncoderConfig.model_fields
        ]
        facts = [self.name, *(f"{field} {getattr(self, field)}" for field in own), self.departure]
        return ", ".join(filter(None, facts))


class ResNet3dConfig(EncoderConfig):
    """What R3D and R(2+1)D share. The defaults are the paper's 18-layer nets (§5.1)."""

    width: Annotated[int, Ge(4)] = STANDARD_WIDTH
    """Channels of the first stage; each later stage has twice as many."""
    blocks_per_stage: Annotated[tuple[_Blocks, _Blocks, _Blocks, _Blocks], NotAnOption()] = (
        2, 2, 2, 2,
    )  # fmt: skip
    """Residual blocks of the four stages; (2, 2, 2, 2) makes an 18-layer net."""


class R3dConfig(ResNet3dConfig):
    """R3D: full 3D convolutions."""

    name: Literal["r3d"] = "r3d"
    """Name of the encoder."""


class R2plus1dConfig(ResNet3dConfig):
    """R(2+1)D: each 3D convolution is a spatial one followed by a temporal one."""

    name: Literal["r2plus1d"] = "r2plus1d"
    """Name of the encoder."""
    middle_channels: Literal["block", "convolution"] = "block"
    """Channels between the spatial and the temporal part: computed once per block, as in
    torchvision (31.3 M weights), or for each convolution, as in the paper and its published weights
    (33.2 M)."""

    @property
    def departure(self) -> str:
        """Return that the net is torchvision's and not the paper's, if it is."""
        if self.middle_channels == "convolution":
            return ""
        return "as in torchvision: 31.3 M weights at width 64, and 33.2 M in the paper"


def _choices() -> Mapping[str, type[EncoderConfig]]:
    from ctp.encoders.registry import ENCODERS  # models need torch, configs do not

    return {name: encoder.Config for name, encoder in ENCODERS.items()}


AnyEncoderConfig = Annotated[EncoderConfig, OneOf(_choices)]
"""A config of any encoder in `ENCODERS`, chosen by its `name`."""
ANY_ENCODER_CONFIG: TypeAdapter[EncoderConfig] = TypeAdapter(AnyEncoderConfig)
DEFAULT_ENCODER = R3dConfig()
