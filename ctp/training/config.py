"""The base of the configs of all training runs, and their common sections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import (
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from ctp.config import Config, Difference, NotAnOption, differences
from ctp.data.sources import Sources
from ctp.score import Score
from ctp.training.schedule import ScheduleConfig
from ctp.video.config import ClipFormat, MaxMegapixels
from ctp.video.limits import DEFAULT_MAX_MEGAPIXELS

HEADER = ("kind", "format_version", "written_by", "score")
"""Entries of a run folder's config.yaml besides options: the kind of the run and its score, see
`RunConfig`, and the versions that wrote it, see `ctp.versions`."""

FRACTIONS = 10_000
"""Ray reserves CPUs and GPUs in parts of this size."""
DECODING_GPU_SHARE = 0.375
"""Share of a worker's GPU that Ray reserves for its actors if they decode on it: less than half, so
that no two workers have one GPU."""
AUTO: Literal["auto"] = "auto"


def _in_one_line(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    # pydantic reports an error for each member of a union
    try:
        return validate(value)
    except ValidationError as error:
        raise ValueError("expected a whole number of at least 1, or auto") from error


AutoNumber = Annotated[Annotated[int, Ge(1)] | Literal["auto"], WrapValidator(_in_one_line)]
"""A number; auto: chosen from the machine or cluster when the job starts."""


class ComputeConfig(Config):
    """How a step computes."""

    total_batch: AutoNumber = 32
    """Samples in a step of all workers together; independent of their number (§5.1). auto: as many
    as fit into the memory of the GPUs, in powers of two for each; the learning rate stays."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """fp32; TensorFloat-32 matrix products; or bfloat16 autocast with fp32 weights."""
    compile: bool = False
    """Compile the model with torch.compile."""

    @property
    def batch(self) -> int:
        """Return `total_batch`.

        Raises:
            ValueError: it is not chosen yet.
        """
        if self.total_batch == AUTO:
            raise ValueError("compute.total_batch auto is for pretraining jobs; give a number here")
        return self.total_batch

    def usable_workers(self, present: int) -> int:
        """Return how many of the workers present can share a batch equally."""
        # 1 divides every batch, so there is always one
        return next(n for n in range(present, 0, -1) if self.batch % n == 0)


class OptimizerConfig(Config):
    """The optimiser. The defaults are the paper's (§5.1)."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum 0.9, or AdamW."""
    learning_rate: Annotated[float, Gt(0)] = 0.01
    """Learning rate after warm-up."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """Weight decay of every parameter."""


class CheckpointConfig(Config):
    """When a run saves its state."""

    every_minutes: Annotated[float, Gt(0)] = 10.0
    """Minutes between two checkpoints; checked at each log line."""
    every_steps: Annotated[Annotated[int, Ge(1)] | None, NotAnOption()] = None
    """Also save at every multiple of this many steps."""
    grace_seconds: Annotated[float, Ge(0)] = 20.0
    """Seconds that a run may take to save when it is asked to stop (Ctrl-C, SIGTERM)."""


class VideosConfig(Config):
    """The videos to train on."""

    uri: Sources = ()
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""
    max_quarantined_share: Annotated[float, Ge(0), Le(1)] = 0.2
    """Stop the run when more than this share of its videos cannot be used."""
    max_seconds_per_video: Annotated[float, Gt(0)] = 60.0
    """Quarantine a video that is decoded for longer than this."""
    # an option of pretraining only: its videos come from anywhere
    max_megapixels: Annotated[MaxMegapixels, NotAnOption()] = DEFAULT_MAX_MEGAPIXELS
    """Quarantine a video whose pictures have more pixels than this many million; 36 is enough for
    8K. Memory is bounded in proportion."""


class ScalingConfig(Config):
    """The resources of a run. They may change when a run is resumed."""

    num_workers: AutoNumber = 1
    """Training workers; must divide `compute.total_batch`. auto: one for each GPU of the machine or
    cluster, or one without GPUs."""
    min_workers: Annotated[int, Ge(1)] | None = None
    """Continue with this many workers when nodes are lost, and with up to `num_workers` when they
    return; none: wait for all. The total batch and the samples stay the same."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each worker."""
    num_actors: AutoNumber = 1
    """Actors that decode videos and draw samples, each on a CPU core. Workers have equally many, at
    least one; more than this number share the cores. auto: one for each core that is free."""
    decoder: Literal["cpu", "gpu"] = "cpu"
    """What decodes H.264 and HEVC for the actors: CPU cores, or NVDEC, the decoding engine of the
    workers' GPUs. The CPU decodes all other videos. Clips are the same."""
    max_failures: Annotated[int, Ge(-1)] = 3
    """Restarts of failed workers from the last checkpoint, after which the run fails; -1: no limit.
    Lost nodes do not count. The same error twice without a step in between ends the run at once."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_workers != AUTO and self.fewest_workers > self.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} exceeds num_workers {self.num_workers}"
            )
        if self.decoder == "gpu" and not self.use_gpu:
            raise ValueError(
                "decoder gpu decodes on the GPUs of the workers, which have none; set use_gpu true "
                "or decoder cpu"
            )
        return self

    def actors_per_worker(self, num_workers: int) -> int:
        """Return how many of `num_actors` draw samples for each of the workers, rounded up; 1, the
        least, if the number is not chosen yet."""
        return 1 if self.num_actors == AUTO else -(-self.num_actors // num_workers)

    def cpus_per_actor(self, num_workers: int) -> float:
        """Return the CPU cores of each actor, below 1 if they are more than `num_actors`."""
        if self.num_actors == AUTO:
            return 1.0
        return _floor(self.num_actors / (num_workers * self.actors_per_worker(num_workers)))

    @property
    def gpus_per_worker(self) -> float:
        """Return the share of a GPU of each worker; its actors have the rest."""
        return float(self.use_gpu) - DECODING_GPU_SHARE * (self.decoder == "gpu")

    def gpus_per_actor(self, num_workers: int) -> float:
        """Return the share of a GPU of each actor."""
        share = DECODING_GPU_SHARE * (self.decoder == "gpu")
        return _floor(share / self.actors_per_worker(num_workers))

    @property
    def fewest_workers(self) -> int:
        """Return the smallest number of workers that the run accepts."""
        number = self.num_workers if self.min_workers is None else self.min_workers
        return 1 if number == AUTO else number

    @property
    def most_workers(self) -> int:
        """Return the number of workers when no node is lost; it must have been chosen."""
        assert self.num_workers != AUTO
        return self.num_workers

    @property
    def is_auto(self) -> bool:
        """Return whether `choose` has something to choose."""
        return AUTO in (self.num_workers, self.num_actors)

    def choose(self, cpus: float, gpus: float, total_batch: int) -> ScalingConfig:
        """Return the resources with numbers in place of "auto".

        There are as many workers as GPUs, or one if the run uses none. There are fewer if they
        could not share the batch equally, or if some of them or their actors had no CPU.

        Args:
            cpus, gpus: what the run may use.
            total_batch: samples in a step of all workers; 0 if the number is not chosen yet.
        """

        def fits(number: int) -> bool:
            actors = self.actors_per_worker(number) * self.cpus_per_actor(number)
            cpus_of_each = self.cpus_per_worker + actors
            return total_batch % number == 0 and number * cpus_of_each <= cpus

        chosen = self
        if self.num_workers == AUTO:
            possible = range(self.fewest_workers, (int(gpus) if self.use_gpu else 1) + 1)
            # if none fits, the check of what the run needs says what is missing
            workers = max(filter(fits, possible), default=self.fewest_workers)
            chosen = self.replace(num_workers=workers)
        if self.num_actors == AUTO:
            workers = chosen.most_workers
            actors = workers * max(int(cpus / workers - self.cpus_per_worker), 1)
            chosen = chosen.replace(num_actors=actors)
        return chosen


def _floor(share: float) -> float:
    return math.floor(share * FRACTIONS) / FRACTIONS


class RunConfig(Config):
    """Base of the config of a training run."""

    KIND: ClassVar[str]
    """What the run does, in one word: pretrain, finetune or track."""
    RESULT: ClassVar[str]
    """The file that the folder of a finished run contains."""
    LOCATIONS: ClassVar[tuple[str, ...]] = ()
    """Options, dotted, that name files: workers run in other folders than the user."""
    WEIGHTS: ClassVar[str]
    """The option that names the initial weights: a file, a run, or a name without a file."""
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {
            "storage",
            "data.max_quarantined_share",
            "data.max_seconds_per_video",
            "data.max_megapixels",
            "checkpoint",
            "log_every_steps",
            "mlflow_uri",
            "recipe",
            "scaling",
        }
    )
    """Options, dotted, that do not affect the result and may differ when a run is resumed."""

    recipe: Annotated[str, NotAnOption()] = ""
    """Recipe that the run's options started from."""
    name: str = ""
    """Name of the run and of its folder below `storage`. The same name resumes a run."""
    storage: str = "runs"
    """Where run folders are: a local folder or s3://bucket/prefix."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of every random choice of the run."""
    data: VideosConfig = VideosConfig()
    """The videos to train on."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimiser."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Length of the run and decay of its learning rate."""
    compute: ComputeConfig = ComputeConfig()
    """How a step computes."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the run saves its state."""
    log_every_steps: Annotated[int, Ge(1)] | None = None
    """Steps between two log lines; none: as many as take about 5 seconds."""
    mlflow_uri: str = ""
    """MLflow server to log to as well; needs the extra mlflow."""
    scaling: ScalingConfig = ScalingConfig()
    """The resources of the run."""

    @property
    def score(self) -> Score:
        """Return the score that the run is judged by."""
        raise NotImplementedError

    @property
    def further_scores(self) -> tuple[Score, ...]:
        """Return the other scores of its test."""
        return ()

    @property
    def clip_format(self) -> ClipFormat:
        """Return the format of the clips that it trains on."""
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        """Return the facts of the run that a report shows."""
        schedule, optimizer = self.schedule, self.optimizer
        uris = [self.data.uri] if isinstance(self.data.uri, str) else self.data.uri
        return {
            "videos": ", ".join(uris),
            "length": f"{schedule.length} {schedule.unit}, batch {self.compute.total_batch}",
            "optimiser": f"{optimizer.name}, learning rate {optimizer.learning_rate:g}",
        }

    @model_validator(mode="before")
    @classmethod
    def _check_header(cls, values: Any) -> Any:
        """Remove the header of a run folder's config.yaml, if its "kind" is this one."""
        if not isinstance(values, Mapping):
            return values
        kind = values.get("kind", cls.KIND)
        if kind != cls.KIND:
            raise ValueError(f"expected the config of a {cls.KIND} run, got kind {kind!r}")
        return {name: value for name, value in values.items() if name not in HEADER}

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        # equal shares: the mean of the workers' losses is then that of the batch
        workers = self.scaling.num_workers
        is_chosen = self.compute.total_batch != AUTO
        if workers != AUTO and is_chosen and self.compute.batch % workers:
            raise ValueError(
                f"compute.total_batch {self.compute.total_batch} cannot be shared equally by "
                f"scaling.num_workers {workers}"
            )
        if "/" in self.name or self.name in {".", ".."}:
            raise ValueError(f"name {self.name!r} must be a folder name, without '/'")
        return self

    def differences(self, other: RunConfig) -> list[Difference]:
        """Return the options that differ from those of `other` and are not in `MAY_CHANGE`."""
        return list(differences(self.model_dump(), other.model_dump(), self.MAY_CHANGE))
