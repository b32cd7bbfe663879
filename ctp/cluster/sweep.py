"""Sweeps by Ray Tune: it starts trials, starts failed ones again, and stops those that fall behind.

What makes a sweep go on is not Tune's own state but the folders of its runs: a trial whose result
is there is not run again, others go on from their newest checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ctp.cluster.board import Desk
from ctp.cluster.connect import (
    DATA_PLUMBING_CPUS,
    Demand,
    check_place,
    cluster,
    require,
    resources,
    run_demands,
)
from ctp.cluster.orphans import free_orphans
from ctp.cluster.places import check_lasting
from ctp.cluster.train import FOR_EVER
from ctp.cluster.trial import PRETRAIN, line_of, run_trial
from ctp.storage import StorageError
from ctp.sweeps.check import check_videos, places_of
from ctp.sweeps.config import AshaConfig
from ctp.sweeps.folder import (
    Sweep,
    TrialResult,
    check_sweep,
    claim_sweep,
    result_place,
    state_of,
    steps_of,
    write_result,
)
from ctp.sweeps.plan import Plan, Trial
from ctp.sweeps.scores import PREFIXES, RetrievalConfig, ScoreConfig
from ctp.sweeps.standing import Running, Show, Standing
from ctp.sweeps.tell import write_tables
from ctp.training.claim import run_storage
from ctp.training.config import ScalingConfig

TRIAL_MEMORY_BYTES = 2**30
"""What Tune accounts for a trial's own process. No CPU: those are for its workers and actors, of
which Tune knows nothing."""
FREE_SECONDS = 5.0
NEVER = 10**9
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs log for themselves
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a sweep as it ends all else
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every log line has a score
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one cannot be silent
}


def sweep_here(plan: Plan, show: Show) -> Sweep:
    """Check a sweep, claim its folder, run what is left of it, and write its tables; on the
    cluster that `RAY_ADDRESS` names, or on this machine.

    Args:
        plan: what to try.
        show: is told how it stands.

    Returns:
        The sweep at its end; some trials may have failed.

    Raises:
        ValueError: videos do not do, there is too little for a trial, or the folder is that of
            another sweep.
        StorageError: videos cannot be listed, or the folder not be written.
    """
    check_lasting(plan.config.storage, "storage")
    told = check_videos(plan)
    for demands in sweep_demands(plan):
        check_place(demands)
    check_sweep(plan)
    print(
        f"sweep {plan.folder.uri}: {len(plan.trials)} trial(s), {len(plan.cells)} rows of "
        f"{plan.config.seeds}, scale {plan.config.scale}, scored by "
        f"{', '.join(score.name for score in plan.scores)}"
    )
    print("\n".join(told), flush=True)
    sweep = state_of(plan)
    if sweep.left:
        with cluster(places=[plan.folder.uri, *places_of(plan)]):
            at_once = fitting_trials(plan)
            claim_sweep(plan)
            print(f"{at_once} trial(s) at the same time", flush=True)
            sweep = run_sweep(plan, at_once, show)
    write_tables(sweep)
    return sweep


def sweep_demands(plan: Plan) -> list[list[Demand]]:
    """What each phase of a trial needs, one list for each that may come up."""
    phases = []
    for trial in plan.trials:
        config = trial.pretrain
        knn = Demand("kNN scorer", 1, config.knn.cpus, config.knn.gpus, "knn.cpus or knn.gpus")
        phases.append(_by_set("", [*_most(config.scaling), *([knn] if config.knn.uri else [])]))
    for score in plan.scores:
        if score.config is not None:
            phases.append(_by_set(f"{PREFIXES[score.kind]}.", _score_demands(score.config)))
    return [list(phase) for phase in dict.fromkeys(map(tuple, phases))]  # most trials are alike


def _by_set(prefix: str, demands: Sequence[Demand]) -> list[Demand]:
    """The same, whose options are given by --set."""
    return [replace(each, options=f"--set {prefix}{each.options}") for each in demands]


def _score_demands(config: ScoreConfig) -> list[Demand]:
    if not isinstance(config, RetrievalConfig):
        return _most(config.scaling)
    scaling, gpus = config.scaling, float(config.scaling.use_gpu)
    return [Demand("encoder", 1, scaling.cpus_per_encoder, gpus, "scaling.cpus_per_encoder")]


def _most(scaling: ScalingConfig) -> list[Demand]:
    """What an elastic run may come to hold: another trial's actors must not wait for it."""
    return run_demands(scaling.replace(min_workers=None))


def trials_at_once(
    phases: Sequence[Sequence[Demand]], cpus: float, gpus: float, memory_bytes: float
) -> int:
    """How many trials can run at the same time, none waiting for what another one holds.

    Args:
        phases: of a trial; it needs no more than the largest asks for.
        cpus, gpus, memory_bytes: what there is, besides what Ray Data's small tasks take.
    """
    most_cpus = max(sum(each.number * each.cpus for each in phase) for phase in phases)
    most_gpus = max(sum(each.number * each.gpus for each in phase) for phase in phases)
    needed = ((most_cpus, cpus), (most_gpus, gpus), (TRIAL_MEMORY_BYTES, memory_bytes))
    return min(math.floor(there / each + 1e-9) for each, there in needed if each)


