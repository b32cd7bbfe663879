"""Rules of a RayJob: what the job itself accepts, and what its cluster can hold."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path

import yaml

from checks.cluster import STOP_VARIABLE, Rule
from checks.manifest import GPU, PROJECT, Ray
from ctp.build.config import BuildConfig
from ctp.cli import CommandLine
from ctp.cluster.connect import Demand, require, run_demands
from ctp.cluster.extract import demands as embed_demands
from ctp.cluster.sweep import trial_demands
from ctp.config import Config
from ctp.curation.config import CurateConfig
from ctp.downstream.embed_config import EmbedConfig
from ctp.sweeps.config import SweepConfig
from ctp.sweeps.plan import Plan
from ctp.training.config import RunConfig
from ctp.training.run_folder import Uris, input_locations

OUT = "out"
"""The option with the folder of the results of a job without a run folder."""
SHELL_CHARACTERS = re.compile(r"[\n;&|<>$`'\"\\(){}*?#!~]")
"""What the entrypoint may not contain: the submitter's shell reads it before the head's."""
OBJECT_STORE = re.compile(r"(s3|gs)://")
REMOTE = re.compile(r"(s3|gs|https?)://|databricks")
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MAX_KUEUE_GROUPS = 7


def deadlines_are_in_order(job: Ray) -> Iterator[str]:
    """Check the deadlines: the time to start is part of the time of an attempt."""
    start, whole = job.job["preRunningDeadlineSeconds"], job.job["activeDeadlineSeconds"]
    if start >= whole:
        yield f"preRunningDeadlineSeconds {start} must be less than activeDeadlineSeconds {whole}"


def runs(job: Ray) -> Iterator[str]:
    """Check that the job accepts the entrypoint, can be retried, and fits its cluster."""
    config = config_of(job.job["entrypoint"])
    yield from _is_kept(job, config)
    match config:
        case SweepConfig():
            yield from _sweeps(job, config)
        case RunConfig():
            yield from _saves_in_time(job, config)
            yield from _reads_from_object_store(input_locations(config))
            # all workers fit the largest cluster, and the fewest that at the start
            largest = config.scaling.replace(min_workers=None)
            yield from _fits(job, "maxReplicas", run_demands(largest))
            yield from _fits(job, "replicas", run_demands(config.scaling))
        case EmbedConfig():
            yield from _reads_from_object_store([config.data.uri])
            yield from _fits(job, "maxReplicas", embed_demands(config.scaling))
        case BuildConfig() | CurateConfig():
            yield from _reads_from_object_store([config.source])


@lru_cache
def config_of(entrypoint: str) -> Config:
    """Return the config of an entrypoint, by the job's own `--print-config`.

    Raises:
        ValueError: a shell would change it, there is no such job, or it refuses an option.
    """
    found = SHELL_CHARACTERS.search(entrypoint)
    if found:
        raise ValueError(f"{found.group()!r} means something to a shell; use `>-`, plain words")
    words = entrypoint.split()
    if words[:1] != ["python"] or not (PROJECT / words[1]).is_file():
        raise ValueError(f"{' '.join(words[:2])!r} is no job; expected python jobs/NAME.py")
    job = importlib.import_module(f"ctp.commands.{Path(words[1]).stem}")
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            job.main([*words[2:], "--print-config"])
        except SystemExit as error:
            if error.code:
                raise ValueError(errors.getvalue().splitlines()[0]) from error
    command: CommandLine[Config] = job.COMMAND
    return type(command.recipes[command.default]()).model_validate(
        yaml.safe_load(output.getvalue())
    )


def _sweeps(job: Ray, config: SweepConfig) -> Iterator[str]:
    """Check that all trials can be planned, and that one fits; the sweep computes how many do."""
    try:
        plan = Plan.from_config(config.replace(storage="/"))  # an object store would be asked
    except ValueError as error:
        yield str(error)
        return
    yield from _reads_from_object_store(plan.locations())
    for phase in trial_demands(plan):
        yield from _fits(job, "maxReplicas", phase)


def _reads_from_object_store(locations: Iterable[Uris]) -> Iterator[str]:
    """Check that videos are where every node sees them: nothing is mounted."""
    several = [(uri,) if isinstance(uri, str) else uri for uri in locations]
    for uri in dict.fromkeys(uri for each in several for uri in each):
        if uri and not OBJECT_STORE.match(uri) and not uri.startswith("corpus:"):
            yield f"videos of {uri}: expected s3://… or gs://…; no pod has that folder"


def _is_kept(job: Ray, config: Config) -> Iterator[str]:
    """Check that the results are where all clusters are, and that a retry resumes by their name."""
    # a folder of features or shards is named by itself
    if job.job.get("backoffLimit") and not getattr(config, "name", getattr(config, OUT, "")):
        yield "backoffLimit without --name: a retry would start from the beginning"
    for name in ("storage", OUT, "mlflow_uri"):
        uri = getattr(config, name, "")
        if uri and not REMOTE.match(uri):
            yield f"--{name} {uri}: expected a URI like s3://…; a pod's disk goes with the pod"


def _saves_in_time(job: Ray, config: RunConfig) -> Iterator[str]:
    """Check the time to save: Ray kills a job that is stopped after some seconds, by default 3."""
    needed = config.checkpoint.grace_seconds
    wait = float(job.head.environment[STOP_VARIABLE]["value"])
    if needed >= wait:
        yield f"--checkpoint.grace_seconds {needed:g}: {STOP_VARIABLE} of the head is {wait:g}"


def _fits(job: Ray, replicas: str, demands: Sequence[Demand]) -> Iterator[str]:
    """Check that processes fit the nodes in the field `replicas` of the groups."""
    cpus, gpus = (
        sum(pod.resource(name) * pod.group[replicas] for pod in job.workers)
        for name in ("cpu", GPU)
    )
    try:
        require(demands, cpus, gpus, f"the cluster of {replicas}")
    except ValueError as error:
        yield str(error)


def suits_kueue(job: Ray) -> Iterator[str]:
    """Check what Kueue's own webhook refuses."""
    if QUEUE_LABEL not in job.document["metadata"].get("labels", {}):
        return
    if job.job.get("clusterSelector"):
        yield "Kueue starts no job on an existing cluster: leave clusterSelector out"
    if job.cluster.get("enableInTreeAutoscaling"):
        yield "Kueue accepts no cluster with an autoscaler: set enableInTreeAutoscaling false"
    if len(job.workers) > MAX_KUEUE_GROUPS:
        yield f"{len(job.workers)} groups of workers; Kueue takes {MAX_KUEUE_GROUPS}"
    if any(pod.name == "head" for pod in job.workers):
        yield "a group of workers is called head; Kueue has that name for the head"


JOB_RULES: tuple[Rule, ...] = (deadlines_are_in_order, runs, suits_kueue)
