"""The result of a sweep: a table in the paper's layout, and a row for each trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ctp.report.compare import format_mean
from ctp.report.page import SOURCE, Section, Table, to_markdown
from ctp.report.papers import differences
from ctp.score import ERROR, Score
from ctp.sweeps.folder import Sweep
from ctp.sweeps.plan import Plan, paper_run
from ctp.sweeps.plot import plot_png
from ctp.sweeps.recipes import Setting
from ctp.sweeps.scores import heading

TABLE, ROWS, PLOT = "table.md", "table.csv", "plot.png"
OWN_TASK = (
    "The held-out score is that of each row's own task. Where rows change the task, compare their "
    "gain over the baseline in brackets."
)
SPREAD = "± is the sample standard deviation over runs that differ by their seeds alone."
OF_SEEDS = "With several seeds (--seeds) it is the deviation over them."
NOT_IN_THE_MEANS = "Trials that have not finished are not in the means."


def write_tables(sweep: Sweep) -> None:
    """Write table.md, table.csv and plot.png into the sweep's folder.

    Raises:
        StorageError: they cannot be written.
    """
    folder = sweep.plan.folder
    folder.join(TABLE).write_bytes(table_markdown(sweep).encode())
    folder.join(ROWS).write_bytes(sweep.trials.to_csv(index=False).encode())
    folder.join(PLOT).write_bytes(plot_png(sweep))


def table_markdown(sweep: Sweep) -> str:
    """Return `result_markdown` with the plot and the differences from the paper's runs."""
    plot = f"![{sweep.plan.ablation.about}]({PLOT})"
    return _markdown(sweep, [*_notes(sweep), plot], list(_differences(sweep.plan)))


def result_markdown(sweep: Sweep) -> str:
    """Return means over seeds beside the paper's numbers, the trials that are not in the means, and
    what was run."""
    return _markdown(sweep, list(_notes(sweep)), None)


def rows_markdown(sweep: Sweep) -> str:
    """Return the table alone: a row for each setting."""
    return _rows(sweep).markdown()


def _markdown(sweep: Sweep, notes: list[str], different: list[str] | None) -> str:
    plan = sweep.plan
    section = Section(
        title=f"{plan.ablation.about} (scale {plan.config.scale})",
        uri=plan.folder.uri,
        state=summary(sweep),
        facts={"scale": plan.config.scale, **_facts(plan)},
        tables=[_rows(sweep), _unfinished(sweep)],
        notes=notes,
        differences=different,
    )
    return to_markdown(f"Sweep {plan.config.name}", [section])


def summary(sweep: Sweep) -> str:
    """Return e.g. "4 trials: 3 finished, 1 to come"."""
    counts = Counter(map(sweep.status, sweep.plan.trials))
    texts = ", ".join(f"{number} {status}" for status, number in counts.items())
    return f"{len(sweep.plan.trials)} trials: {texts}"


def _rows(sweep: Sweep) -> Table:
    return Table([_row(sweep, setting) for setting in sweep.plan.settings])


def _row(sweep: Sweep, setting: Setting) -> dict[str, str]:
    trials = [trial for trial in sweep.plan.trials if trial.setting == setting]
    counts = Counter(map(sweep.status, trials))
    ended = [f"{counts[status]} {status}" for status in ("stopped", "failed") if counts[status]]
    percents = {
        f"paper: {name}": setting.paper_percent(*column)
        for name, column in sweep.plan.ablation.columns.items()
    }
    return {
        "": setting.name,
        "runs": ", ".join([str(counts["finished"]), *ended]),
        **{heading(score): _mean(sweep, setting, score) for score in sweep.plan.measures},
        **{name: "" if value is None else f"{value:.1f}%" for name, value in percents.items()},
        SOURCE: setting.source if any(percents.values()) else "",
    }


def _mean(sweep: Sweep, setting: Setting, score: Score) -> str:
    """Return e.g. "0.600 ± 0.100 (0.400)": mean, standard deviation and baseline; of a single trial
    its score with its error."""
    own = sweep.plan.score_of(setting, score)
    found = sweep.scores(setting, own)
    if not found:
        return ""
    baseline = sweep.values(setting, own.baseline_key)
    values = sweep.values(setting, own.key)
    text = own.describe_value(found[0]) if len(found) == 1 else format_mean(values, own)
    if not baseline.empty:
        text += f" ({own.format(baseline.mean())})"
    return text if score.key else f"{own.label} {text}"


def _unfinished(sweep: Sweep) -> Table:
    trials = sweep.trials[sweep.trials["status"] != "finished"]
    columns = trials[["trial", "status", "steps", "reason"]].astype(str)
    return Table(columns.to_dict("records"))


def _facts(plan: Plan) -> dict[str, str]:
    """Return what was run; where settings differ, each value."""
    # the facts do not depend on the seed
    rows = [plan.config_of(setting).describe() for setting in plan.pretrained]
    names = dict.fromkeys(name for row in rows for name in row)
    return {n: "; ".join(dict.fromkeys(row[n] for row in rows if n in row)) for n in names}


def _notes(sweep: Sweep) -> Iterator[str]:
    plan = sweep.plan
    counts = [f"{m.label or 'held-out score'} {n}" for m in plan.measures if (n := sweep.count(m))]
    if counts:
        yield f"Numbers are means: {', '.join(counts)}."
    yield SPREAD if plan.config.seeds > 1 else f"{ERROR}. {OF_SEEDS}"
    if plan.ablation.note:
        yield plan.ablation.note
    if plan.task_score:
        yield OWN_TASK
    for name, result in sweep.results.items():
        if result.warning and result.status == "finished":
            yield f"{name}: {result.warning}"
    if len(sweep.with_status("finished")) < len(plan.trials):
        yield NOT_IN_THE_MEANS
    if any(setting.source for setting in plan.settings):
        other = ", on other videos: compare rows with each other, not with the paper's"
        is_retrieval = plan.ablation.scores == ("retrieval",)
        yield (
            f"The paper's numbers are of encoders pretrained on {plan.ablation.paper_data} and "
            f"{'not fine-tuned' if is_retrieval else 'fine-tuned as a whole'}. Ours are at scale "
            f"{plan.config.scale}"
            f"{'' if plan.config.scale == 'paper' else other}."
        )


def _differences(plan: Plan) -> Iterator[str]:
    """Yield how the runs differ from the paper's, apart from what --grid varies."""
    rows_by_line: dict[str, list[str]] = {}
    for setting in plan.pretrained:
        paper = paper_run(plan.ablation, setting)
        for line in differences(plan.config_of(setting), plan.grid_names, paper) or []:
            rows_by_line.setdefault(line, []).append(setting.name)
    for line, names in rows_by_line.items():
        of_some = "" if len(names) == len(plan.pretrained) else f" of {', '.join(names)}"
        yield f"pretraining{of_some}: {line}"
    for score in plan.scores:
        if score.kind in ("finetune", "linear", "attentive"):
            # the config of a score names no encoder: it takes that of each trial, at the stride of
            # fine-tuning
            config = score.config.replace(encoder=plan.base.encoder.replace(spatial_stride=16))
            for line in differences(config) or []:
                yield f"{score.name}: {line}"
