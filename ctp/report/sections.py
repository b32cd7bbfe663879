"""Make the sections of a page from run folders: first comparisons, then each run alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctp.progress import duration
from ctp.report.compare import compare
from ctp.report.page import SOURCE, Picture, Section, Table
from ctp.report.papers import Published, beside, dataset_of, differences, published
from ctp.report.run_list import kind_of
from ctp.report.runs import Run, version_of
from ctp.run_names import find_run_folder
from ctp.score import format_share
from ctp.storage import Storage
from ctp.text import and_unread
from ctp.training import run_folder

RETRIEVAL = "retrieval.json"
PICTURES = {
    run_folder.CURVES: "curves over the steps of the run",
    run_folder.CONFUSION: "confusion matrix: true class (row), predicted class (column)",
    "tracks.png": "predicted and true boxes",
    "neighbours.png": "queries (left) and the videos nearest to them",
}
KNN_TOP1 = "knn_top1"
PAPER_METHOD = "CtP"
"""Beginning of the names of the paper's own method in its tables."""


def sections_of(places: Sequence[str]) -> list[Section]:
    """Return the comparisons of runs that can be compared, then a section for each run.

    Args:
        places: names, folders or URIs of runs and retrievals, or of folders that contain some. A
            folder that is named twice counts once.

    Raises:
        ValueError: a folder is none of them, or its config is invalid.
        StorageError: one cannot be read.
    """
    # by URI, so that a folder that is named twice counts once
    found = {folder.uri: folder for place in places for folder in _folders(place)}
    retrievals = {uri for uri, folder in found.items() if folder.join(RETRIEVAL).exists()}
    runs = {uri: Run.read(folder) for uri, folder in found.items() if uri not in retrievals}
    return [
        *compare([*runs.values()]),
        *(
            retrieval_section(folder) if uri in retrievals else run_section(runs[uri])
            for uri, folder in found.items()
        ),
    ]


def run_section(run: Run) -> Section:
    """Return what the page says of a run."""
    config = run.config
    return Section(
        title=config.name,
        uri=run.folder.uri,
        state=run.state,
        facts={**config.describe(), "seed": str(config.seed)},
        tables=[Table([*_score_rows(run), *_knn_rows(run)])],
        differences=differences(config),
        pictures=_pictures(run.folder),
        summary=_summary(run),
    )


def _summary(run: Run) -> dict[str, str]:
    """Return the line of a run in the first table."""
    config, origin, score = run.config, run.origin, ""
    if config.score.key in run.scores:
        parts = config.score.describe_value(run.scores), config.score.describe_count(run.scores)
        score = " ".join(filter(None, (config.score.label, *parts)))
    workers = config.scaling.num_workers
    machine = f"{origin.host}, {workers} GPU{'s' * (workers != 1)}"
    return {
        "run": config.name,
        "task": kind_of(config),
        "score": score,
        "chance or baseline": config.score.describe_baseline(run.scores),
        "published": _best_published(beside(config, config.score.key)),
        "date": origin.date,
        "duration": duration(origin.seconds) if origin.seconds else "",
        "machine": machine if config.scaling.use_gpu else origin.host,
        "version": origin.version,
        "state": "finished" if run.is_finished else run.state,
    }


def _best_published(numbers: Sequence[Published]) -> str:
    """Return the best of the paper's numbers that its own method has on the same data."""
    own = [each for each in numbers if each.method.startswith(PAPER_METHOD)]
    best = max(own, key=lambda each: each.percent, default=None)
    return f"{best.percent:.1f}% ({best.method}, {best.source})" if best else ""


