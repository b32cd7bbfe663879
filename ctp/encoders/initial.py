"""Initial weights of an encoder: another run's, the authors', torchvision's supervised ones.

Weights make the features that they were trained for only with the ε of their batch normalisation,
so that goes with them: 1e-3 of the authors' nets, 1e-5 of torchvision's, a run's own of a run's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.video import R2Plus1D_18_Weights, R3D_18_Weights

from ctp.encoders.config import IMAGENET, KINETICS, RANDOM, EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import fill, read_state, stored_config
from ctp.storage import Storage

AUTHORS_NORM_EPS = 1e-3
TORCHVISION_NORM_EPS = 1e-5
KINETICS_WEIGHTS = {
    "r3d": R3D_18_Weights.KINETICS400_V1,
    "r2plus1d": R2Plus1D_18_Weights.KINETICS400_V1,
}
IMAGENET_WEIGHTS = ResNet18_Weights.IMAGENET1K_V1

Renaming = tuple[tuple[str, str], ...]
AUTHORS_NAMES: Renaming = (
    (r"^stem\.conv(_s)?\.", "stem.0."),
    (r"^stem\.bn(_s)?\.", "stem.1."),
    (r"^stem\.conv_t\.", "stem.3."),
    (r"^stem\.bn_t\.", "stem.4."),
    (r"\.conv([12])\.conv\.", r".conv\1.0."),
    (r"\.conv([12])\.conv_s\.", r".conv\1.0.0."),
    (r"\.conv([12])\.bn_s\.", r".conv\1.0.1."),
    (r"\.conv([12])\.conv_t\.", r".conv\1.0.3."),
    (r"\.bn([12])\.", r".conv\1.1."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample_bn\.", ".downsample.1."),
)
"""From the authors' names to torchvision's, of R3D and R(2+1)D."""
IMAGE_NAMES: Renaming = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"\.conv([12])\.", r".conv\1.0."),
    (r"\.bn([12])\.", r".conv\1.1."),
)
"""From torchvision's names of a 2D ResNet of basic blocks to those of R3D."""
OF_THE_ENCODER = re.compile(r"(stem|layer\d)\.")
COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """Weights to start from.

    Attributes:
        state: by torchvision's names.
        origin: what they are and where they come from.
        norm_eps: ε that they were trained with; None: not known.
        left_out: names of what else was there.
    """

    state: Mapping[str, Tensor]
    origin: str
    norm_eps: float | None
    left_out: tuple[str, ...] = ()


def initialise(encoder: ResNet3d, source: str) -> str:
    """Give an encoder its initial weights, and the ε of batch normalisation that goes with them.

    Args:
        encoder: what to fill; its `config` is changed to tell the ε. Nothing changes on an error.
        source: one of

            - `random`: leaves the weights as they are.
            - `kinetics400`: torchvision's R3D-18 or R(2+1)D-18, trained on the labels. It saw
              pixels normalised by Kinetics' mean and deviation instead of ImageNet's, which
              differ by a quarter of a deviation.
            - `imagenet`: torchvision's ResNet-18 for images, inflated as in I3D: kernels repeated
              over time and divided by its length. On a clip that stands still the encoder makes,
              away from the clip's ends, the features that the image net makes without its max
              pool, which R3D lacks. R(2+1)D cannot have these weights.
            - a path or URI of a run's `encoder.safetensors`, of any spatial stride.
            - a path or URI of a `.pth` or `.pt` that the authors' code saved, or that holds a
              state dict under torchvision's names.

    Returns:
        A line that says what was loaded, and what was left out.

    Raises:
        ValueError: there is no such source, it cannot be had, or it does not fit the encoder;
            each key that does not is named.
        StorageError: a file is not there or cannot be read.
    """
    if source == RANDOM:
        return "random weights"
    weights = _read(source, encoder)
    fill(encoder, _counted(weights.state, encoder), weights.origin)
    if weights.norm_eps is not None:
        _set_norm_eps(encoder, weights.norm_eps)
    left_out = ", ".join(_modules(weights.left_out))
    return (
        f"{weights.origin}: {len(weights.state)} tensors, "
        f"ε of batch normalisation {encoder.config.norm_eps:g}"
        f"{f'; left out: {left_out}' if left_out else ''}"
    )


def matched(config: EncoderConfig, source: str) -> EncoderConfig:
    """The config that an encoder of `config` has after `initialise` from `source`.

    An encoder that is built anew to go on from a checkpoint must be built of it, for the weights
    of the checkpoint do not tell the ε.

    Raises:
        ValueError, StorageError: as `initialise`, though only files are looked at.
    """
    if source == RANDOM:
        return config
    torchvisions = source in {KINETICS, IMAGENET}
    eps = TORCHVISION_NORM_EPS if torchvisions else _read_file(source).norm_eps
    return config if eps is None else config.replace(norm_eps=eps)


def _read(source: str, encoder: ResNet3d) -> Weights:
    if source == KINETICS:
        return _kinetics(encoder.config)
    if source == IMAGENET:
        return _imagenet(encoder)
    return _read_file(source)


def _read_file(source: str) -> Weights:
    suffix = re.search(r"\.(safetensors|pth|pt)(\?|$)", source)
    if suffix is None:
        raise ValueError(
            f"no initial weights {source!r}; wanted {RANDOM}, {KINETICS}, {IMAGENET}, or the path "
            f"or URI of a run's encoder.safetensors or of a .pth of the authors' code"
        )
    place = Storage.of(source)
    read = _of_a_run if suffix[1] == "safetensors" else _of_the_authors
    return read(place.read_bytes(), place.uri)


