"""Run sweeps with Ray Tune, which starts trials, restarts failed ones, and stops inferior ones.

A sweep resumes from the folders of its runs, not from Tune's own state: a trial whose result exists
is not run again, the others resume from their newest checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ctp.cluster.build import build_shards
from ctp.cluster.connect import Demand, check_place, cluster, require, resources, run_demands
from ctp.cluster.coordinator import StopSignals
from ctp.cluster.knn import scorer_demand
from ctp.cluster.leaked_placement_groups import remove_leaked_placement_groups
from ctp.cluster.losses import RESTART_ALWAYS
from ctp.cluster.path_visibility import check_lasting
from ctp.cluster.trial import PRETRAIN, error_line, run_trial
from ctp.downstream.embed_config import EmbedScalingConfig
from ctp.encoders.config import RANDOM
from ctp.encoders.initial import with_norm_eps_of
from ctp.lease import hold
from ctp.pretext.pretraining import open_pretraining
from ctp.storage import StorageError
from ctp.sweeps.config import AshaConfig, SweepConfig
from ctp.sweeps.folder import (
    Sweep,
    TrialResult,
    check_sweep,
    result_place,
    state_of,
    steps_of,
    with_stored_base,
    write_config,
    write_result,
)
from ctp.sweeps.plan import Plan
from ctp.sweeps.progress import ProgressPrinter, ShowProgress, SweepProgress, TrialProgress
from ctp.sweeps.table import write_tables
from ctp.training.config import ScalingConfig
from ctp.training.run_folder import with_absolute_weights

TRIAL_MEMORY_BYTES = 2**30
"""Memory that Tune reserves for a trial's own process. It reserves no CPU: the trial's workers and
actors request theirs from Ray."""
CLEAN_SECONDS = 5.0
"""Time between two searches for leaked placement groups."""
UNLIMITED = 10**9
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs have their own logs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C stops a sweep as it stops other jobs
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every log line has a score
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one cannot be silent
}


def run_sweep(config: SweepConfig, show: ShowProgress | None = None) -> Sweep:
    """Run a sweep, or what is left of it, and write its tables; on the cluster that `RAY_ADDRESS`
    names, or on this machine.

    Args:
        config: of the sweep.
        show: called with the progress; None: print lines.

    Returns:
        the sweep at its end; some trials may have failed.

    Raises:
        ValueError: an option or the videos cannot be used, the cluster is too small for a trial, or
            the folder contains another sweep.
        LeaseError: another process runs the sweep.
        StorageError: videos cannot be listed, or the folder cannot be written.
        ConnectionError: the cluster does not answer.
    """
    plan = with_stored_base(Plan.from_config(config))
    check_lasting(config.storage, "storage")
    videos = describe_videos(plan)
    for demands in trial_demands(plan):
        check_place(demands)
    check_sweep(plan)
    print(
        f"sweep {plan.folder.uri}: {len(plan.trials)} trial(s), {len(plan.settings)} row(s) of "
        f"{config.seeds}, scale {config.scale}, scored by {', '.join(plan.score_names)}"
    )
    print("\n".join(videos), flush=True)
    for build in plan.builds:
        build_shards(build)
    with hold(plan.folder, "sweep") as lease:
        check_sweep(plan)  # again: another process may have created it meanwhile
        sweep = state_of(plan)
        if sweep.left:
            with cluster(paths=[plan.folder.uri, *plan.locations()]):
                at_once = fitting_trials(plan)
                write_config(plan)
                print(f"{at_once} trial(s) at the same time", flush=True)
                _run_trials(sweep, at_once, show or ProgressPrinter())
                sweep = state_of(plan)
        else:
            print(f"sweep {plan.folder.uri} is finished: all trials have ended")
        lease.attempt.check()
        write_tables(sweep)
    return sweep


def describe_videos(plan: Plan) -> list[str]:
    """Return a line for each kind of run: how many videos there are.

    Raises:
        ValueError: there are none, too few, or they have no labels; names the option to set. Or
            there are no such initial weights.
        StorageError: they cannot be listed, or initial weights cannot be read.
    """
    configs = [plan.config_of(each) for each in plan.pretrained]
    # first: opening a run reads its weights, too, and their error must not blame the videos
    for config in {config.initial_encoder: config for config in configs}.values():
        weights = with_absolute_weights(config).initial_encoder
        with_norm_eps_of(weights or RANDOM, config.encoder)
    # shards that the sweep builds itself are of the same videos
    found = [plan.config_of(each) for each in plan.pretrained if not each.small_build]
    lines = []
    for config in {config.data: config for config in found}.values():
        with _naming_option("data.uri"):
            train, heldout = open_pretraining(config).catalogs
        lines.append(f"pretraining: {len(train)} videos to train on, {len(heldout)} held out")
    for score in plan.scores:
        with _naming_option(score.data_option):
            num_train, num_test = score.count_videos()
        lines.append(f"{score.name}: {num_train} videos to train on, {num_test} to test on")
    return lines


@contextmanager
def _naming_option(option: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, StorageError) as error:
        kind = StorageError if isinstance(error, StorageError) else ValueError
        raise kind(f"{error}. Name the videos by --set {option}=URI") from error


# ---- resources ----------------------------------------------------------------------------------


def trial_demands(plan: Plan) -> list[list[Demand]]:
    """Return what the phases of trials need, without repetitions."""
    phases = []
    for trial in plan.trials:
        knn = scorer_demand(trial.config)
        own = _scaling_demands(trial.config.scaling)
        phases.append(_as_set("", [*own, *([knn] if trial.config.knn.uri else [])]))
    phases += [
        _as_set(f"{score.prefix}.", _scaling_demands(score.config.scaling)) for score in plan.scores
    ]
    return [list(phase) for phase in dict.fromkeys(map(tuple, phases))]


def _as_set(prefix: str, demands: Sequence[Demand]) -> list[Demand]:
    return [replace(each, options=f"--set {prefix}{each.options}") for each in demands]


def _scaling_demands(scaling: ScalingConfig | EmbedScalingConfig) -> list[Demand]:
    if isinstance(scaling, EmbedScalingConfig):
        option = "scaling.cpus_per_encoder"
        return [Demand("encoder", 1, scaling.cpus_per_encoder, float(scaling.use_gpu), option)]
    if scaling.is_auto:
        raise ValueError(
            "trials share the cluster: set scaling.num_workers and scaling.num_actors to numbers, "
            "not to auto"
        )
    # the most that an elastic run may hold: another trial's actors must not wait for it
    return run_demands(scaling.replace(min_workers=None))


def trials_at_once(
    phases: Sequence[Sequence[Demand]], cpus: float, gpus: float, memory_bytes: float
) -> int:
    """Return how many trials can run at the same time without waiting for each other.

    Args:
        phases: the demands of a trial's phases; a trial holds at most those of the largest phase.
        cpus, gpus, memory_bytes: resources of the cluster.
    """
    # phases follow each other, so the largest counts
    most_cpus = max(sum(each.number * each.cpus for each in phase) for phase in phases)
    most_gpus = max(sum(each.number * each.gpus for each in phase) for phase in phases)
    needed = ((most_cpus, cpus), (most_gpus, gpus), (TRIAL_MEMORY_BYTES, memory_bytes))
    # fractions of cores do not add up exactly
    return min(math.floor(present / each + 1e-9) for each, present in needed if each)


def fitting_trials(plan: Plan) -> int:
    """Return how many trials to run at the same time on the cluster, once it has grown.

    Raises:
        ValueError: not even one fits; says what is missing.
    """
    present = resources()
    cpus, gpus = present["CPU"], present["GPU"]
    phases = trial_demands(plan)
    for phase in phases:
        require(phase, cpus, gpus, "the cluster")
    fitting = trials_at_once(phases, cpus, gpus, present["memory"])
    if not fitting:
        raise ValueError(
            f"a trial needs {TRIAL_MEMORY_BYTES / 2**30:g} GiB of memory besides its workers, and "
            f"the cluster has {present['memory'] / 2**30:.1f} GiB. Use a larger one"
        )
    return min(fitting, plan.config.trials_at_once or fitting)


# ---- Tune ---------------------------------------------------------------------------------------


def _run_trials(sweep: Sweep, at_once: int, show: ShowProgress) -> None:
    """Run all trials that are left, on the cluster that Ray is connected to."""
    plan = sweep.plan
    ended: dict[str, str] = {name: result.status for name, result in sweep.results.items()}
    for name in sweep.with_status("failed"):  # they are tried again
        result_place(plan, name).delete_file()
        del ended[name]
    # trials that have ended report again what the others are compared with
    names = [*(ended if plan.config.asha else []), *sweep.left]
    signals: Any = ray.remote(StopSignals).options(num_cpus=0, **RESTART_ALWAYS).remote()
    os.environ.update(SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table says enough
    function = tune.with_parameters(run_trial, plan=plan, stop_signals=signals)
    tune.Tuner(
        tune.with_resources(function, {"memory": TRIAL_MEMORY_BYTES}),
        param_space={"trial": tune.grid_search(names)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,
            scheduler=_scheduler(plan, signals),
            trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=plan.folder.path,
            storage_filesystem=plan.folder.filesystem,
            failure_config=tune.FailureConfig(max_failures=plan.config.max_failures),
            callbacks=[SweepCallback(plan, SweepProgress(len(plan.trials), ended), show)],
            progress_reporter=tune.CLIReporter(),  # a notebook's own would clear the output
            verbose=0,
        ),
    ).fit()


def _scheduler(plan: Plan, signals: Any) -> TrialScheduler | None:
    def stop(name: str, reason: str) -> None:
        ray.get(signals.stop.remote(name, reason))

    return Asha(plan.config.asha, plan.asha_key, stop) if plan.config.asha else None


class Asha(ASHAScheduler):
    """Asks trials that fall behind to stop, instead of killing them."""

    def __init__(self, config: AshaConfig, metric: str, stop: Callable[[str, str], None]):
        """Create a scheduler that has seen no trial.

        Args:
            config: when trials are compared.
            metric: the metric to compare them by; higher is better.
            stop: called with the name of a trial that should stop, and the reason.
        """
        super().__init__(
            time_attr=config.time,
            metric=metric,
            mode="max",
            max_t=UNLIMITED,  # the length of a trial is that of its run
            grace_period=config.grace,
            reduction_factor=config.reduction,
            stop_last_trials=False,
        )
        self._unit, self._key, self._stop = config.time, metric, stop
        self._behind: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Compare a trial with those that reported the same time before."""
        name = _name_of(trial)
        if name not in self._behind:
            decision = super().on_trial_result(tune_controller, trial, result)
            if decision == TrialScheduler.STOP:
                self._behind.add(name)
                at, value = result[self._unit], result[self._key]
                self._stop(name, f"by ASHA at {self._unit} {at:g}, with {self._key} {value:.3f}")
        return str(TrialScheduler.CONTINUE)


