"""Put runs on one page: curves, scores, the paper's numbers beside ours, and what differs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from ctp import recipes
from ctp.analysis.published import Published, published
from ctp.analysis.report import Picture, Score, Section, to_html, to_markdown
from ctp.cli import CommandLine
from ctp.config import Config
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.track_config import TrackConfig
from ctp.pretext.config import PretrainConfig
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.training.config import RunConfig

ABOUT = """Put runs on one page: their curves, scores and pictures, the paper's published numbers
beside ours, and what differs from the paper's own run.

RUNS are folders of jobs/pretrain.py, finetune.py, track.py and retrieve.py, local or on S3.

  report.py --runs runs/pretrained,runs/finetuned,retrieval --out report"""
PAGE = {"html": "report.html", "markdown": "report.md"}
RETRIEVAL = "retrieval.json"
PICTURES = {
    run_folder.CURVES: "curves over the steps of the run",
    run_folder.CONFUSION: "which class (row) is taken for which (column)",
    "tracks.png": "predicted and true boxes",
    "neighbours.png": "queries (left) and the videos nearest to them",
}
DATASETS = ("ucf101", "hmdb51", "ssv1", "kinetics400")


class ReportConfig(Config):
    """One page of some runs (default)."""

    runs: tuple[str, ...] = ()
    """Folders or URIs, in the order of the page."""
    format: Literal["html", "markdown"] = "html"
    """One file with all in it, or Markdown with its pictures beside it."""
    title: str = "Runs of Catch-the-Patch"
    """Title of the page."""
    out: str = "report"
    """Folder or URI for the page."""


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        key: a field that only configs of this kind have.
        config: their class.
        paper: the paper's own run that comes nearest to one.
        facts, scores: what there is to tell of one.
    """

    key: str
    config: type[RunConfig]
    paper: Callable[[Any], RunConfig | None]
    facts: Callable[[Any], dict[str, str]]
    scores: Callable[[Any, Storage], list[Score]]


def main(argv: list[str] | None = None) -> None:
    """Parse, read, write, and say where the page is."""
    _, config = CommandLine({"report": ReportConfig}, "report", ABOUT).parse(argv)
    try:
        _run(config)
    except (ValueError, StorageError) as error:
        sys.exit(f"error: {error}")


def _run(config: ReportConfig) -> None:
    if not config.runs:
        raise ValueError("--runs is missing: folders of runs")
    out = Storage.of(config.out)
    out.check_writable()
    sections = [_section(run) for run in config.runs]
    if config.format == "html":
        pages = {PAGE["html"]: to_html(config.title, sections)}
    else:
        text, pages = to_markdown(config.title, sections)
        pages[PAGE["markdown"]] = text.encode()
    for name, data in pages.items():
        out.join(name).write_bytes(data)
    print(out.join(PAGE[config.format]).uri)


def _section(run: str) -> Section:
    folder = Storage.of(run)
    if folder.join(RETRIEVAL).exists():
        return _retrieval_section(run, folder)
    place = folder.join(run_folder.CONFIG)
    if not place.exists():
        raise ValueError(f"{run} is neither a run folder nor one of jobs/retrieve.py: {folder.uri}")
    values = yaml.safe_load(place.read_bytes())
    kind = next((kind for kind in KINDS if kind.key in values), None)
    if kind is None:
        raise ValueError(f"{place.uri} is the config of no kind of run that is known here")
    config = kind.config.model_validate(values)
    paper = kind.paper(config)
    return Section(
        title=config.name,
        uri=folder.uri,
        state=_state(config, folder),
        facts=_common_facts(config) | kind.facts(config),
        scores=kind.scores(config, folder),
        differences=None if paper is None else _differences(config, paper),
        pictures=_pictures(folder),
    )


def _state(config: RunConfig, folder: Storage) -> str:
    rows = run_folder.read_metrics(folder)
    step = int(rows[-1]["step"]) if rows else 0
    if folder.join(config.RESULT).exists():
        return f"finished after {step} steps"
    return f"not finished: at step {step}, or broken off there"


def _differences(config: RunConfig, paper: RunConfig) -> list[str]:
    unlike = config.unlike(paper)
    passed_over = {"name", "seed"}
    return [
        f"{each.name}: {_said(each.there)} in the paper's recipe, {_said(each.here)} here"
        for each in unlike
        if each.name not in passed_over
    ]


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _common_facts(config: RunConfig) -> dict[str, str]:
    schedule = config.schedule
    return {
        "videos": _said(config.data.uri),
        "length": f"{schedule.length} {schedule.unit} of {config.compute.total_batch} clips a step",
        "optimiser": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}",
        "seed": str(config.seed),
    }


def _pictures(folder: Storage) -> list[Picture]:
    return [
        Picture(name, caption, folder.join(name).read_bytes())
        for name, caption in PICTURES.items()
        if folder.join(name).exists()
    ]


def _encoder_name(config: Any) -> str:
    encoder = config.encoder
    blocks = "" if encoder.blocks_per_stage == (2, 2, 2, 2) else f", {encoder.blocks_per_stage}"
    return f"{encoder.arch}, width {encoder.width}{blocks}"


def _clip_name(config: Any) -> str:
    size = config.augment.frame_size_px
    return f"{config.sampling.num_frames} frames of {size}×{size}"


# ---- pretraining --------------------------------------------------------------------------------


