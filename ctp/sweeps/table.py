"""The result of a sweep as a table in the paper's layout, and as a row for each trial."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ctp import recipes
from ctp.downstream.config import FinetuneConfig
from ctp.report.compared import SPREAD, Cells, table_of
from ctp.report.groups import Mean
from ctp.report.page import SOURCE, Section, Table, markdown_of, to_markdown
from ctp.report.papers import DATASETS, differences
from ctp.report.published import PUBLISHED
from ctp.report.single import facts_of
from ctp.sweeps.folder import PLOT, Sweep
from ctp.sweeps.plan import Cell, Plan
from ctp.sweeps.scores import IOU, PAPERS_DATASETS, Score

NUMBER_OF = {
    # kind of score -> number, its heading, what is beside it in brackets, and the heading of that
    IOU: ("iou", "held-out IoU", "still_iou", "still"),
    "retrieval": ("top1", "retrieval top-1 %", "chance1", "chance"),
    "linear": ("top1", "linear top-1 %", "", ""),
    "finetune": ("top1", "fine-tuned top-1 %", "", ""),
    "tracking": ("iou", "tracking mIoU", "still_iou", "still"),
}
OWN_GAME = (
    "Held-out IoU is that of each row's own game. Where rows change the game, compare what they "
    "add to a box that stays still, in brackets."
)
NOT_IN_THE_MEANS = "Trials that have not finished are in no mean."


@dataclass(frozen=True)
class Measure:
    """A number that rows are compared by.

    Attributes:
        key: its name among the scores of a trial.
        heading: what it is.
        baseline: name of what stands in brackets beside it; empty for nothing.
        in_percent: whether a share is told as such.
    """

    key: str
    heading: str
    baseline: str
    in_percent: bool

    def of(self, sweep: Sweep, cell: Cell) -> Mean | None:
        """Mean and spread over the finished trials of a row; None if there is none."""
        values = sweep.values(cell, self.key)
        return Mean.of(values) if values else None

    def written(self, sweep: Sweep, cell: Cell) -> str:
        """The same, to be read."""
        mean, digits, scale = self.of(sweep, cell), *((1, 100) if self.in_percent else (3, 1))
        if mean is None:
            return ""
        beside = sweep.values(cell, self.baseline)
        brackets = f" ({Mean.of(beside).value * scale:.{digits}f})" if beside else ""
        return mean.written(digits, scale) + brackets


def measures(plan: Plan) -> list[Measure]:
    """What the rows of a sweep are compared by."""
    return [_measure(score) for score in plan.scores]


def paper_percent(cell: Cell, dataset: str) -> float | None:
    """The paper's top-1 accuracy in % of a row, if it has the row."""
    return next(
        (
            number.percent
            for number in PUBLISHED
            if (number.source, number.method) == (cell.row.source, cell.row.name)
            and (number.dataset, number.measure) == (dataset, "top1")
        ),
        None,
    )


def paper_heading(dataset: str) -> str:
    """What the paper's numbers on a data set are."""
    return f"paper: {DATASETS[dataset]} top-1 %"


def table_markdown(sweep: Sweep) -> str:
    """Rows, mean and spread over seeds, the paper's numbers beside; then what did not finish, at
    what scale all was run, and what is not as in the paper."""
    plan = sweep.plan
    plot = f"![{plan.ablation.about}]({PLOT})"
    return _markdown(sweep, [plot, *_notes(sweep)], list(_differences(plan)))


def result_markdown(sweep: Sweep) -> str:
    """`table_markdown` for where it is looked at at once: without the plot, and without what is not
    as in the paper."""
    return _markdown(sweep, list(_notes(sweep)), None)


def rows_markdown(sweep: Sweep) -> str:
    """The rows of `table_markdown` and no more."""
    return markdown_of(_rows(sweep))


def _markdown(sweep: Sweep, notes: Sequence[str], differences: Sequence[str] | None) -> str:
    plan = sweep.plan
    section = Section(
        title=f"{plan.ablation.about} (scale {plan.config.scale})",
        uri=plan.folder.uri,
        state=told(sweep),
        facts={"scale": plan.config.scale, **_facts(plan), **_steps(sweep)},
        tables=[_rows(sweep), _others(sweep)],
        notes=notes,
        differences=differences,
    )
    text, _ = to_markdown(f"Sweep {plan.config.name}", [section])
    return text


