"""Compare runs: scores by initial weights, with means over seeds (Fig. 3, 4 and 6)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ctp.encoders.config import RANDOM
from ctp.report.compare_plots import draw_learning, draw_lines
from ctp.report.figures import series, to_png, window
from ctp.report.initial_weights import initial_weights, names_of
from ctp.report.page import SOURCE, Picture, Section, Table
from ctp.report.papers import NOT_OF_THE_PROTOCOL, dataset_of, differences, same_as
from ctp.report.runs import (
    INITIAL,
    OF_INITIAL,
    Run,
    differing,
    in_words,
    shaping_options,
    value_in_words,
)
from ctp.score import Score

SETTING, WEIGHTS = "setting", "initial weights"
PROTOCOL, LABELS, STAGES = "protocol", "labels", "frozen stages"
VARIED: Mapping[str, Mapping[str, str]] = {
    "finetune": {"protocol": PROTOCOL, "data.label_fraction": LABELS},
    "track": {"frozen_stages": STAGES},
}
"""Kind of a run -> options that may differ within a setting, and the names of their columns."""
PROTOCOLS = {"finetune": "fine-tuned", "linear": "linear", "attentive": "attentive"}
SPREAD = "± is the sample standard deviation over runs that differ by their seeds alone."
SEEDS = "Seeds: the run's own, and after a slash that of the run that made its initial weights."
SEED_DRAWS_TEST = "The seed also draws the videos that are tested on (data.test_share)."

Cells = dict[str, str]


def compare(runs: Sequence[Run]) -> list[Section]:
    """Return the sections that compare runs of the same kind."""
    # pretraining runs are not compared: their scores may be those of different tasks
    by_kind = {kind: [run for run in runs if kind == run.config.KIND] for kind in VARIED}
    return [*_compare_finetuning(by_kind["finetune"]), *_compare_tracking(by_kind["track"])]


def format_mean(values: pd.Series[float], score: Score) -> str:
    """Return a mean and, of several values, their sample standard deviation as text."""
    mean = score.format(values.mean())
    return mean if len(values) < 2 else f"{mean} ± {score.format(values.std())}"


def merge_uris(uris: Sequence[str]) -> str:
    """Return locations as one text; if one part of their paths differs, as a/{b,c}/d."""
    paths = [uri.split("/") for uri in dict.fromkeys(uris)]
    # the position in the path identifies a part only if the paths have the same depth
    if len({len(path) for path in paths}) == 1:
        parts = [list(dict.fromkeys(column)) for column in zip(*paths, strict=True)]
        if sum(len(part) > 1 for part in parts) <= 1:
            return "/".join(p[0] if len(p) == 1 else f"{{{','.join(p)}}}" for p in parts)
    return ", ".join(map("/".join, paths))


# ---- runs as a table ----------------------------------------------------------------------------


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each scored run of a kind, random initial weights first.

    Returns:
        columns SETTING, a number for each set of common options; WEIGHTS; those of `VARIED`;
        "seeds"; "is_repeated", whether a run above agrees in all of these; "run"; "start", its
        initial weights; "about", what the name of these leaves out; "options", the common ones.
    """
    starts = [initial_weights(run.config) for run in runs]
    names = names_of(starts)
    rows = []
    for run, start in zip(runs, starts, strict=True):
        if run.config.score.key not in run.scores:
            continue
        options = shaping_options(run.config)
        varied = {column: options.pop(n) for n, column in VARIED[run.config.KIND].items()}
        name, about = names[start.key]
        rows.append(
            {
                WEIGHTS: name,
                **varied,
                "seeds": "/".join(map(str, (run.config.seed, *start.seeds))),
                "run": run,
                "start": start,
                "about": about,
                "options": {n: options[n] for n in options if n not in INITIAL | OF_INITIAL},
            }
        )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    # as text, since dicts cannot be compared by hash
    table[SETTING] = 1 + pd.factorize(table["options"].map(json.dumps))[0]
    # a run that was made twice must not count twice in a mean
    table["is_repeated"] = table.duplicated([*_keys(table), "seeds"])
    order = sorted(table[WEIGHTS].unique(), key=lambda name: not name.startswith(RANDOM))
    # a categorical sorts in this order, and so do groups, tables and legends
    table[WEIGHTS] = pd.Categorical(table[WEIGHTS], order, ordered=True)
    if PROTOCOL in table:
        names_shown = table[PROTOCOL].map(PROTOCOLS)
        table[PROTOCOL] = pd.Categorical(names_shown, [*PROTOCOLS.values()], ordered=True)
    return table.sort_values(_keys(table), kind="stable")


