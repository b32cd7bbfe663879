"""Load initial weights of an encoder: those of another run, of the authors, or of torchvision.

Weights give the features that they were trained for only with the ε of their batch normalisation,
so ε is loaded with them: 1e-3 for the authors' nets, 1e-5 for torchvision's, and for a run that of
its config.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctp.encoders.config import NAMED_WEIGHTS, RANDOM, WEIGHT_FILE, WEIGHT_FILES, EncoderConfig
from ctp.encoders.encoder import Encoder, PublishedWeights, State
from ctp.encoders.registry import ENCODERS
from ctp.encoders.weights import load_state, read_state, stored_config
from ctp.storage import Storage

AUTHORS_NORM_EPS = 1e-3
COUNTER = ".num_batches_tracked"
_numpy_scalar: Any = np.float64(0).__reduce__()[0]  # the function that pickle calls
SAFE_GLOBALS = [
    _numpy_scalar,
    (_numpy_scalar, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    np.dtype,
    argparse.Namespace,  # the options of VideoMAE's runs
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
]
"""Types that torch.load must allow besides tensors: checkpoints hold scores and options, too."""
STATE_ENTRIES = ("state_dict", "model", "module")
"""Entries of a checkpoint that may hold its state dict; the last two are VideoMAE's."""
PREFIXES = ("backbone.", "encoder.")
"""Prefixes of the encoder's parameters inside a whole model: the authors', VideoMAE's."""


@dataclass(frozen=True)
class InitialWeights:
    """Weights to start from.

    Attributes:
        state: state dict under the encoder's names.
        origin: what they are and where they come from.
        norm_eps: the ε that they were trained with; None: unknown.
        left_out: keys of the source that are not the encoder's.
    """

    state: State
    origin: str
    norm_eps: float | None
    left_out: tuple[str, ...] = ()


def load_initial_weights(encoder: Encoder, source: str) -> str:
    """Load initial weights, and set the ε of batch normalisation that they were trained with.

    Nothing changes on an error.

    Args:
        encoder: to load them into.
        source: one of

            - `random`: leaves the weights as they are.
            - `kinetics400`: torchvision's weights of this encoder, trained on the labels. Their
              pixels were normalised by Kinetics' mean and deviation instead of ImageNet's, which
              differ by a quarter of a deviation.
            - `imagenet`: torchvision's weights of an image net, inflated as in I3D.
            - a path or URI of a run's `encoder.safetensors`, of any spatial stride.
            - a path or URI of a `.pth` or `.pt` that the authors' code or VideoMAE's saved, or that
              holds a state dict under the encoder's own names.

    Returns:
        A line that says what was loaded, and what was left out.

    Raises:
        ValueError: the source is unknown, unavailable or does not fit; names each key that does
            not.
        StorageError: a file does not exist or cannot be read.
    """
    if source == RANDOM:
        return "random weights"
    if source in NAMED_WEIGHTS:
        weights = _download(source, encoder)
    else:
        weights = _read_file(source, type(encoder))
    own = encoder.state_dict()
    # files from before torch 0.4 lack these counters, and nothing here reads them
    counters = {key: own[key] for key in own if key.endswith(COUNTER)}
    load_state(encoder, counters | dict(weights.state), weights.origin)
    if weights.norm_eps is not None:
        encoder.set_norm_eps(weights.norm_eps)
    left_out = ", ".join(_modules(weights.left_out))
    return (
        f"{weights.origin}: {len(weights.state)} tensors, "
        f"ε of batch normalisation {encoder.config.norm_eps:g}"
        f"{f'; left out: {left_out}' if left_out else ''}"
    )


def with_norm_eps_of(source: str, config: EncoderConfig) -> EncoderConfig:
    """Return the config that an encoder of `config` has after `load_initial_weights`.

    To resume from a checkpoint, build the encoder from this config, because the weights of a
    checkpoint do not hold ε.

    Raises:
        ValueError, StorageError: as `load_initial_weights`; nothing is downloaded.
    """
    if source == RANDOM:
        return config
    encoder = ENCODERS[config.name]
    if source in NAMED_WEIGHTS:
        _published(source, encoder, config.name)
        # known without a download
        return config.replace(norm_eps=encoder.published_norm_eps)
    eps = _read_file(source, encoder).norm_eps
    return config if eps is None else config.replace(norm_eps=eps)


