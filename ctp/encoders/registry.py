"""All encoders by name."""

from __future__ import annotations

from ctp.encoders.c3d import C3d
from ctp.encoders.config import EncoderConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.resnet3d import R2plus1d, R3d
from ctp.encoders.s3d import S3d
from ctp.encoders.swin3d import Swin3d
from ctp.encoders.tsm import Tsm
from ctp.encoders.vit import Vit

ENCODERS: dict[str, type[Encoder]] = {
    "r3d": R3d,
    "r2plus1d": R2plus1d,
    "c3d": C3d,
    "tsm": Tsm,
    "s3d": S3d,
    "swin3d_t": Swin3d,
    "vit": Vit,
}


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build an encoder with fresh weights, drawn from torch's global generator."""
    return ENCODERS[config.name](config)
