"""Make the sections of a page from run folders: first comparisons, then each run alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctp.report.compare import compare
from ctp.report.page import SOURCE, Picture, Section, Table
from ctp.report.papers import Published, beside, dataset_of, differences, published
from ctp.report.runs import Run
from ctp.run_names import find_run_folder
from ctp.storage import Storage
from ctp.training import run_folder

RETRIEVAL = "retrieval.json"
PICTURES = {
    run_folder.CURVES: "curves over the steps of the run",
    run_folder.CONFUSION: "confusion matrix: true class (row), predicted class (column)",
    "tracks.png": "predicted and true boxes",
    "neighbours.png": "queries (left) and the videos nearest to them",
}
KNN_TOP1 = "knn_top1"


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
    )


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
    accuracies = found.get("accuracy_by_pooling", one)
    for k, chance in found["chance"].items():
        measure = f"retrieval at k = {k} (chance {chance:.1%})"
        rows += [
            _row(f"ours, pooling {name}", measure, f"{accuracy[k]:.1%}", place.uri)
            for name, accuracy in accuracies.items()
        ]
        paper = published(dataset, f"retrieval_top{k}", "r3d") if dataset else []
        rows += _paper_rows(measure, paper)
    facts = {
        "encoder": ": ".join(filter(None, [found["encoder"], found.get("architecture")])),
        "gallery": str(found["gallery"]["folder"]),
        "queries": str(found["queries"]["folder"]),
        "views": _listed(found["views"]),
        "features": _listed(found["features"]),
    }
    return Section(
        title=f"retrieval, {folder.uri.rpartition('/')[2]}",
        uri=folder.uri,
        state="finished",
        facts=facts,
        tables=[Table(rows)],
        pictures=_pictures(folder),
    )


def _score_rows(run: Run) -> Iterator[dict[str, str]]:
    """Yield the scores of a run, with the baseline and the paper's numbers below each."""
    scores = run.scores
    tested = ""
    if "tested" in scores:
        tested = f" of {scores['tested']} videos"
        if scores["quarantined"]:
            tested += f", {len(scores['quarantined'])} more could not be read"
    for score in run.all_scores:
        measure = f"{score.label}{tested}"
        yield _row("ours", measure, score.format(scores[score.key]), run.scores_uri)
        if score.baseline_key in scores:
            value = score.format(scores[score.baseline_key])
            yield _row(score.baseline_label, measure, value, run.scores_uri)
        yield from _paper_rows(measure, beside(run.config, score.key))


def _knn_rows(run: Run) -> Iterator[dict[str, str]]:
    """Yield the last accuracy of nearest neighbours during pretraining."""
    last = next((row for row in reversed(run.rows) if KNN_TOP1 in row), None)
    if last is not None:
        source = f"{run.folder.join(run_folder.KNN).uri}, step {int(last['step'])}"
        yield _row("ours", "accuracy of nearest neighbours", f"{last[KNN_TOP1]:.1%}", source)


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
