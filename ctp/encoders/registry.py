"""All encoders by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctp.config import ConfigsOf, LazyClasses
from ctp.encoders import config as configs
from ctp.encoders.config import EncoderConfig

if TYPE_CHECKING:
    from ctp.encoders.encoder import Encoder

# imported when they are used: their files need torch, options and --help do not
ENCODERS: LazyClasses[Encoder] = LazyClasses(
    {
        "r3d": "ctp.encoders.resnet3d:R3d",
        "r2plus1d": "ctp.encoders.resnet3d:R2plus1d",
        "c3d": "ctp.encoders.c3d:C3d",
        "tsm": "ctp.encoders.tsm:Tsm",
        "s3d": "ctp.encoders.s3d:S3d",
        "swin3d_t": "ctp.encoders.swin3d:Swin3d",
        "vit": "ctp.encoders.vit:Vit",
    }
)
_classes = [each for each in vars(configs).values() if isinstance(each, type)]
CONFIGS: ConfigsOf[EncoderConfig] = ConfigsOf(
    ENCODERS,
    {c.model_fields["name"].default: c for c in _classes if issubclass(c, EncoderConfig)},
)
"""The config class of each encoder."""


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build an encoder with fresh weights, drawn from torch's global generator."""
    return ENCODERS[config.name](config)