def _name_of(trial: Any) -> str:
    """Return our name of a trial of Tune."""
    return str(trial.config["trial"])


class SweepCallback(tune.Callback):
    """Follows trials in the process that runs the sweep: shows the progress, and writes the tables
    when a trial ends."""

    def __init__(self, plan: Plan, progress: SweepProgress, show: ShowProgress):
        self._plan, self._progress, self._show = plan, progress, show
        self._cleaned = time.monotonic()

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # Tune saves a copy to restore from, which is never used

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Free the resources of actors that died, which other trials would wait for."""
        if time.monotonic() - self._cleaned >= CLEAN_SECONDS:
            remove_leaked_placement_groups()
            self._cleaned = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Show that a trial starts or restarts."""
        self._show_running(_name_of(trial), TrialProgress(PRETRAIN))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        """Show the progress of a trial."""
        if "phase" in result:
            self._show_running(_name_of(trial), TrialProgress(result["phase"], **result["row"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record that a trial has written its result."""
        self._ended(_name_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Write the result of a trial that failed too often."""
        text = Path(trial.error_file).read_text().rpartition("Failure # ")[2]
        self._ended(_name_of(trial), error_line(text.partition("\n")[2]))

    def _show_running(self, name: str, trial: TrialProgress) -> None:
        if name not in self._progress.ended:
            self._progress.running[name] = trial
            self._show(self._progress)

    def _ended(self, name: str, failure: str = "") -> None:
        try:
            if failure:
                steps = steps_of(self._plan.trial(name))
                failed = TrialResult(status="failed", reason=failure, steps=steps)
                write_result(self._plan, name, failed)
            sweep = state_of(self._plan)
            write_tables(sweep)
        except StorageError as error:
            print(f"the result of {name} cannot be written or read yet: {error}", flush=True)
            return
        self._progress.running.pop(name, None)
        self._progress.ended[name] = sweep.results[name].status
        self._show(self._progress)
