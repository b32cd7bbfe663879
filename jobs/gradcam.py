"""Draw where fine-tuned classifiers look, by guided Grad-CAM, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import torch
import yaml
from annotated_types import Ge, MaxLen

from ctp.cli import CommandLine
from ctp.config import Config
from ctp.data.catalog import Catalog, Sources, VideoEntry, open_catalog
from ctp.data.quarantine import QuarantinedVideo
from ctp.downstream.classification import Classifier, load_classifier
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.labels import open_labeled
from ctp.report.gradcam import (
    Explained,
    MapName,
    explain,
    side_by_side_mp4,
    strip_png,
)
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.video.augment import to_input
from ctp.video.config import ViewsConfig
from ctp.video.encoded import VideoError
from ctp.video.views import read_views

ABOUT = """Draw where classifiers look (Fig. 5, 8): OUT/gradcam.png and OUT/gradcam.mp4.

RUNS are folders of jobs/finetune.py, one or several whose classes are the same, e.g. one that was
fine-tuned from pretrained and one from random weights. The middle clip of each video is explained.

  gradcam.py --runs runs/ctp,runs/scratch
  gradcam.py --runs runs/ctp --uri my/videos --num_videos 8 --target "Horse Riding\""""
PNG, MP4 = "gradcam.png", "gradcam.mp4"


class GradcamConfig(Config):
    """Guided Grad-CAM of the middle clips of some videos (default)."""

    runs: tuple[str, ...] = ()
    """Folders or URIs of finished fine-tuning runs."""
    uri: Sources = ()
    """Videos to explain; none: those that the first run was tested on."""
    num_videos: Annotated[int, Ge(1)] = 4
    """How many of them, evenly chosen."""
    target: str = ""
    """The class whose evidence is shown; none: what each classifier takes a video for."""
    maps: Annotated[tuple[MapName, ...], MaxLen(2)] = ("guided", "cam")
    """guided: guided Grad-CAM; cam: Grad-CAM."""
    num_columns: Annotated[int, Ge(1)] = 8
    """Frames of each clip in the picture, evenly chosen."""
    size_px: Annotated[int, Ge(16)] = 160
    """Side of a frame in the picture; larger clips keep their size."""
    out: str = "gradcam"
    """Folder or URI for the picture and the video."""


def main(argv: list[str] | None = None) -> None:
    """Parse, explain, draw, and say where it is."""
    _, config = CommandLine({"gradcam": GradcamConfig}, "gradcam", ABOUT).parse(argv)
    try:
        _run(config)
    except (ValueError, StorageError) as error:
        sys.exit(f"error: {error}")


def _run(config: GradcamConfig) -> None:
    if not config.runs:
        raise ValueError("--runs is missing: folders of jobs/finetune.py")
    out = Storage.of(config.out)
    out.check_writable()
    first = _config_of(config.runs[0])
    models, classes = _classifiers(config.runs)
    if config.target and config.target not in classes:
        raise ValueError(f"no class {config.target!r}; there are {', '.join(classes)}")
    clips, quarantined = _explained(config, first, models, classes)
    for entry in quarantined:
        print(f"left out {entry.video_id}: {entry.reason}")
    if not clips:
        raise ValueError("none of the videos can be used; see above")
    picture = strip_png(
        clips, classes, maps=config.maps, num_columns=config.num_columns, size_px=config.size_px
    )
    for name, data in ((PNG, picture), (MP4, side_by_side_mp4(clips, classes, maps=config.maps))):
        out.join(name).write_bytes(data)
        print(out.join(name).uri)


def _config_of(run: str) -> FinetuneConfig:
    place = Storage.of(run).join(run_folder.CONFIG)
    if not place.exists():
        raise ValueError(f"{run} is no run folder: there is no {place.uri}")
    values = yaml.safe_load(place.read_bytes())
    if "test_every_epochs" not in values:
        raise ValueError(f"{run} is not a run of jobs/finetune.py: {place.uri} is another's config")
    return FinetuneConfig.model_validate(values)


def _classifiers(runs: Sequence[str]) -> tuple[dict[str, Classifier], tuple[str, ...]]:
    """The classifiers by their runs' names, and the classes that they have in common."""
    models: dict[str, Classifier] = {}
    classes: tuple[str, ...] = ()
    for run in runs:
        place = Storage.of(run).join(run_folder.CLASSIFIER)
        if not place.exists():
            raise ValueError(f"the run {run} is not finished: there is no {place.uri}")
        model, names = load_classifier(place.read_bytes(), place.uri)
        if classes and names != classes:
            raise ValueError(
                f"{run} has other classes than {runs[0]}: {', '.join(names[:5])}, … and "
                f"{', '.join(classes[:5])}, …"
            )
        models[run] = model
        classes = names
    return models, classes


def _explained(
    config: GradcamConfig,
    run: FinetuneConfig,
    models: dict[str, Classifier],
    classes: tuple[str, ...],
) -> tuple[list[Explained], list[QuarantinedVideo]]:
    views = run.views.replace(num_clips=1)
    clips: list[Explained] = []
    quarantined: list[QuarantinedVideo] = []
    target = classes.index(config.target) if config.target else None
    for entry in _chosen(_videos(config, run), config.num_videos):
        try:
            clips.append(_explain_video(entry, views, models, classes, target))
        except VideoError as error:
            quarantined.append(QuarantinedVideo.from_error(error))
    return clips, quarantined


def _videos(config: GradcamConfig, run: FinetuneConfig) -> Catalog:
    if config.uri:
        return open_catalog(config.uri)
    return open_labeled(run.data, run.seed).test


def _chosen(catalog: Catalog, number: int) -> list[VideoEntry]:
    """Evenly chosen, so that they are of many classes."""
    count = min(number, len(catalog))
    return [catalog[(2 * i + 1) * len(catalog) // (2 * count)] for i in range(count)]


def _explain_video(
    entry: VideoEntry,
    views: ViewsConfig,
    models: dict[str, Classifier],
    classes: tuple[str, ...],
    target: int | None,
) -> Explained:
    frames = read_views(views, entry.read())[0]
    clip = to_input(torch.from_numpy(frames)[None])
    label = classes.index(entry.label) if entry.label in classes else None
    found = {name: explain(model, clip, target) for name, model in models.items()}
    return Explained(frames, entry.id, label, found)


if __name__ == "__main__":
    main()