def table_csv(sweep: Sweep) -> str:
    """A row for each trial: what it is, what it came to, and where it lies."""
    plan, found = sweep.plan, sweep.results
    fields = list(dict.fromkeys(name for cell in plan.cells for name in cell.changes))
    scores = list(dict.fromkeys(name for result in found.values() for name in result.scores))
    rest = ("steps", "seconds", "reason", "folder")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "row", "seed", "status", *fields, *scores, *rest])
    for trial in plan.trials:
        result, changes = found.get(trial.name), trial.cell.changes
        values = [result.scores.get(name, "") if result else "" for name in scores]
        steps = result.steps if result else sweep.steps[trial.name]
        ended = (round(result.seconds, 1), result.reason) if result else ("", "")
        writer.writerow(
            [trial.name, trial.cell.name, trial.seed, sweep.status(trial)]
            + [changes.get(name, "") for name in fields]
            + [*values, steps, *ended, f"{trial.pretrain.storage}/{trial.name}"]
        )
    return text.getvalue()


def told(sweep: Sweep) -> str:
    """How many trials there are, and how far they are."""
    counts = Counter(map(sweep.status, sweep.plan.trials))
    return f"{len(sweep.plan.trials)} trials: " + ", ".join(f"{n} {s}" for s, n in counts.items())


def _measure(score: Score) -> Measure:
    number, heading, beside, told_beside = NUMBER_OF[score.kind]
    where = f", {DATASETS[score.dataset]}" if score.dataset else ""
    prefix = "" if score.kind == IOU else f"{score.name}."
    return Measure(
        key=f"{prefix}{number}",
        heading=f"{heading}{where}" + (f" ({told_beside})" if beside else ""),
        baseline=f"{prefix}{beside}" if beside else "",
        in_percent=number == "top1",
    )


def _rows(sweep: Sweep) -> Table:
    shown = measures(sweep.plan)
    papers = [paper_heading(dataset) for dataset in PAPERS_DATASETS]
    lines = [({"": cell.name, **_cells(sweep, cell)}, True) for cell in sweep.plan.cells]
    return table_of(lines, [measure.heading for measure in shown] + papers)


def _cells(sweep: Sweep, cell: Cell) -> Cells:
    counts = Counter(each.status for each in sweep.of_cell(cell))
    others = [f"{counts[status]} {status}" for status in ("stopped", "failed") if counts[status]]
    percents = {dataset: paper_percent(cell, dataset) for dataset in PAPERS_DATASETS}
    return {
        "runs": ", ".join([str(counts["finished"]), *others]),
        **{each.heading: each.written(sweep, cell) for each in measures(sweep.plan)},
        **{paper_heading(d): f"{p:.1f}" for d, p in percents.items() if p is not None},
        SOURCE: cell.row.source if any(percents.values()) else "",
    }


def _others(sweep: Sweep) -> Table:
    """Trials that are not in the means, and why."""
    lines = []
    for trial in sweep.plan.trials:
        result, status = sweep.results.get(trial.name), sweep.status(trial)
        if status != "finished":
            steps = result.steps if result else sweep.steps[trial.name]
            reason = result.reason if result else ""
            lines.append(
                ({"trial": trial.name, "": status, "steps": str(steps), "why": reason}, True)
            )
    return table_of(lines, ["steps"])


def _facts(plan: Plan) -> Cells:
    """What the runs were made with; where rows differ in it, each value."""
    rows = [facts_of(trial.pretrain) for trial in plan.trials if trial.seed == 0]
    return {name: "; ".join(dict.fromkeys(row[name] for row in rows)) for name in rows[0]}


def _steps(sweep: Sweep) -> Cells:
    steps = sorted({each.steps for each in sweep.results.values() if each.status == "finished"})
    if not steps:
        return {}
    return {"steps of pretraining": " to ".join(map(str, dict.fromkeys((steps[0], steps[-1]))))}


def _notes(sweep: Sweep) -> Iterator[str]:
    plan = sweep.plan
    if plan.config.seeds > 1:
        yield SPREAD
    if plan.ablation.note:
        yield plan.ablation.note
    if any(score.kind == IOU for score in plan.scores):
        yield OWN_GAME
    if len(sweep.ended("finished")) < len(plan.trials):
        yield NOT_IN_THE_MEANS
    if any(cell.row.source for cell in plan.cells):
        yield (
            f"The paper's numbers are of encoders pretrained on {plan.ablation.paper_data} and "
            f"fine-tuned whole. Ours are at scale {plan.config.scale}"
            + (
                ", on other videos: compare rows with each other, not with the paper's."
                if plan.config.scale != "paper"
                else "."
            )
        )


def _differences(plan: Plan) -> Iterator[str]:
    """What is not as in the paper, other than what rows are about."""
    own = frozenset(plan.ablation.fixed) | {name for cell in plan.cells for name in cell.changes}
    paper = recipes.PRETRAIN[plan.ablation.paper_recipe]()
    for line in differences(plan.base, own, paper) or []:
        yield f"pretraining: {line}"
    for score in plan.scores:
        if isinstance(score.config, FinetuneConfig):
            arch = {"arch": plan.base.encoder.arch}
            for line in differences(score.config.replace(encoder=arch)) or []:
                yield f"{score.name}: {line}"
