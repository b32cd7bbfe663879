"""All encoders by name."""

from __future__ import annotations

from ctp.encoders.config import EncoderConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.resnet3d import R2plus1d, R3d

ENCODERS: dict[str, type[Encoder]] = {"r3d": R3d, "r2plus1d": R2plus1d}


def build_encoder(config: EncoderConfig) -> Encoder:
    """Build an encoder with fresh weights, drawn from torch's global generator."""
    return ENCODERS[config.name](config)
