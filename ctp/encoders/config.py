"""Configs of encoders, and names of initial weights.

They are not in the models' files because processes that only hold a config must not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from annotated_types import Ge, MultipleOf
from pydantic import TypeAdapter, model_validator

from ctp.config import Config, NotAnOption, OneOf

RANDOM, KINETICS, IMAGENET = NAMED_WEIGHTS = ("random", "kinetics400", "imagenet")
PRETRAIN_SPATIAL_STRIDE: Final = 8
DOWNSTREAM_SPATIAL_STRIDE: Final = 16
STANDARD_WIDTH = 64
ENCODER_FILE = "encoder.safetensors"
"""Name of a pretrained encoder in a run folder."""
WEIGHT_FILE = re.compile(r"\.(safetensors|pth|pt)(\?|$)")
"""Found in the path or URI of a file of initial weights."""
CHECKPOINT_SUFFIXES = (".pth", ".pt")
"""Of files that describe no encoder."""
WEIGHT_FILES = "an encoder.safetensors, or a .pth of the authors' code or of VideoMAE (path or URI)"
"""What such a file is, for errors."""

_Blocks = Annotated[int, Ge(1)]


class EncoderConfig(Config):
    """Base of every encoder's config. A subclass narrows `name` and gives it a default."""

    name: str
    """Name of the encoder."""
    spatial_stride: Annotated[Literal[8, 16, 32], NotAnOption()] = PRETRAIN_SPATIAL_STRIDE
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
        values = {field: getattr(self, field) for field in own}
        facts = [
            self.name,
            *(f"{n.replace('_', ' ')} {format_numbers(value)}" for n, value in values.items()),
            self.departure,
        ]
        return ", ".join(filter(None, facts))


def format_numbers(value: object) -> str:
    """Return e.g. "2-2-2-2" of a tuple, and other values as they are."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


class AtMost16Config(EncoderConfig):
    """An encoder whose layers have a total spatial stride of at most 16."""

    spatial_stride: Annotated[Literal[8, 16], NotAnOption()] = PRETRAIN_SPATIAL_STRIDE
    """Height of a clip over height of its features: 16, or 8 if the last stage has stride 1."""


class ResNet3dConfig(AtMost16Config):
    """Base of R3D's and R(2+1)D's configs. The defaults are the paper's 18-layer nets (§5.1)."""

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


class C3dConfig(AtMost16Config):
    """C3D with batch normalisation, as in VCOP."""

    name: Literal["c3d"] = "c3d"
    """Name of the encoder."""
    width: Annotated[int, Ge(1)] = STANDARD_WIDTH
    """Channels of the first convolution; the last have eight times as many."""


class TsmConfig(EncoderConfig):
    """TSM: a 2D ResNet that shifts channels along time."""

    name: Literal["tsm"] = "tsm"
    """Name of the encoder."""
    depth: Literal[18, 50, 101] = 18
    """Layers of the ResNet."""
    width: Annotated[int, Ge(8)] = STANDARD_WIDTH
    """Channels of the first stage; each later stage has twice as many."""


class S3dConfig(EncoderConfig):
    """S3D: an Inception net of separable 3D convolutions."""

    name: Literal["s3d"] = "s3d"
    """Name of the encoder."""


class Swin3dConfig(EncoderConfig):
    """Swin3D-T: a video transformer of shifted windows."""

    name: Literal["swin3d_t"] = "swin3d_t"
    """Name of the encoder."""
    width: Annotated[int, Ge(32), MultipleOf(32)] = 96
    """Channels of the first stage, a multiple of 32; each later stage has twice as many."""


class VitConfig(EncoderConfig):
    """A video transformer whose tokens are tubelets of 2 frames."""

    name: Literal["vit"] = "vit"
    """Name of the encoder."""
    size: Literal["Ti", "S", "B"] = "S"
    """Channels: 192 (Ti), 384 (S) or 768 (B)."""
    patch: Literal[8, 16] = 16
    """Height and width of a tubelet in pixels, and the spatial stride of the features."""

    @model_validator(mode="after")
    def _stride_of_patch(self) -> Self:
        # jobs set the stride of the paper, but a vit has only that of its patches
        object.__setattr__(self, "spatial_stride", self.patch)
        return self


def _choices() -> Mapping[str, type[EncoderConfig]]:
    from ctp.encoders.registry import CONFIGS  # it imports this file

    return CONFIGS


AnyEncoderConfig = Annotated[EncoderConfig, OneOf(_choices)]
"""A config of any encoder in `ENCODERS`, chosen by its `name`."""
ANY_ENCODER_CONFIG: TypeAdapter[EncoderConfig] = TypeAdapter(AnyEncoderConfig)
DEFAULT_ENCODER = R3dConfig()