def _keys(table: pd.DataFrame) -> list[str]:
    """Return the columns in which runs agree that differ by their seeds alone."""
    return [name for name in (SETTING, WEIGHTS, PROTOCOL, LABELS, STAGES) if name in table]


def _groups(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the runs that differ by their seeds alone, those that are averaged."""
    own = table[~table["is_repeated"]]
    # observed: pandas would else make a group of every combination of categories
    return [group for _, group in own.groupby(_keys(table), sort=False, observed=True)]


def _values(group: pd.DataFrame, key: str) -> pd.Series[float]:
    return pd.Series([float(run.scores[key]) for run in group["run"]])


def _baseline(panel: pd.DataFrame) -> float | None:
    """Return the mean score of the trivial answer, or None if a run does not have it."""
    key = _score(panel).baseline_key
    has_all = all(key in run.scores for run in panel["run"])
    return float(_values(panel, key).mean()) if has_all else None


def _points(panel: pd.DataFrame, varied: str) -> pd.DataFrame:
    """Return the means of groups over what is varied, as `draw_lines` takes them."""
    rows = []
    for group in _groups(panel):
        values = _values(group, _score(group).key)
        first = group.iloc[0]
        rows.append((first[WEIGHTS], first[varied], values.mean(), values.std()))
    return pd.DataFrame(rows, columns=["weights", "at", "mean", "std"])


def _score(table: pd.DataFrame) -> Score:
    score: Score = table["run"].iloc[0].config.score
    return score


# ---- cells --------------------------------------------------------------------------------------


def _place(group: pd.DataFrame) -> Cells:
    """Return the cells that identify a group."""
    first = group.iloc[0]
    cells = {name: str(first[name]) for name in _keys(group)}
    if LABELS in cells:
        cells[LABELS] = f"{100 * first[LABELS]:g}%"
    return cells


def _score_cells(group: pd.DataFrame) -> Cells:
    """Return the means of the scores that all runs of a group have, and the baseline's."""
    cells, judged_by = {}, _score(group)
    for score in group["run"].iloc[0].all_scores:
        if len(group) == 1:
            cells[score.label] = score.describe_value(group["run"].iloc[0].scores)
        elif all(score.key in run.scores for run in group["run"]):
            cells[score.label] = format_mean(_values(group, score.key), score)
        has_baseline = all(score.baseline_key in run.scores for run in group["run"])
        if score == judged_by and has_baseline:
            cells[score.baseline_label] = format_mean(_values(group, score.baseline_key), score)
    return cells


def _run_cells(group: pd.DataFrame) -> Cells:
    """Return how many runs a mean is of, and the files of their scores."""
    tested = _values(group, "tested").astype(int)
    return {
        "runs": str(len(group)),
        "seeds": ", ".join(group["seeds"]),
        "videos tested": " to ".join(map(str, dict.fromkeys((tested.min(), tested.max())))),
        SOURCE: merge_uris([run.scores_uri for run in group["run"]]),
    }


def _labels_cells(group: pd.DataFrame) -> Cells:
    trained_on = {"videos trained on": f"{_values(group, 'trained_on').max():.0f}"}
    return _place(group) | trained_on | _score_cells(group) | _run_cells(group)


def _learning_cells(group: pd.DataFrame) -> Cells:
    """Return the means of a log's last values, and the score."""
    score, cells = _score(group), {}
    for name, of in (("loss", Score("loss", "loss")), (f"train_{score.key}", score)):
        found = [values for run in group["run"] if len(values := series(run.rows, name))]
        if found:
            # over the same window as the smoothed curve, so that the number is where the curve ends
            ends = pd.Series([values.tail(window(values)).mean() for values in found])
            cells[f"training {of.label} at the end"] = format_mean(ends, of)
    logs = merge_uris([run.metrics_uri for run in group["run"]])
    counts = _run_cells(group)
    test = {f"test {score.label}": format_mean(_values(group, score.key), score)}
    return _place(group) | cells | test | counts | {SOURCE: f"{logs}; test: {counts[SOURCE]}"}


# ---- sections -----------------------------------------------------------------------------------


def _section(
    title: str,
    runs: Sequence[Run],
    table: pd.DataFrame,
    rows: Sequence[Cells],
    pictures: Sequence[Picture] = (),
    notes: Sequence[str] = (),
) -> Section:
    """Return a section, with what all runs have in common and what is not in the numbers."""
    facts = [run.config.describe() for run in table["run"]]
    common = {n: v for n, v in facts[0].items() if all(each.get(n) == v for each in facts)}
    common = {n: v for n, v in common.items() if n not in {WEIGHTS, "labels used", STAGES}}
    for name, own in table.groupby(WEIGHTS, observed=True):
        uris, about = [start.uri for start in own["start"] if start.uri], own["about"].iloc[0]
        if uris:
            common[str(name)] = merge_uris(uris) + (f", made with {about}" if about else "")
    if table[SETTING].max() == 1:
        rows = [{name: cell for name, cell in row.items() if name != SETTING} for row in rows]
    all_notes = [*_notes(runs, table), *notes]
    return Section(title, facts=common, tables=[Table(rows)], notes=all_notes, pictures=pictures)


def _notes(runs: Sequence[Run], table: pd.DataFrame) -> Iterator[str]:
    # by the number of their setting, some of which may not be shown
    settings = table.drop_duplicates(SETTING).set_index(SETTING)["options"]
    names = differing(settings.tolist())
    for number, options in settings.items():
        if names:
            values = (f"{in_words(n)} {value_in_words(options.get(n))}" for n in names)
            yield f"Setting {number}: {', '.join(values)}."
    if any(len(group) > 1 for group in _groups(table)):
        yield SPREAD
    if table["seeds"].str.contains("/").any():
        yield SEEDS
    unscored = [run for run in runs if run.config.score.key not in run.scores]
    left_out = {
        "Not finished, and not in the numbers": [r for r in unscored if not r.is_finished],
        "Finished without a score": [r for r in unscored if r.is_finished],
        "Of the same seeds as another run, and not in the numbers": [
            *table["run"][table["is_repeated"]]
        ],
    }
    for reason, those in left_out.items():
        if those:
            listed = ", ".join(f"{run.folder.uri} ({run.state})" for run in those)
            yield f"{reason}: {listed}."


def _title(title: str, table: pd.DataFrame, panel: pd.DataFrame) -> str:
    """Return the title of a picture of some runs of a table, with what they have in common."""
    place = _place(panel)
    setting = f"setting {place[SETTING]}" if table[SETTING].max() > 1 else ""
    return ", ".join(filter(None, [title, place.get(PROTOCOL), setting]))


def _compare_finetuning(runs: Sequence[Run]) -> Iterator[Section]:
    """Yield accuracy by initial weights, over the share of labels, and over steps."""
    table = run_table(runs)
    if len(table) < 2:
        return
    notes = [SEED_DRAWS_TEST] if table["options"].map(_seed_draws_test).any() else []
    panels = [panel for _, panel in table.groupby([SETTING, PROTOCOL], observed=True)]
    # runs with fewer labels have a table of their own, over the share of labels
    fullest = [panel[panel[LABELS] == panel[LABELS].max()] for panel in panels]
    rows = [row for panel in fullest for each in _groups(panel) for row in _accuracy_rows(each)]
    all_notes = [*notes, *_paper_notes(table)]
    yield _section("Accuracy by initial weights", runs, table, rows, notes=all_notes)
    varied = [panel for panel in panels if panel[LABELS].nunique() > 1]
    if varied:
        shown = pd.concat(varied)
        rows = [_labels_cells(each) for panel in varied for each in _groups(panel)]
        pictures = [_labels_picture(shown, panel) for panel in varied]
        title = "Accuracy over the share of labels (as Fig. 4)"
        yield _section(title, runs, shown, rows, pictures, notes)
    learned = [most for panel in panels if len(most := _most_shared_labels(panel))]
    if learned:
        shown = pd.concat(learned)
        rows = [_learning_cells(each) for panel in learned for each in _groups(panel)]
        pictures = [_learning_picture(shown, panel) for panel in learned]
        title = "Training and test curves by initial weights (as Fig. 6)"
        yield _section(title, runs, shown, rows, pictures, notes)


def _accuracy_rows(group: pd.DataFrame) -> Iterator[Cells]:
    """Yield ours, and below it the paper's number of the same measurement, if there is one."""
    place, run = _place(group), group["run"].iloc[0]
    yield place | _score_cells(group) | _run_cells(group)
    method = group["start"].iloc[0].method
    found = {
        score.label: number
        for score in run.all_scores
        if (number := same_as(run.config, method, score.key))
    }
    if found:
        numbers = {label: f"{number.percent:.1f}%" for label, number in found.items()}
        source = next(iter(found.values())).source
        yield place | {WEIGHTS: f"paper, {method}", **numbers, SOURCE: source}


def _seed_draws_test(options: Mapping[str, Any]) -> bool:
    return bool(options["data.test_share"]) and not options["data.test_uri"]


def _paper_notes(table: pd.DataFrame) -> Iterator[str]:
    """Yield why the paper's numbers are not beside ours on the same data."""
    for number, setting in table.groupby(SETTING):
        config = setting["run"].iloc[0].config
        differ = differences(config, NOT_OF_THE_PROTOCOL | VARIED["finetune"].keys())
        if dataset_of(config.data.uri) and differ:
            which = f", setting {number}" if table[SETTING].nunique() > 1 else ""
            yield f"Not as in the paper{which}: {'; '.join(differ)}."


def _labels_picture(table: pd.DataFrame, panel: pd.DataFrame) -> Picture:
    title = _title("Accuracy over the share of labels", table, panel)
    horizontal = "share of the training videos' labels"
    points = _points(panel, LABELS)
    figure = draw_lines(
        points, _score(panel), title, horizontal, is_share=True, baseline=_baseline(panel)
    )
    return Picture(title, to_png(figure))


def _most_shared_labels(panel: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the largest share of labels that several initial weights have."""
    # curves of one kind of weights alone compare nothing
    kinds = panel.groupby(LABELS)[WEIGHTS].nunique()
    return panel[panel[LABELS] == kinds[kinds > 1].index.max()]


def _learning_picture(table: pd.DataFrame, panel: pd.DataFrame) -> Picture:
    share = f"{100 * panel[LABELS].iloc[0]:g}% of the labels"
    title = _title(f"Training and test, {share}", table, panel)
    logs = {str(g[WEIGHTS].iloc[0]): [run.rows for run in g["run"]] for g in _groups(panel)}
    return Picture(title, to_png(draw_learning(logs, _score(panel), title)))


def _compare_tracking(runs: Sequence[Run]) -> Iterator[Section]:
    """Yield the score over frozen stages, where runs differ in them or in their initial weights."""
    table = run_table(runs)
    if table.empty:
        return
    # a setting of a single point has no curve
    panels = [panel for _, panel in table.groupby(SETTING) if len(_groups(panel)) > 1]
    if not panels:
        return
    shown, score, pictures = pd.concat(panels), _score(table), []
    for panel in panels:
        title = _title("Tracking over frozen stages", shown, panel)
        horizontal = "frozen stages of the encoder"
        points = _points(panel, STAGES)
        figure = draw_lines(points, score, title, horizontal, baseline=_baseline(panel))
        pictures.append(Picture(title, to_png(figure)))
    rows = [_place(g) | _score_cells(g) | _run_cells(g) for panel in panels for g in _groups(panel)]
    title = "Tracking over frozen stages, by initial weights (as Fig. 3)"
    yield _section(title, runs, shown, rows, pictures)
