"""Encoder weights on disk: safetensors, under torchvision's key names."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import Tensor

from ctp.models.resnet3d import EncoderConfig, ResNet3d


def encoder_bytes(encoder: ResNet3d, about: Mapping[str, str]) -> bytes:
    """The encoder as a safetensors file.

    `torchvision.models.video.r3d_18().load_state_dict(weights, strict=False)` takes it and misses
    `fc` alone, for the standard width and depth.

    Args:
        encoder: whose weights and running statistics to store.
        about: more entries for the file's metadata, e.g. the run's name.
    """
    state = {
        name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()
    }
    metadata = {"encoder": encoder.config.model_dump_json(), **about}
    return safetensors.torch.save(state, metadata=metadata)


def load_encoder(encoder: ResNet3d, data: bytes, name: str) -> None:
    """Load an encoder's weights from the bytes of a safetensors file, all of them.

    Args:
        encoder: what to fill.
        data: the file.
        name: what to call it in an error.

    Raises:
        ValueError: it is no safetensors file, or a key is missing, left over or of another shape;
            each is named.
    """
    try:
        state = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error
    unmatched = list(_unmatched(encoder.state_dict(), state))
    if unmatched:
        raise ValueError(
            f"{name} does not fit the encoder {_summary(encoder.config)}:\n  "
            + "\n  ".join(unmatched)
        )
    encoder.load_state_dict(state)


def _unmatched(wanted: Mapping[str, Tensor], came: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{key}: missing" for key in wanted if key not in came]
    extra = [f"{key}: not in this encoder" for key in came if key not in wanted]
    reshaped = [
        f"{key}: {tuple(came[key].shape)} where {tuple(wanted[key].shape)} is needed"
        for key in wanted
        if key in came and came[key].shape != wanted[key].shape
    ]
    return missing + extra + reshaped


def _summary(config: EncoderConfig) -> str:
    return f"{config.arch} of width {config.width} and {config.blocks_per_stage} blocks"