def _read_file(source: str, encoder: type[Encoder]) -> InitialWeights:
    suffix = WEIGHT_FILE.search(source)
    if suffix is None:
        raise ValueError(
            f"no initial weights {source!r}; expected {', '.join(NAMED_WEIGHTS)}, or {WEIGHT_FILES}"
        )
    place = Storage.from_uri(source)
    data, name = place.read_bytes(), place.uri
    if suffix[1] == "safetensors":
        config = stored_config(data, name)
        return InitialWeights(read_state(data, name), name, config.norm_eps if config else None)
    return _read_checkpoint(data, name, encoder)


def _read_checkpoint(data: bytes, name: str, encoder: type[Encoder]) -> InitialWeights:
    """Read the encoder of a torch.save'd checkpoint, under the authors' names or its own."""
    # the prefix of a model that was saved inside DataParallel
    state = {key.removeprefix("module."): value for key, value in _unpickle(data, name).items()}
    prefix = next((each for each in PREFIXES if any(key.startswith(each) for key in state)), "")
    keys = [
        key
        for key in state
        if (key.startswith(prefix) if prefix else encoder.owns(encoder.rename(key)))
    ]
    left_out = tuple(key for key in state if key not in set(keys))
    if not keys:
        raise ValueError(
            f"{name} holds no encoder (keys backbone.… or {'.…, '.join(encoder.stages)}.…), but "
            f"{', '.join(_modules(left_out)) or 'nothing'}"
        )
    original = {key.removeprefix(prefix): state[key] for key in keys}
    renamed = {encoder.rename(key): value for key, value in original.items()}
    # under its own names: not saved by the authors' code, so torchvision's ε
    if renamed.keys() == original.keys():
        return InitialWeights(renamed, name, encoder.published_norm_eps, left_out)
    return InitialWeights(renamed, f"{name} of the authors' code", AUTHORS_NORM_EPS, left_out)


def _unpickle(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the state dict that a torch.save'd file is, or that an entry of it holds."""
    try:
        # weights_only: a pickle from elsewhere could otherwise run any code
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make it raise almost anything
        raise ValueError(
            f"{name} cannot be read as a file of tensors by torch.load(weights_only=True): "
            f"{_reason(error)}. Expected a checkpoint whose state_dict holds tensors alone"
        ) from error
    state = None
    if isinstance(loaded, Mapping):
        state = next((loaded[entry] for entry in STATE_ENTRIES if entry in loaded), loaded)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        is_mapping = isinstance(loaded, Mapping)
        held = f"entries {', '.join(map(str, loaded))}" if is_mapping else type(loaded).__name__
        raise ValueError(f"{name} holds no state_dict of tensors, but {held}")
    return {str(key): value for key, value in state.items()}


def _reason(error: Exception) -> str:
    # torch's text advises to trust the file before the reason, and how to after it
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    first = text.partition("\n")[0].partition(". Please")[0].rstrip(".")
    return f"{type(error).__name__}{first and f': {first}'}"


def _published(source: str, encoder: type[Encoder], name: str) -> PublishedWeights:
    if source not in encoder.published_weights:
        there_are = ", ".join([RANDOM, *encoder.published_weights])
        raise ValueError(f"{source} weights do not fit {name}; expected {there_are}, or a file")
    return encoder.published_weights[source]


def _download(source: str, encoder: Encoder) -> InitialWeights:
    """Get torchvision's weights from torch.hub's folder or from where they are published."""
    from torchvision.models import get_weight  # takes a second, which a file does not need

    published = _published(source, type(encoder), encoder.config.name)
    weights = get_weight(published.weights.format_map(encoder.config.model_dump()))
    file = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(weights.url).name
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except OSError as error:
        raise ValueError(
            f"cannot get the {source} weights: {error}. On a machine without network, put "
            f"{weights.url} at {file}"
        ) from error
    except Exception as error:  # damaged bytes make it raise almost anything
        raise ValueError(
            f"the {source} weights at {file} cannot be read: {_reason(error)}. Delete that file, "
            f"or put {weights.url} there"
        ) from error
    converted = published.convert(state, encoder.state_dict())
    kept = {key: value for key, value in converted.items() if encoder.owns(key)}
    left_out = tuple(key for key in converted if key not in kept)
    origin = f"{source} ({weights}, {file})"
    return InitialWeights(kept, origin, encoder.published_norm_eps, left_out)


def _modules(keys: Iterable[str]) -> list[str]:
    """Return the modules that keys belong to, at most two levels deep."""
    return sorted({".".join((key.split(".")[:-1] or [key])[:2]) for key in keys})
