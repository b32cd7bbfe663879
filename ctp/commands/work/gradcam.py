"""Draw where fine-tuned classifiers look, by guided Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctp.commands.gradcam import GradcamConfig
from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.quarantine import QuarantinedVideo, collect_errors
from ctp.data.sources import open_catalog
from ctp.downstream.classification import Classifier, load_classifier
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.gradcam import explain
from ctp.downstream.labels import open_labeled
from ctp.report.gradcam import Explained, color_key, draw_explained
from ctp.report.preview import read_clip, slide_mp4, slide_png, write_file
from ctp.run_names import find_run_folder
from ctp.storage import Storage
from ctp.text import listed
from ctp.training import run_folder
from ctp.video.augment import to_input
from ctp.video.config import ViewsConfig

MIN_SIDE_PX = 160
"""Smaller frames are enlarged to this side."""


def run(config: GradcamConfig) -> None:
    """Explain the videos, draw, and print where it is.

    Raises:
        ValueError: a run, a class or all videos do not fit.
        StorageError: something cannot be read or written.
    """
    if not config.runs:
        raise ValueError("--runs is missing: folders of jobs/finetune.py")
    out = Storage.from_uri(config.out)
    out.check_output()
    first = run_folder.read_config(find_run_folder(config.runs[0]), FinetuneConfig)
    models, classes = _classifiers(config.runs)
    for name, model in models.items():
        trained = model.encoder.clip_format
        if trained and (different := first.clip_format.describe_differences(trained)):
            print(f"note: the clips differ from {name}'s training: {different}")
    if config.target and config.target not in classes:
        raise ValueError(f"no class {config.target!r}; expected one of {', '.join(classes)}")
    clips, quarantined = _explain_videos(config, first, models, classes)
    for entry in quarantined:
        print(f"cannot be used: {entry.video_id}: {entry.reason}")
    if not clips:
        raise ValueError("none of the videos can be used; see above")
    key = color_key(config.maps)
    rows = [draw_explained(clip, classes, config.maps, MIN_SIDE_PX) for clip in clips]
    write_file(out, "gradcam.png", slide_png(rows, key))
    write_file(out, "gradcam.mp4", slide_mp4(rows, key))


def _classifiers(runs: Sequence[str]) -> tuple[dict[str, Classifier], tuple[str, ...]]:
    """Return the classifiers by their runs, and the names of their classes."""
    models: dict[str, Classifier] = {}
    classes: tuple[str, ...] = ()
    for run in runs:
        place = find_run_folder(run).join(run_folder.CLASSIFIER)
        if not place.exists():
            raise ValueError(f"run {run} is not finished: {place.uri} does not exist")
        model, names = load_classifier(place.read_bytes(), place.uri)
        if classes and names != classes:
            raise ValueError(
                f"{run} has the classes {listed(names)}, expected those of {runs[0]}: "
                f"{listed(classes)}"
            )
        models[run] = model
        classes = names
    return models, classes


def _explain_videos(
    config: GradcamConfig,
    run: FinetuneConfig,
    models: dict[str, Classifier],
    classes: tuple[str, ...],
) -> tuple[list[Explained], list[QuarantinedVideo]]:
    clips: list[Explained] = []
    quarantined: list[QuarantinedVideo] = []
    target = classes.index(config.target) if config.target else None
    chosen = _choose(_videos(config, run), config.num_videos)
    unknown = [entry.label for entry in chosen if entry.label and entry.label not in classes]
    if unknown:
        print(
            f"warning: {len(unknown)} of {len(chosen)} videos are of classes that the runs do not "
            f"know: {listed(sorted(set(unknown)))}. Their maps show the evidence for another class"
        )
    for entry in chosen:
        with collect_errors(quarantined):
            clips.append(_explain_video(entry, run.views, models, classes, target))
    return clips, quarantined


def _videos(config: GradcamConfig, run: FinetuneConfig) -> Catalog:
    if config.uri:
        return open_catalog(config.uri, "uri")
    return open_labeled(run.data, run.seed).test


def _choose(catalog: Catalog, number: int) -> list[VideoEntry]:
    """Return `number` videos, evenly chosen, so that they are of many classes."""
    count = min(number, len(catalog))
    # the middles of equal parts: videos are sorted by class
    return [catalog[(2 * i + 1) * len(catalog) // (2 * count)] for i in range(count)]


def _explain_video(
    entry: VideoEntry,
    views: ViewsConfig,
    models: dict[str, Classifier],
    classes: tuple[str, ...],
    target: int | None,
) -> Explained:
    frames = read_clip(views, entry)
    clip = to_input(torch.from_numpy(frames)[None])
    label = classes.index(entry.label) if entry.label in classes else None
    found = {name: explain(model, clip, target) for name, model in models.items()}
    unknown = f"   class {entry.label}, which is unknown" if entry.label and label is None else ""
    return Explained(frames, f"{entry.id}{unknown}", label, found)
