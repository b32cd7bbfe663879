"""Draw training samples of a recipe, or held-out samples and the answers of a run's model."""

from __future__ import annotations

import torch

from ctp import recipes
from ctp.commands.preview import PreviewConfig
from ctp.data.stream import stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import add_means, open_pretraining
from ctp.pretext.registry import build_task
from ctp.pretext.task import SamplePicture
from ctp.report.answers import (
    Found,
    choose_samples,
    device_of,
    draw_samples,
    heldout_samples,
    load_model,
    load_samples,
)
from ctp.report.preview import clips_gif, write_clips, write_file
from ctp.run_names import find_run_folder
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.step import autocast
from ctp.training.transfer import to_device


def run(recipe: str, config: PreviewConfig) -> None:
    """Draw samples, or a run's answers, and print where the pictures are.

    Raises:
        ValueError: the run, an option or all videos cannot be used.
        QuarantineLimitError: too many videos cannot be used.
        StorageError: something cannot be read or written.
    """
    out = Storage.from_uri(config.out)
    out.check_output()
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
    return draw_samples(config, found, None, config.size_px)


@torch.no_grad()
def _predictions(recipe: str, config: PreviewConfig) -> list[SamplePicture]:
    """Draw held-out samples with the answers of the newest checkpoint; prints its score."""
    # options of the task would be silently replaced by the run's
    has_videos = _check_options(recipe, config)
    folder = find_run_folder(config.run, config.storage)
    trained = run_folder.read_config(folder, PretrainConfig)
    model, step = load_model(folder, trained)
    videos = heldout_samples(trained, config.data.uri if has_videos else None)
    found = load_samples(videos, _chosen(config, trained, len(videos.catalog)))
    pictures = draw_samples(trained, found, model, config.size_px)
    samples = to_device(stack(found.samples), device_of(model))
    with autocast(trained.compute, device_of(model)):
        means = build_task(trained.task).evaluate(model, [samples])
    row = add_means([means])
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
    return choose_samples(trained, num_videos, config.num_clips, config.seed)


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
