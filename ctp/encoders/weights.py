"""Encoder weights on disk: safetensors, under torchvision's key names."""

from __future__ import annotations

import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from ctp.config import describe
from ctp.encoders.config import (
    ANY_ENCODER_CONFIG,
    ENCODER_FILE,
    NAMED_WEIGHTS,
    WEIGHT_FILE,
    EncoderConfig,
)
from ctp.encoders.encoder import Encoder
from ctp.encoders.registry import ENCODERS, build_encoder
from ctp.run_names import CONFIG, RUNS, find_run_folder
from ctp.storage import Storage
from ctp.versions import check_stamp, describe_writer
from ctp.video.config import ClipFormat


def load_encoder(run: str) -> Encoder:
    """Load a pretrained encoder, in evaluation mode.

    `encoder.transform` makes clips from videos, `encoder(clips)` returns their feature maps, and
    `encoder.pooled(clips)` a vector for each.

    Args:
        run: name of a run in the folder runs, path or URI of its folder, or of an
            encoder.safetensors; or "ctp-small", a small encoder that is part of ctp.

    Raises:
        ValueError: there is no such file, or it is not an encoder.safetensors of a run.
        StorageError: the file cannot be read.
    """
    place = find_encoder(run)
    return read_encoder(place.read_bytes(), place.uri)


def find_encoder(run: str, storage: str = RUNS) -> Storage:
    """Return the place of an encoder file.

    Args:
        run: the file itself, or its run: a name below `storage`, or path or URI of a folder.
        storage: folder or URI of run folders.

    Raises:
        ValueError: there is no such file; names the runs that exist.
        StorageError: the storage cannot be read.
    """
    place = Storage.from_uri(run)
    if place.is_file():
        return place
    folder = find_run_folder(run, storage, (ENCODER_FILE, CONFIG))
    if not folder.join(ENCODER_FILE).exists():
        raise ValueError(f"run {folder.uri} has no {ENCODER_FILE} yet; a run writes it at its end")
    return folder.join(ENCODER_FILE)


def absolute_weights(initial: str, storage: str) -> str:
    """Return the name of the same initial weights for any working directory.

    Args:
        initial: one of `NAMED_WEIGHTS`, a file, or a run, which means its encoder; "": none.
        storage: folder or URI of run folders.

    Raises:
        ValueError: there is no such run; names the runs that exist.
        StorageError: the storage cannot be read.
    """
    if not initial or initial in NAMED_WEIGHTS:
        return initial
    is_file = WEIGHT_FILE.search(initial)
    return (Storage.from_uri(initial) if is_file else find_encoder(initial, storage)).uri


def encoder_bytes(encoder: Encoder, about: Mapping[str, str]) -> bytes:
    """Return the encoder as a safetensors file.

    `torchvision.models.video.r3d_18().load_state_dict(weights, strict=False)` takes the weights of
    an R3D of standard width and depth and misses `fc` alone.

    Args:
        encoder: whose weights, running statistics, config and `clip_format` to store.
        about: more entries for the file's metadata, e.g. the run's name and `ctp.versions.stamp`.
    """
    state = {
        # safetensors refuses other layouts, such as channels_last_3d
        name: value.detach().cpu().contiguous()
        for name, value in encoder.state_dict().items()
    }
    return safetensors.torch.save(state, metadata={**description(encoder), **about})


def description(encoder: Encoder) -> dict[str, str]:
    """Return the entries of a file's metadata that describe an encoder."""
    found = {"encoder": encoder.config.model_dump_json()}
    if encoder.clip_format is not None:
        found["clip_format"] = encoder.clip_format.model_dump_json()
    return found


def read_encoder(data: bytes, name: str, **changes: object) -> Encoder:
    """Build the encoder that a file of `encoder_bytes` holds, in evaluation mode.

    Args:
        data: the file.
        name: the file's name in errors.
        changes: fields of its config to change, e.g. `spatial_stride=16`.

    Raises:
        ValueError: it is not such a file.
    """
    config = stored_config(data, name)
    if config is None:
        raise ValueError(
            f"{name} does not describe its encoder; expected an encoder.safetensors of a run"
        )
    encoder = build_encoder(config.replace(**changes))
    load_state(encoder, read_state(data, name), name)
    encoder.clip_format = stored_clip_format(data, name)
    return encoder.eval()


def read_state(data: bytes, name: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name.

    Raises:
        ValueError: it is not a safetensors file.
    """
    try:
        state: dict[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error
    return state


def stored_config(data: bytes, name: str) -> EncoderConfig | None:
    """Return the config of the encoder in a safetensors file, None if the file has none.

    Raises:
        ValueError: it is not a safetensors file, its encoder is unknown here, or its options are
            those of another version of ctp; names them and the version.
    """
    metadata = stored_metadata(data, name)
    writer, text = check_stamp(metadata, name), metadata.get("encoder")
    if text is None:
        return None
    problem = ""
    try:
        config = ANY_ENCODER_CONFIG.validate_json(text)
        values = json.loads(text)
        lacking = [field for field in type(config).model_fields if field not in values]
        if lacking:  # a default of today may not be the value that the weights were trained with
            problem = f"there is no value of {', '.join(lacking)}"
    except ValidationError as error:
        problem = describe(error, _option_names(text))
    if problem:
        raise ValueError(
            f"{name} holds an encoder that is not known here: {text}: {problem}. It was written by "
            f"{describe_writer(writer)}. Use that version, or pretrain again"
        )
    return config


def stored_clip_format(data: bytes, name: str) -> ClipFormat | None:
    """Return the clips that the encoder in a safetensors file was trained on, None if unknown.

    Raises:
        ValueError: it is not a safetensors file, or the record is that of another version of ctp.
    """
    metadata = stored_metadata(data, name)
    writer, text = check_stamp(metadata, name), metadata.get("clip_format")
    if text is None:
        return None
    try:
        return ClipFormat.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(
            f"{name} describes its clips in a way that is not known here: "
            f"{describe(error, [*ClipFormat.model_fields])}. It was written by "
            f"{describe_writer(writer)}. Use that version"
        ) from error


def stored_metadata(data: bytes, name: str) -> Mapping[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        ValueError: it is not a safetensors file.
    """
    size = int.from_bytes(data[:8], "little")
    try:
        metadata: Mapping[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error
    return metadata


def _option_names(text: str) -> list[str]:
    """Return the options of the encoder that a JSON text names, none if it is unknown."""
    name = json.loads(text).get("name")
    return list(ENCODERS[name].Config.model_fields) if name in ENCODERS else []


def load_state(encoder: Encoder, state: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict into an encoder, all of it or nothing.

    Args:
        encoder: may have another spatial stride than the encoder of `state`.
        state: the weights.
        name: what to call them in errors.

    Raises:
        ValueError: a key is missing, left over or of another shape; names each.
    """
    # before loading: torch's own error comes after it has copied what fits
    unmatched = _unmatched(encoder.state_dict(), state)
    if unmatched:
        hint = encoder.mismatch_hint(state)
        raise ValueError(
            f"{name} does not fit the encoder {encoder.config.describe()}"
            f"{hint and f'; {hint}'}:\n  " + "\n  ".join(unmatched)
        )
    encoder.load_state_dict(state)


def _unmatched(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{key}: missing" for key in expected if key not in got]
    extra = [f"{key}: not in this encoder" for key in got if key not in expected]
    reshaped = [
        f"{key}: {tuple(got[key].shape)} where {tuple(value.shape)} is needed"
        for key, value in expected.items()
        if key in got and got[key].shape != value.shape
    ]
    return missing + extra + reshaped