def _paper_pretraining(config: PretrainConfig) -> RunConfig:
    data = "kinetics400" if "kinetics" in _said(config.data.uri) else "ucf101"
    arch = {"r3d": "r3d18", "r2plus1d": "r2plus1d18"}[config.encoder.arch]
    return recipes.PRETRAIN[f"{data}-{arch}"]()


def _pretraining_facts(config: PretrainConfig) -> dict[str, str]:
    return {
        "encoder": _encoder_name(config),
        "clip": _clip_name(config),
        "game": f"K = {config.game.num_patches}, hidden {config.game.hidden_prob:g}",
    }


def _pretraining_scores(config: PretrainConfig, folder: Storage) -> list[Score]:
    """The last held-out tracking score; the paper has none of the kind."""
    tracked = [row for row in run_folder.read_metrics(folder) if "iou" in row]
    if not tracked:
        return []
    source = f"{folder.join(run_folder.METRICS).uri}, step {int(tracked[-1]['step'])}"
    names = {
        "iou": "mean IoU of tracked held-out patches",
        "still_iou": "mean IoU of boxes that stay still",
    }
    return [_percent(name, tracked[-1][key], source) for key, name in names.items()]


# ---- fine-tuning --------------------------------------------------------------------------------


def _paper_finetuning(config: FinetuneConfig) -> RunConfig:
    dataset = _dataset(config.data.uri) or "ucf101"
    paper = recipes.FINETUNE["linear" if config.head.frozen_encoder else dataset]()
    return paper.replace(encoder={})


def _dataset(uri: object) -> str | None:
    return next((name for name in DATASETS if name in _said(uri).lower()), None)


def _finetuning_facts(config: FinetuneConfig) -> dict[str, str]:
    assert config.encoder is not None, "settled before the run began"
    return {
        "starts from": config.initial,
        "encoder": _encoder_name(config) + (", frozen" if config.head.frozen_encoder else ""),
        "clip": _clip_name(config),
        "labels used": f"{100 * config.data.label_fraction:g} %",
    }


def _finetuning_scores(config: FinetuneConfig, folder: Storage) -> list[Score]:
    found = _scores_of(config, folder)
    dataset = None if config.head.frozen_encoder else _dataset(config.data.uri)
    assert config.encoder is not None
    return [
        _percent(
            f"top-{k} of {found['tested']} videos, {len(found['unreadable'])} more unreadable",
            found[f"top{k}"],
            folder.join(config.RESULT).uri,
            _published(dataset, f"top{k}", config.encoder.arch),
        )
        for k in (1, 5)
        if f"top{k}" in found
    ]


# ---- tracking -----------------------------------------------------------------------------------


def _tracking_facts(config: TrackConfig) -> dict[str, str]:
    return {
        "starts from": config.initial,
        "encoder": f"{_encoder_name(config)}, {config.frozen_stages} stages frozen",
        "clip": _clip_name(config),
    }


def _tracking_scores(config: TrackConfig, folder: Storage) -> list[Score]:
    """The paper gives its own as a figure (Fig. 3), without numbers."""
    found = _scores_of(config, folder)
    names = {"iou": "mIoU", "ao": "AO", "sr50": "SR.50", "sr75": "SR.75"}
    rows = {
        f"{still}{key}": f"{name}{said}"
        for still, said in (("", ""), ("still_", ", box that stays still"))
        for key, name in names.items()
    }
    source = folder.join(config.RESULT).uri
    return [_percent(name, found[key], source) for key, name in rows.items() if key in found]


# ---- retrieval ----------------------------------------------------------------------------------


def _retrieval_section(run: str, folder: Storage) -> Section:
    place = folder.join(RETRIEVAL)
    found = json.loads(place.read_bytes())
    dataset = _dataset(found["gallery"]["data"])
    scores = [
        _percent(
            f"retrieval at k = {k} (chance {100 * found['chance'][k]:.1f})",
            share,
            place.uri,
            _published(dataset, f"retrieval_top{k}", "r3d"),
        )
        for k, share in found["accuracy"].items()
    ]
    facts = {
        "encoder": str(found["encoder"]),
        "gallery": _said(found["gallery"]["folder"]),
        "queries": _said(found["queries"]["folder"]),
        "views": ", ".join(f"{name} {value}" for name, value in found["views"].items()),
        "features": ", ".join(f"{name} {value}" for name, value in found["features"].items()),
    }
    return Section(
        title=f"retrieval, {run}",
        uri=folder.uri,
        state="finished",
        facts=facts,
        scores=scores,
        pictures=_pictures(folder),
    )


# ---- scores -------------------------------------------------------------------------------------


def _scores_of(config: RunConfig, folder: Storage) -> Mapping[str, Any]:
    place = folder.join(config.RESULT)
    if not place.exists():
        return {"tested": 0, "unreadable": ()}
    found: Mapping[str, Any] = json.loads(place.read_bytes())
    return found


def _published(dataset: str | None, measure: str, arch: str) -> list[Published]:
    return published(dataset, measure, arch) if dataset else []


def _percent(name: str, share: float, source: str, beside: Sequence[Published] = ()) -> Score:
    return Score(name, f"{100 * share:.1f}", source, beside)


KINDS = (
    Kind("game", PretrainConfig, _paper_pretraining, _pretraining_facts, _pretraining_scores),
    Kind("frozen_stages", TrackConfig, lambda config: None, _tracking_facts, _tracking_scores),
    Kind("views", FinetuneConfig, _paper_finetuning, _finetuning_facts, _finetuning_scores),
)


if __name__ == "__main__":
    main()