def _of_a_run(data: bytes, name: str) -> Weights:
    config = stored_config(data, name)
    return Weights(read_state(data, name), name, config.norm_eps if config else None)


def _of_the_authors(data: bytes, name: str) -> Weights:
    """Weights of a checkpoint of the authors' code, without what is no part of the encoder."""
    state = _unpickled(data, name)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    prefix = "backbone." if any(key.startswith("backbone.") for key in state) else ""
    theirs = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    if not prefix:
        theirs = {key: key for key in theirs if OF_THE_ENCODER.match(key)}
    left_out = tuple(key for key in state if key not in theirs)
    if not theirs:
        raise ValueError(
            f"{name} holds no encoder (keys backbone.…, stem.… and layer1.…), but "
            f"{', '.join(_modules(left_out)) or 'nothing'}"
        )
    renamed = {_renamed(short, AUTHORS_NAMES): state[key] for key, short in theirs.items()}
    if renamed.keys() == set(theirs.values()):
        return Weights(renamed, name, TORCHVISION_NORM_EPS, left_out)
    origin = f"{name} of the authors' code{_wider(renamed)}"
    return Weights(renamed, origin, AUTHORS_NORM_EPS, left_out)


def _wider(state: Mapping[str, Tensor]) -> str:
    """What is particular about the authors' R(2+1)D: each convolution reckons its own middle
    channels, while torchvision gives the second of a block those of the first."""
    kernels = [state.get(f"layer2.0.conv{number}.0.0.weight") for number in (1, 2)]
    widths = {kernel.shape[0] for kernel in kernels if kernel is not None}
    return ", an R(2+1)D of middle_channels convolution," if len(widths) > 1 else ""


def _unpickled(data: bytes, name: str) -> dict[str, Tensor]:
    """The state dict that a file of torch.save is, or that it holds as `state_dict`."""
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make it raise almost anything
        raise ValueError(
            f"{name} cannot be read as a file of tensors by torch.load(weights_only=True): "
            f"{_reason(error)}. Wanted a checkpoint whose state_dict holds tensors alone"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        is_mapping = isinstance(loaded, Mapping)
        held = f"entries {', '.join(map(str, loaded))}" if is_mapping else type(loaded).__name__
        raise ValueError(f"{name} holds no state_dict of tensors, but {held}")
    return {str(key): value for key, value in state.items()}


def _reason(error: Exception) -> str:
    # before the reason stands advice to trust the file, after it how to
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    first = text.partition("\n")[0].partition(". Please")[0].rstrip(".")
    return f"{type(error).__name__}{first and f': {first}'}"


def _kinetics(config: EncoderConfig) -> Weights:
    state, origin = _from_torchvision(KINETICS, KINETICS_WEIGHTS[config.arch])
    return _without_head(state, origin)


def _imagenet(encoder: ResNet3d) -> Weights:
    if encoder.config.arch != "r3d":
        raise ValueError(
            f"{IMAGENET} weights do not fit {encoder.config.arch}: a ReLU stands between its "
            "spatial and its temporal kernels, and the 45 between those of its stem are fewer than "
            "the 64 of an image net, so no inflation gives the image net's features. Take "
            f"encoder.arch r3d, or {KINETICS}"
        )
    images, origin = _from_torchvision(IMAGENET, IMAGENET_WEIGHTS)
    renamed = {_renamed(key, IMAGE_NAMES): value for key, value in images.items()}
    return _without_head(_inflated(renamed, encoder.state_dict()), f"{origin}, inflated")


def _inflated(images: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kernels [C', C, h, w] as [C', C, t, h, w], whose sum over the t of `wanted` they are."""
    inflated = dict(images)
    for key, value in images.items():
        if value.ndim == 4 and key in wanted:
            length = wanted[key].shape[2]
            inflated[key] = value[:, :, None].expand(-1, -1, length, -1, -1) / length
    return inflated


def _without_head(state: Mapping[str, Tensor], origin: str) -> Weights:
    kept = {key: value for key, value in state.items() if OF_THE_ENCODER.match(key)}
    left_out = tuple(key for key in state if key not in kept)
    return Weights(kept, origin, TORCHVISION_NORM_EPS, left_out)


def _from_torchvision(source: str, weights: Any) -> tuple[dict[str, Tensor], str]:
    """torchvision's weights, from torch.hub's folder or from where they are published, and what
    to call them."""
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
    return state, f"{source} ({weights}, {file})"


def _renamed(key: str, names: Renaming) -> str:
    for pattern, name in names:
        key = re.sub(pattern, name, key)
    return key


def _counted(state: Mapping[str, Tensor], encoder: ResNet3d) -> dict[str, Tensor]:
    """`state` with the counters of batches, which old files lack and nothing here reads."""
    own = encoder.state_dict()
    return {key: own[key] for key in own if key.endswith(COUNTER)} | dict(state)


def _set_norm_eps(encoder: ResNet3d, eps: float) -> None:
    encoder.config = encoder.config.replace(norm_eps=eps)
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.eps = eps


def _modules(keys: Iterable[str]) -> list[str]:
    """The modules that keys belong to, two levels deep."""
    return sorted({".".join((key.split(".")[:-1] or [key])[:2]) for key in keys})