def fitting_trials(plan: Plan) -> int:
    """How many trials of a sweep the cluster takes at the same time, once it has grown.

    Raises:
        ValueError: not even one; says what is missing.
    """
    there = resources()
    cpus, gpus = there["CPU"] - DATA_PLUMBING_CPUS, there["GPU"]
    phases = sweep_demands(plan)
    for phase in phases:
        require(phase, cpus, gpus, "the cluster")
    fitting = trials_at_once(phases, cpus, gpus, there["memory"])
    if not fitting:
        raise ValueError(
            f"a trial takes {TRIAL_MEMORY_BYTES / 2**30:g} GiB of memory, besides its workers, and "
            f"the cluster has {there['memory'] / 2**30:.1f} GiB to give. Use a larger one"
        )
    return min(fitting, plan.config.trials_at_once or fitting)


def run_sweep(plan: Plan, at_once: int, show: Show) -> Sweep:
    """Run all trials that have no result yet, on the cluster that is joined.

    Args:
        plan: whose folder `claim_sweep` has claimed, and of which trials are left.
        at_once: trials at the same time, as of `fitting_trials`.
        show: is told how it stands.

    Returns:
        The sweep at its end; some trials may have failed.

    Raises:
        StorageError: the sweep's folder cannot be read or written.
    """
    sweep = state_of(plan)
    lasting = [trial.name for trial in plan.trials if trial.name not in sweep.left]
    for name in sweep.ended("failed"):
        result_place(plan, name).delete_file()  # it is tried again
    # finished ones first, to be compared with
    names = [*(lasting if plan.config.asha else []), *sweep.left]
    standing = Standing(len(plan.trials), {name: sweep.results[name].status for name in lasting})
    desk: Any = ray.remote(Desk).options(num_cpus=0, **FOR_EVER).remote()
    watch = Watch(plan, standing, show)
    _tune(plan, names, at_once, watch, desk)
    return state_of(plan)


def _tune(plan: Plan, names: list[str], at_once: int, watch: Watch, desk: Any) -> None:
    os.environ.update(SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table says it all
    asha = plan.config.asha
    function = tune.with_parameters(run_trial, plan=plan, desk=desk)
    tuner = tune.Tuner(
        tune.with_resources(function, {"memory": TRIAL_MEMORY_BYTES}),
        param_space={"trial": tune.grid_search(names)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,
            scheduler=Asha(asha, partial(_tell_to_stop, desk)) if asha else None,
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=plan.folder.path,
            storage_filesystem=plan.folder.filesystem,
            failure_config=tune.FailureConfig(max_failures=plan.config.max_failures),
            callbacks=[watch],
            progress_reporter=tune.CLIReporter(),  # a notebook's own would clear what is there
            verbose=0,
        ),
    )
    tuner.fit()


class Asha(ASHAScheduler):
    """Finds the trials that fall behind; it lets them be told to stop, rather than kill them."""

    def __init__(self, config: AshaConfig, stop: Callable[[str, str], None]):
        """No trial has been compared yet.

        Args:
            config: what they are compared by.
            stop: is told the name of a trial that is to stop, and why.
        """
        super().__init__(
            time_attr=config.time,
            metric=config.metric,
            mode="max",
            max_t=NEVER,  # a trial ends by itself
            grace_period=config.grace,
            reduction_factor=config.reduction,
            stop_last_trials=False,
        )
        self._config, self._stop = config, stop
        self._behind: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Compare a trial with those that told of as much time before."""
        name = _name_of(trial)
        is_behind = (
            name not in self._behind
            and super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP
        )
        if is_behind:
            self._behind.add(name)
            unit, metric = self._config.time, self._config.metric
            at, value = result[unit], result[metric]
            self._stop(name, f"by ASHA at {unit} {at:g}, with {metric} {value:.3f}")
        return str(TrialScheduler.CONTINUE)


def _tell_to_stop(desk: Any, name: str, reason: str) -> None:
    ray.get(desk.stop.remote(name, reason))


def _name_of(trial: Any) -> str:
    """The name of a trial of Tune."""
    return str(trial.config["trial"])


class Watch(tune.Callback):
    """Sees trials begin and end, in the process that runs the sweep: says how it stands, and
    writes the tables again after each."""

    def __init__(self, plan: Plan, standing: Standing, show: Show):
        self._plan, self._standing, self._show = plan, standing, show
        self._freed = time.monotonic()

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # Tune keeps a copy to restore from, and nobody does

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Now and then: no trial is to wait for what one whose process died had taken."""
        if time.monotonic() - self._freed >= FREE_SECONDS:
            free_orphans()
            self._freed = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial begins, or begins again."""
        self._runs(trial, Running(PRETRAIN))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """A trial tells how far it is."""
        if "phase" in result:
            self._runs(trial, Running.of(result["phase"], result["shown"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial has left its result."""
        self._ended(_name_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial has failed too often."""
        name = _name_of(trial)
        text = Path(trial.error_file).read_text().rpartition("Failure # ")[2]
        self._ended(name, line_of(text.partition("\n")[2]))

    def _runs(self, trial: Any, running: Running) -> None:
        name = _name_of(trial)
        if name not in self._standing.ended:
            self._standing.running[name] = running
            self._show(self._standing)

    def _ended(self, name: str, failure: str = "") -> None:
        """Write what came of a trial, if it could not do so itself, and tell of it."""
        try:
            if failure:
                write_result(self._plan, name, _failed(self._plan.trial(name), failure))
            sweep = state_of(self._plan)
            write_tables(sweep)
        except StorageError as error:
            print(f"what came of {name} cannot be told yet: {error}", flush=True)
            return
        self._standing.running.pop(name, None)
        self._standing.ended[name] = sweep.results[name].status
        self._show(self._standing)


def _failed(trial: Trial, reason: str) -> TrialResult:
    folders = {PRETRAIN: run_storage(trial.pretrain).uri}
    return TrialResult(status="failed", reason=reason, steps=steps_of(trial), folders=folders)
