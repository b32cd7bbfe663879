"""Encoder weights on disk: safetensors, under torchvision's key names."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d


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
        encoder: what to fill. Its spatial stride may be another than that of what was stored.
        data: the file.
        name: what to call it in an error.

    Raises:
        ValueError: it is no safetensors file, or a key is missing, left over or of another shape;
            each is named.
    """
    fill(encoder, read_state(data, name), name)


def read_encoder(data: bytes, name: str, **changes: object) -> ResNet3d:
    """The encoder that a file of `encoder_bytes` holds, in evaluation mode.

    Args:
        data: the file.
        name: what to call it in an error.
        changes: fields of its config to change, e.g. `last_stage_spatial_stride=2`.

    Raises:
        ValueError: it is no such file, or does not tell what encoder it holds.
    """
    config = stored_config(data, name)
    if config is None:
        raise ValueError(
            f"{name} does not tell what encoder it holds; wanted an encoder.safetensors of a run"
        )
    encoder = ResNet3d(config.replace(**changes))
    load_encoder(encoder, data, name)
    return encoder.eval()


def read_state(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: it is no such file.
    """
    try:
        state: dict[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error
    return state


def stored_config(data: bytes, name: str) -> EncoderConfig | None:
    """What encoder a safetensors file holds, None if it does not tell.

    Raises:
        ValueError: it is no safetensors file, or tells of no encoder that there is.
    """
    size = int.from_bytes(data[:8], "little")
    try:
        text = json.loads(data[8 : 8 + size]).get("__metadata__", {}).get("encoder")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error
    if text is None:
        return None
    try:
        return EncoderConfig.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{name} holds an encoder that is not known here: {text}") from error


def fill(encoder: ResNet3d, state: Mapping[str, Tensor], name: str) -> None:
    """Load weights under torchvision's names, all of them or none.

    Args:
        encoder: what to fill.
        state: the weights.
        name: what to call them in an error.

    Raises:
        ValueError: a key is missing, left over or of another shape; each is named.
    """
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
