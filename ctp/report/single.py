"""What there is to tell of one folder: of a run of training, or of a retrieval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.pretext.config import PretrainConfig
from ctp.report.page import SOURCE, Picture, Row, Section, Table
from ctp.report.papers import beside, dataset_of, differences
from ctp.report.published import Published, published
from ctp.report.runs import Run, said
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.config import RunConfig

RETRIEVAL = "retrieval.json"
PICTURES = {
    run_folder.CURVES: "curves over the steps of the run",
    run_folder.CONFUSION: "which class (row) is taken for which (column)",
    "tracks.png": "predicted and true boxes",
    "neighbours.png": "queries (left) and the videos nearest to them",
}
LOOKS = {
    "iou": ("mean IoU of tracked held-out patches", run_folder.METRICS),
    "still_iou": ("mean IoU of boxes that stay still", run_folder.METRICS),
    "knn_top1": ("labelled videos whose nearest neighbours have their class", run_folder.KNN),
}
"""What is measured during pretraining -> what it is called, and the file that it is in."""
TRACKING = {"iou": "mIoU", "ao": "AO", "sr50": "SR.50", "sr75": "SR.75"}
"""Scores of tracking, and what they are called."""


def run_section(run: Run) -> Section:
    """A run, and how it differs from the paper's own."""
    config = run.config
    return Section(
        title=config.name,
        uri=run.folder.uri,
        state=run.state,
        facts={**facts_of(config), "seed": str(config.seed)},
        tables=[_table(_scores(run))],
        differences=differences(config),
        pictures=_pictures(run.folder),
    )


def retrieval_section(folder: Storage) -> Section:
    """What jobs/retrieve.py found.

    Raises:
        StorageError: it cannot be read.
    """
    place = folder.join(RETRIEVAL)
    found = json.loads(place.read_bytes())
    facts = {
        "encoder": str(found["encoder"]),
        "gallery": said(found["gallery"]["folder"]),
        "queries": said(found["queries"]["folder"]),
        "views": ", ".join(f"{name} {value}" for name, value in found["views"].items()),
        "features": ", ".join(f"{name} {value}" for name, value in found["features"].items()),
    }
    rows = [
        row
        for k, share in found["accuracy"].items()
        for row in _rows(
            f"retrieval at k = {k} (chance {100 * found['chance'][k]:.1f})",
            share,
            place.uri,
            _papers_retrieval(found, k),
        )
    ]
    return Section(
        title=f"retrieval, {folder.uri.rpartition('/')[2]}",
        uri=folder.uri,
        state="finished",
        facts=facts,
        tables=[_table(rows)],
        pictures=_pictures(folder),
    )


def facts_of(config: RunConfig) -> dict[str, str]:
    """What a run was made with, its seed aside."""
    schedule = config.schedule
    return {
        "videos": said(config.data.uri),
        "length": f"{schedule.length} {schedule.unit} of {config.compute.total_batch} clips a step",
        "optimiser": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}",
        **_own_facts(config),
    }


def _own_facts(config: RunConfig) -> dict[str, str]:
    if isinstance(config, PretrainConfig):
        game = f"K = {config.game.num_patches}, hidden {config.game.hidden_prob:g}"
        return {"encoder": _encoder(config), "clip": _clip(config), "game": game}
    if isinstance(config, FinetuneConfig):
        return {
            "starts from": config.initial,
            "encoder": _encoder(config),
            "what learns": "the linear layer" if config.head.frozen_encoder else "all",
            "clip": _clip(config),
            "labels used": f"{100 * config.data.label_fraction:g} %",
        }
    assert isinstance(config, TrackConfig)
    return {
        "starts from": config.initial,
        "encoder": _encoder(config),
        "frozen stages": str(config.frozen_stages),
        "clip": _clip(config),
    }


def _encoder(config: PretrainConfig | FinetuneConfig | TrackConfig) -> str:
    encoder = config.encoder
    assert encoder is not None, "settled before the run began"
    blocks = "" if encoder.blocks_per_stage == (2, 2, 2, 2) else f", {encoder.blocks_per_stage}"
    return f"{encoder.arch}, width {encoder.width}{blocks}"


def _clip(config: PretrainConfig | FinetuneConfig | TrackConfig) -> str:
    size = config.augment.frame_size_px
    return f"{config.sampling.num_frames} frames of {size}×{size}"


def _pictures(folder: Storage) -> list[Picture]:
    there = folder.find_files([*PICTURES])
    return [
        Picture(file.path, PICTURES[file.path], folder.join(file.path).read_bytes())
        for file in there
    ]


# ---- scores -------------------------------------------------------------------------------------


def _table(rows: Sequence[Row]) -> Table:
    return Table(("", "measure", "%", SOURCE), rows, frozenset({"%"}))


def _rows(
    measure: str, share: float, source: str, of_the_paper: Sequence[Published] = ()
) -> list[Row]:
    """A score of ours, and those of the paper below it."""
    return [
        Row(("ours", measure, f"{100 * share:.1f}", source)),
        *(
            Row((f"paper, {each.method}", measure, f"{each.percent:.1f}", each.source), False)
            for each in of_the_paper
        ),
    ]


def _scores(run: Run) -> list[Row]:
    if isinstance(run.config, PretrainConfig):
        return _pretraining_scores(run)
    if isinstance(run.config, FinetuneConfig):
        return _finetuning_scores(run, run.config)
    return _tracking_scores(run)


def _pretraining_scores(run: Run) -> list[Row]:
    """What the last looks found; the paper has none of the kind."""
    rows = []
    for key, (name, file) in LOOKS.items():
        last = next((row for row in reversed(run.rows) if key in row), None)
        if last is not None:
            rows += _rows(name, last[key], f"{run.folder.join(file).uri}, step {int(last['step'])}")
    return rows


def _finetuning_scores(run: Run, config: FinetuneConfig) -> list[Row]:
    return [
        row
        for measure, k in (("top1", 1), ("top5", 5))
        if measure in run.scores
        for row in _rows(
            f"top-{k} of {run.scores['tested']} videos, "
            f"{len(run.scores['quarantined'])} more quarantined",
            run.scores[measure],
            run.scores_uri,
            [] if config.head.frozen_encoder else beside(config, measure),
        )
    ]


def _tracking_scores(run: Run) -> list[Row]:
    """The paper gives its own as a figure (Fig. 3), without numbers."""
    names = {
        f"{still}{key}": f"{name}{told}"
        for still, told in (("", ""), ("still_", ", box that stays still"))
        for key, name in TRACKING.items()
    }
    return [
        row
        for key, name in names.items()
        if key in run.scores
        for row in _rows(name, run.scores[key], run.scores_uri)
    ]


def _papers_retrieval(found: Mapping[str, Any], k: str) -> list[Published]:
    dataset = dataset_of(found["gallery"]["data"])
    return published(dataset, f"retrieval_top{k}", "r3d") if dataset else []