def retrieval_section(folder: Storage) -> Section:
    """Return what the page says of a retrieval of jobs/retrieve.py.

    Raises:
        StorageError: it cannot be read.
    """
    place = folder.join(RETRIEVAL)
    found = json.loads(place.read_bytes())
    dataset = dataset_of(found["gallery"]["data"])
    rows: list[dict[str, str]] = []
    # older results are of one pooling
    one = {found["features"]["pooling"]: found["accuracy"]}
    accuracies, tested = found.get("accuracy_by_pooling", one), found["queries"].get("videos")
    of_videos = f" of {tested} videos" if tested else ""
    for k, chance in found["chance"].items():
        measure = f"retrieval at k = {k}{of_videos} (chance {chance:.1%})"
        rows += [
            _row(f"ours, pooling {name}", measure, format_share(accuracy[k], tested), place.uri)
            for name, accuracy in accuracies.items()
        ]
        paper = published(dataset, f"retrieval_top{k}", "r3d") if dataset else []
        rows += _paper_rows(measure, paper)
    k, chance = next(iter(found["chance"].items()))
    name = folder.uri.rpartition("/")[2]
    summary = {
        "run": name,
        "task": "retrieval",
        "score": f"retrieval at {k} {format_share(found['accuracy'][k], tested)}{of_videos}",
        "chance or baseline": f"chance {chance:.1%}",
        "published": _best_published(
            published(dataset, f"retrieval_top{k}", "r3d") if dataset else []
        ),
        "date": found.get("date", ""),
        "version": version_of(found.get("written_by")),
        "state": "finished",
    }
    facts = {
        "encoder": ": ".join(filter(None, [found["encoder"], found.get("architecture")])),
        "gallery": str(found["gallery"]["folder"]),
        "queries": str(found["queries"]["folder"]),
        "views": _listed(found["views"]),
        "features": _listed(found["features"]),
    }
    return Section(
        title="retrieval" if name == "retrieval" else f"retrieval, {name}",
        uri=folder.uri,
        state="finished",
        facts=facts,
        tables=[Table(rows)],
        pictures=_pictures(folder),
        summary=summary,
    )


def _score_rows(run: Run) -> Iterator[dict[str, str]]:
    """Yield the scores of a run, with the baseline and the paper's numbers below each."""
    scores = run.scores
    unread = len(scores.get("quarantined", ())) if "tested" in scores else 0
    for score in run.all_scores:
        measure = f"{score.label} {score.describe_count(scores)}".rstrip()
        measure += and_unread(unread)
        yield _row("ours", measure, score.describe_value(scores), run.scores_uri)
        if score.baseline_key in scores:
            value = score.format(scores[score.baseline_key])
            yield _row(score.baseline_label, measure, value, run.scores_uri)
        yield from _paper_rows(measure, beside(run.config, score.key))


def _knn_rows(run: Run) -> Iterator[dict[str, str]]:
    """Yield the last accuracy of nearest neighbours during pretraining."""
    last = next((row for row in reversed(run.rows) if KNN_TOP1 in row), None)
    if last is not None:
        source = f"{run.folder.join(run_folder.KNN).uri}, step {int(last['step'])}"
        tested = int(last.get("knn_tested", 0))
        measure = "accuracy of nearest neighbours" + (f" of {tested} videos" if tested else "")
        yield _row("ours", measure, format_share(last[KNN_TOP1], tested), source)
        if "knn_chance" in last:
            yield _row("chance", measure, f"{last['knn_chance']:.1%}", source)


def _paper_rows(measure: str, numbers: Sequence[Published]) -> list[dict[str, str]]:
    return [
        _row(f"paper, {each.method}", measure, f"{each.percent:.1f}%", each.source)
        for each in numbers
    ]


def _row(of: str, measure: str, value: str, source: str) -> dict[str, str]:
    return {"of": of, "measure": measure, "value": value, SOURCE: source}


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _pictures(folder: Storage) -> list[Picture]:
    return [
        Picture(PICTURES[file.path], folder.join(file.path).read_bytes())
        for file in folder.find_files([*PICTURES])
    ]


def _folders(place: str) -> Iterator[Storage]:
    folder = Storage.from_uri(place)
    if _is_shown(folder):
        yield folder
        return
    below = [each for name in folder.list_folders() if _is_shown(each := folder.join(name))]
    yield from below or [find_run_folder(place, files=(run_folder.CONFIG, RETRIEVAL))]


def _is_shown(folder: Storage) -> bool:
    return bool(folder.find_files([run_folder.CONFIG, RETRIEVAL]))
