"""Resolve the initial weights of a run, and the config of their encoder."""

from __future__ import annotations

from typing import TypeVar

from ctp.downstream.config import DownstreamConfig
from ctp.encoders.config import (
    CHECKPOINT_SUFFIXES,
    DEFAULT_ENCODER,
    NAMED_WEIGHTS,
    EncoderConfig,
)
from ctp.encoders.initial import with_norm_eps_of
from ctp.encoders.weights import absolute_weights, find_encoder, stored_clip_format, stored_config
from ctp.run_names import RUNS
from ctp.storage import Storage
from ctp.video.config import ClipFormat

C = TypeVar("C", bound=DownstreamConfig)


def resolve_weights(config: C, spatial_stride: int) -> C:
    """Return the config of a run with an absolute `initial` and with the encoder that it describes.

    Args:
        config: of the run.
        spatial_stride: total spatial stride of the encoder (supplement D).

    Raises:
        ValueError: there are no such weights.
        StorageError: their file cannot be read.
    """
    initial = absolute_weights(config.initial, config.storage)
    encoder = resolve_encoder(config.encoder, initial, spatial_stride)
    return config.replace(initial=initial, encoder=encoder)


def resolve_encoder(
    config: EncoderConfig | None, initial: str, spatial_stride: int
) -> EncoderConfig:
    """Return the config of the encoder that a run trains.

    Args:
        config: the encoder asked for; None: that of the file of `initial`, R3D-18 if the file does
            not say.
        initial: name, path or URI of the initial weights.
        spatial_stride: total spatial stride of the encoder (supplement D).

    Raises:
        ValueError: there are no such weights.
        StorageError: their file cannot be read.
    """
    # what the user asks for, what the file says, R3D-18
    config = config or _stored(initial) or DEFAULT_ENCODER
    return with_norm_eps_of(initial, config.replace(spatial_stride=spatial_stride))


def clip_format_of(initial: str, storage: str = RUNS) -> ClipFormat | None:
    """Return the clips that an encoder was trained on, None if its file does not record them.

    Args:
        initial: name, path or URI of the weights, or a run, as in `find_encoder`.
        storage: folder or URI of run folders.

    Raises:
        ValueError: there is no such file, or it is damaged.
        StorageError: it cannot be read.
    """
    if initial in NAMED_WEIGHTS or initial.endswith(CHECKPOINT_SUFFIXES):
        return None
    place = find_encoder(initial, storage)
    return stored_clip_format(place.read_bytes(), place.uri)


def _stored(initial: str) -> EncoderConfig | None:
    if not initial.endswith(".safetensors"):
        return None
    return stored_config(Storage.from_uri(initial).read_bytes(), initial)
