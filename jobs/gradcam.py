"""Draw where fine-tuned classifiers look, by guided Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, MaxLen

from ctp.cli import CommandLine
from ctp.config import Config
from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.quarantine import QuarantinedVideo, collect_errors
from ctp.data.sources import Sources, open_catalog
from ctp.downstream.classification import Classifier, load_classifier
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.gradcam import explain
from ctp.downstream.labels import open_labeled
from ctp.report.gradcam import Explained, MapName, color_key, draw_explained
from ctp.report.preview import read_clip, write_clips
from ctp.storage import Storage
from ctp.text import listed
from ctp.training import run_folder
from ctp.video.augment import to_input
from ctp.video.config import ViewsConfig

ABOUT = """Draw where classifiers look (Fig. 5, 8): OUT/gradcam.png and OUT/gradcam.mp4.

RUNS are folders of jobs/finetune.py with the same classes, e.g. one run from pretrained and one
from random weights. The middle clip of each video is explained.

  gradcam.py --runs runs/ctp,runs/scratch
  gradcam.py --runs runs/ctp --uri my/videos --num_videos 8 --target "Horse Riding\""""
MIN_SIDE_PX = 160
"""Smaller frames are enlarged to this side."""


class GradcamConfig(Config):
    """Guided Grad-CAM of the middle clips of some videos (default)."""

    runs: tuple[str, ...] = ()
    """Folders or URIs of finished fine-tuning runs."""
    uri: Sources = ()
    """Videos to explain; none: those that the first run was tested on."""
    num_videos: Annotated[int, Ge(1)] = 4
    """Number of videos, evenly chosen."""
    target: str = ""
    """The class whose evidence is shown; none: the class that each classifier predicts."""
    maps: Annotated[tuple[MapName, ...], MaxLen(2)] = ("guided", "cam")
    """guided: guided Grad-CAM; cam: Grad-CAM."""
    out: str = "gradcam"
    """Folder or URI for the picture and the video."""


def main(argv: list[str] | None = None) -> None:
    """Parse, explain, draw, and print where it is."""
    CommandLine({"gradcam": GradcamConfig}, "gradcam", ABOUT).run(_run, argv)


def _run(config: GradcamConfig) -> None:
    if not config.runs:
        raise ValueError("--runs is missing: folders of jobs/finetune.py")
    out = Storage.from_uri(config.out)
    out.check_writable()
    first = run_folder.read_config(Storage.from_uri(config.runs[0]), FinetuneConfig)
    models, classes = _classifiers(config.runs)
    for run, model in models.items():
        trained = model.encoder.clip_format
        if trained and (different := first.clip_format.describe_differences(trained)):
            print(f"note: the clips differ from those that {run} was trained on: {different}")
    if config.target and config.target not in classes:
        raise ValueError(f"no class {config.target!r}; expected one of {', '.join(classes)}")
    clips, quarantined = _explain_videos(config, first, models, classes)
    for entry in quarantined:
        print(f"cannot be used: {entry.video_id}: {entry.reason}")
    if not clips:
        raise ValueError("none of the videos can be used; see above")
    key = color_key(config.maps)
    rows = [draw_explained(clip, classes, config.maps, MIN_SIDE_PX) for clip in clips]
    pictures = [picture for row in rows for picture in row]
    # the video has a row for each clip, with its maps beside it
    write_clips(out, "gradcam", pictures, len(rows[0]), key)


def _classifiers(runs: Sequence[str]) -> tuple[dict[str, Classifier], tuple[str, ...]]:
    """Return the classifiers by their runs, and the names of their classes."""
    models: dict[str, Classifier] = {}
    classes: tuple[str, ...] = ()
    for run in runs:
        place = Storage.from_uri(run).join(run_folder.CLASSIFIER)
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
    for entry in _choose(_videos(config, run), config.num_videos):
        with collect_errors(quarantined):
            clips.append(_explain_video(entry, run.views, models, classes, target))
    return clips, quarantined


def _videos(config: GradcamConfig, run: FinetuneConfig) -> Catalog:
    if config.uri:
        return open_catalog(config.uri)
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
    return Explained(frames, entry.id, label, found)


if __name__ == "__main__":
    main()
