"""Draw training samples of a recipe, or held-out samples and the answers of a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ctp import recipes
from ctp.commands.preview import PreviewConfig
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.sources import open_catalog
from ctp.data.stream import VideoSet, stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.heldout import HeldoutSamples
from ctp.pretext.pretraining import build_model, open_pretraining
from ctp.pretext.registry import build_task
from ctp.pretext.task import SamplePicture
from ctp.report.preview import clips_gif, write_clips, write_file
from ctp.rng import generator
from ctp.run_names import find_run_folder
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore
from ctp.training.step import autocast, prepare
from ctp.training.transfer import to_device


class Found(NamedTuple):
    """Samples to draw: each with its name, and the videos that could not be used."""

    names: list[str]
    samples: list[Any]
    quarantined: list[QuarantinedVideo]


def run(recipe: str, config: PreviewConfig) -> None:
    """Draw samples, or a run's answers, and print where the pictures are.

    Raises:
        ValueError: the run, an option or all videos cannot be used.
        QuarantineLimitError: too many videos cannot be used.
        StorageError: something cannot be read or written.
    """
    out = Storage.from_uri(config.out)
    out.check_writable()
    pictures = _predictions(recipe, config) if config.run else _training_samples(config)
    write_clips(out, "clips", pictures)
    write_file(out, "clips.gif", clips_gif(pictures))


def _training_samples(config: PreviewConfig) -> list[SamplePicture]:
    """Draw samples of the run's stream."""
    stream = open_pretraining(config).stream
    first = config.first_position or 0
    drawn = [stream.draw(position) for position in range(first, first + config.num_clips)]
    found = Found(
        [f"clip {each.position}: {each.video_id}" for each in drawn],
        [each.sample for each in drawn],
        [entry for each in drawn for entry in each.quarantined],
    )
    return _draw(config, found, None, config.size_px)


@torch.no_grad()
def _predictions(recipe: str, config: PreviewConfig) -> list[SamplePicture]:
    """Draw held-out samples with the answers of the newest checkpoint; prints its score."""
    # options of the task would be silently replaced by the run's
    has_videos = _check_options(recipe, config)
    folder = find_run_folder(config.run, config.storage)
    trained = run_folder.read_config(folder, PretrainConfig)
    model, step = _load_model(folder, trained)
    videos = _heldout(trained, config.data.uri if has_videos else None)
    found = _load(videos, _chosen(config, trained, len(videos.catalog)))
    pictures = _draw(trained, found, model, config.size_px)
    samples = to_device(stack(found.samples), _device(model))
    with autocast(trained.compute, _device(model)):
        means = build_task(trained.task).evaluate(model, [samples])
    row = {name: mean.total / mean.number for name, mean in means.items() if mean.number}
    score, number = trained.score, len(pictures)
    print(f"run {folder.uri} after step {step}: {score.describe(row)} of these {number} clip(s)")
    rows = run_folder.read_metrics(folder)
    whole = run_folder.read_scores(trained, folder, rows)
    if whole:
        print(f"its last evaluation, after step {whole['step']}: {score.describe(whole)}")
    return pictures


def _chosen(config: PreviewConfig, trained: PretrainConfig, num_videos: int) -> list[int]:
    """Return the numbers of the held-out samples to draw."""
    if config.first_position is not None:
        return [*range(config.first_position, config.first_position + config.num_clips)]
    # those that the run is evaluated on; sample n is of video n modulo their number
    number = max(min(num_videos, trained.evaluation.num_clips), config.num_clips)
    drawn = generator(config.seed, "preview").choice(number, config.num_clips, replace=False)
    return sorted(drawn.tolist())


def _check_options(recipe: str, config: PreviewConfig) -> bool:
    """Refuse options that --run would ignore.

    Returns:
        whether videos were named.
    """
    asked = PretrainConfig(**config.model_dump(include=set(PretrainConfig.model_fields)))
    names = [each.name for each in asked.differences(recipes.PRETRAIN[recipe]())]
    refused = [name for name in names if name not in {"data.uri", "name", "seed"}]
    if refused:
        raise ValueError(
            f"--run takes the run's own config; leave out {', '.join(refused)}. Only data.uri, "
            "to predict on other videos, seed, to draw other clips, and storage, to find the run, "
            "go with it"
        )
    return "data.uri" in names


def _load_model(folder: Storage, config: PretrainConfig) -> tuple[nn.Module, int]:
    """Return the model of the newest checkpoint, on the GPU if there is one, and its step."""
    store = CheckpointStore(folder.join(run_folder.CHECKPOINTS), keep=1)
    newest = store.newest()
    if newest is None:
        raise ValueError(
            f"run {folder.uri} has no checkpoint yet; it saves every "
            f"{config.checkpoint.every_minutes:g} min (checkpoint.every_minutes)"
        )
    state = store.load(newest)
    store.close()
    model = build_model(config)
    model.load_state_dict(state.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return prepare(model, config.compute, device).eval(), state.step


def _heldout(config: PretrainConfig, uri: str | tuple[str, ...] | None) -> VideoSet[Any]:
    """Return the run's held-out samples, or samples of all videos of `uri`."""
    if uri is not None:
        return HeldoutSamples(open_catalog(uri), config.seed, build_task(config.task))
    videos = open_pretraining(config).evaluation
    if not len(videos.catalog):
        raise ValueError(
            f"run {config.name!r} has no held-out videos (data.heldout_share "
            f"{config.data.heldout_share:g}); name videos by --data.uri"
        )
    return videos


def _load(videos: VideoSet[Any], indices: Sequence[int]) -> Found:
    found = Found([], [], [])
    for index in indices:
        # one at a time, so that each sample can be named by its video
        loaded = videos.load_many([index])
        found.names.extend(videos.catalog[index % len(videos.catalog)].id for _ in loaded.items)
        found.samples.extend(loaded.items)
        found.quarantined.extend(loaded.quarantined)
    return found


def _draw(
    config: PretrainConfig, found: Found, model: nn.Module | None, size_px: int
) -> list[SamplePicture]:
    """Let the task draw the samples, and name the videos that could not be used."""
    for entry in found.quarantined:
        print(f"cannot be used: {entry.video_id}: {entry.reason}")
    if not found.samples:
        raise ValueError("none of the videos can be used; see above")
    device = torch.device("cpu") if model is None else _device(model)
    samples = to_device(stack(found.samples), device)
    with autocast(config.compute, device):
        pictures = build_task(config.task).pictures(samples, model, min_side_px=size_px)
    return [
        SamplePicture(picture.frames, f"{name}   {picture.caption}")
        for name, picture in zip(found.names, pictures, strict=True)
    ]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
