"""What a run starts from, and what encoder that makes."""

from __future__ import annotations

import re

from ctp.encoders.config import IMAGENET, KINETICS, RANDOM, EncoderConfig
from ctp.encoders.initial import matched
from ctp.encoders.weights import stored_config
from ctp.storage import Storage
from ctp.training.run_folder import ENCODER

STRIDE_16 = 2
"""The last stage's spatial stride in downstream tasks (supplement D)."""
WEIGHT_FILE = re.compile(r"\.(safetensors|pth|pt)$")


def settled_initial(initial: str) -> str:
    """The same weights by an absolute name: a run's folder means its encoder."""
    if initial in {RANDOM, KINETICS, IMAGENET}:
        return initial
    place = Storage.of(initial)
    return (place if WEIGHT_FILE.search(initial) else place.join(ENCODER)).uri


def settled_encoder(config: EncoderConfig | None, initial: str) -> EncoderConfig:
    """The encoder that a run trains.

    Args:
        config: what is asked for; None: what the file of `initial` holds at a total spatial
            stride of 16, R3D-18 where it does not tell.
        initial: as `settled_initial` returns it.

    Raises:
        ValueError: there are no such weights.
        StorageError: their file cannot be read.
    """
    if config is None:
        config = (_stored(initial) or EncoderConfig()).replace(last_stage_spatial_stride=STRIDE_16)
    return matched(config, initial)


def _stored(initial: str) -> EncoderConfig | None:
    if not initial.endswith(".safetensors"):
        return None
    return stored_config(Storage.of(initial).read_bytes(), initial)
