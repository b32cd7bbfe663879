"""Pictures of samples, and of the answers of a run's model to held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ctp.data.quarantine import QuarantinedVideo
from ctp.data.sources import open_catalog
from ctp.data.stream import VideoSet, stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.heldout import HeldoutSamples
from ctp.pretext.pretraining import build_model, open_pretraining
from ctp.pretext.registry import build_task
from ctp.pretext.task import SamplePicture
from ctp.rng import generator
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.step import autocast, prepare
from ctp.training.transfer import to_device


class Found(NamedTuple):
    """Samples to draw: each with its name, and the videos that could not be used."""

    names: list[str]
    samples: list[Any]
    quarantined: list[QuarantinedVideo]


def load_model(folder: Storage, config: PretrainConfig) -> tuple[nn.Module, int]:
    """Return the model of a run's newest checkpoint, on the GPU if there is one, and its step.

    Raises:
        ValueError: there is no checkpoint.
        StorageError: it cannot be read.
    """
    store = CheckpointStore(folder.join(run_folder.CHECKPOINTS))
    newest = store.newest()
    if newest is None:
        raise ValueError(
            f"run {folder.uri} has no checkpoint yet; it saves every "
            f"{config.checkpoint.every_minutes:g} min (checkpoint.every_minutes)"
        )
    state = store.load(newest)
    return model_of(config, state), state.step


def model_of(config: PretrainConfig, state: TrainState | None) -> nn.Module:
    """Return the model of a checkpoint, on the GPU if there is one; None: with the random weights
    that the run starts from."""
    model = build_model(config)
    if state is not None:
        model.load_state_dict(state.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return prepare(model, config.compute, device).eval()


def heldout_samples(config: PretrainConfig, uri: str | tuple[str, ...] | None) -> VideoSet[Any]:
    """Return the run's held-out samples, or samples of all videos of `uri`.

    Raises:
        ValueError: there are none.
        StorageError: the storage fails.
    """
    if uri is not None:
        return HeldoutSamples(open_catalog(uri, "data.uri"), config.seed, build_task(config.task))
    videos = open_pretraining(config).evaluation
    if not len(videos.catalog):
        raise ValueError(
            f"run {config.name!r} has no held-out videos (data.heldout_share "
            f"{config.data.heldout_share:g}); name videos by --data.uri"
        )
    return videos


def choose_samples(config: PretrainConfig, num_videos: int, num_clips: int, seed: int) -> list[int]:
    """Return the numbers of held-out samples of different videos, drawn by a seed."""
    # those that the run is evaluated on; sample n is of video n modulo their number
    number = max(min(num_videos, config.evaluation.num_clips), num_clips)
    drawn = generator(seed, "preview").choice(number, num_clips, replace=False)
    return sorted(drawn.tolist())


def load_samples(videos: VideoSet[Any], indices: Sequence[int]) -> Found:
    """Draw the samples of these numbers, with the names of their videos."""
    found = Found([], [], [])
    for index in indices:
        # one at a time, so that each sample can be named by its video
        loaded = videos.load_many([index])
        found.names.extend(videos.catalog[index % len(videos.catalog)].id for _ in loaded.items)
        found.samples.extend(loaded.items)
        found.quarantined.extend(loaded.quarantined)
    return found


def draw_samples(
    config: PretrainConfig, found: Found, model: nn.Module | None, size_px: int
) -> list[SamplePicture]:
    """Let the task draw the samples, and print the videos that could not be used.

    Args:
        config: of the run.
        found: the samples.
        model: whose answers to draw; None: none.
        size_px: least side of a frame.

    Raises:
        ValueError: no video can be used.
    """
    for entry in found.quarantined:
        print(f"cannot be used: {entry.video_id}: {entry.reason}")
    if not found.samples:
        raise ValueError("none of the videos can be used; see above")
    device = torch.device("cpu") if model is None else device_of(model)
    samples = to_device(stack(found.samples), device)
    with autocast(config.compute, device):
        pictures = build_task(config.task).pictures(samples, model, min_side_px=size_px)
    return [
        SamplePicture(picture.frames, f"{name}   {picture.caption}")
        for name, picture in zip(found.names, pictures, strict=True)
    ]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model."""
    return next(model.parameters()).device
