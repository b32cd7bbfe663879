"""What the configs of all runs have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from ctp.config import Config
from ctp.data.catalog import Sources
from ctp.training.schedule import ScheduleConfig


class ComputeConfig(Config):
    """How a step computes."""

    total_batch: Annotated[int, Ge(1)] = 32
    """Clips in a step over all workers; it stays when their number changes (§5.1)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """fp32; TensorFloat-32 matrix products; or bfloat16 autocast with fp32 weights."""
    channels_last: bool = False
    """Whether weights are laid out as `channels_last_3d`, as the input always is."""
    compile: bool = False
    """Whether torch.compile builds the model."""

    def usable_workers(self, present: int) -> int:
        """How many of the workers that are there can share a batch equally."""
        return next(n for n in range(present, 0, -1) if self.total_batch % n == 0)


class OptimizerConfig(Config):
    """The optimiser. The defaults are the paper's (§5.1) and the authors' gradient clip."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    learning_rate: Annotated[float, Gt(0)] = 0.01
    """Learning rate at the start, after warm-up."""
    momentum: Annotated[float, Ge(0)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    """Weight decay of every parameter."""
    max_gradient_norm: Annotated[float, Gt(0)] = 40.0
    """The gradient is scaled down to this L2 norm."""


class CheckpointConfig(Config):
    """How often a run saves, and what it keeps."""

    every_minutes: Annotated[float, Gt(0)] = 10.0
    """Save when this much time has passed since the last one; seen when a log line is due."""
    every_steps: Annotated[int, Ge(1)] | None = None
    """Save at every multiple of this many steps, too."""
    keep: Annotated[int, Ge(1)] = 3
    """How many of the newest to keep."""
    grace_seconds: Annotated[float, Ge(0)] = 20.0
    """How long a run that is told to stop (Ctrl-C, SIGTERM) may take to save first."""


class ReadingConfig(Config):
    """Where the videos to train on are, how they are read, and what may be wrong with them."""

    uri: Sources = ()
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""
    max_quarantined_share: Annotated[float, Ge(0), Le(1)] = 0.2
    """The run stops when more than this share of its videos cannot be used."""
    max_seconds_per_video: Annotated[float, Gt(0)] = 60.0
    """A video that the decoder works on for longer is quarantined: it hangs."""
    clips_per_visit: Annotated[int, Ge(1)] = 1
    """Clips of a video in a row, two steps apart, before the next pass over the videos: one read
    serves them all. The length of an epoch stays."""
    read_ahead: Annotated[int, Ge(0)] = 8
    """Videos that each actor reads ahead of the one it decodes."""


class ScalingConfig(Config):
    """What the run computes on. It may change when a run is continued."""

    num_workers: Annotated[int, Ge(1)] = 1
    """Training workers; their number must divide `compute.total_batch`."""
    min_workers: Annotated[int, Ge(1)] | None = None
    """With so many the run goes on when nodes are lost, and grows again up to `num_workers` when
    they come back; none: it waits for all. The total batch and the clips stay the same."""
    use_gpu: bool = False
    """Whether each worker has a GPU."""
    cpus_per_worker: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each worker."""
    num_actors: Annotated[int, Ge(1)] = 1
    """Actors that decode videos and play the game."""
    cpus_per_actor: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each actor."""
    play_on: Literal["cpu", "device"] = "cpu"
    """Where pixels become RGB and patches are pasted: by the actors, or by the training workers on
    their device, which takes two fifths of the work from the actors. The same to 1/255."""
    max_failures: Annotated[int, Ge(-1)] = 3
    """How often lost workers are started again from the last checkpoint; -1: without end."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fewest_workers > self.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} exceeds num_workers {self.num_workers}"
            )
        return self

    @property
    def fewest_workers(self) -> int:
        """What the run needs at least."""
        return self.num_workers if self.min_workers is None else self.min_workers


class Unlike(NamedTuple):
    """A field, dotted, that two configs have different values of."""

    name: str
    here: object
    there: object


class RunConfig(Config):
    """A run of training: what is trained is said by the classes below it."""

    RESULT: ClassVar[str]
    """The file that a finished run's folder has."""
    LOCATIONS: ClassVar[tuple[str, ...]] = ()
    """Fields, dotted, that name files: workers run in other folders than the user."""
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {
            "storage",
            "data.max_quarantined_share",
            "data.max_seconds_per_video",
            "data.read_ahead",
            "checkpoint",
            "log_every_steps",
            "mlflow_uri",
            "scaling",
        }
    )
    """Fields, dotted, that do not shape the result and may differ when a run is continued."""

    name: str = ""
    """Name of the run, and of its folder below `storage`. The same name continues a run."""
    storage: str = "runs"
    """Where run folders lie: a local folder or s3://bucket/prefix."""
    seed: Annotated[int, Ge(0)] = 0
    """Every random choice of the run follows from it."""
    data: ReadingConfig = ReadingConfig()
    """Where the videos are, and what may be wrong with them."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """What moves the weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How long the run is and how its learning rate falls."""
    compute: ComputeConfig = ComputeConfig()
    """How a step computes."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """How often the run saves."""
    log_every_steps: Annotated[int, Ge(1)] = 10
    """Steps between two log lines."""
    mlflow_uri: str = ""
    """MLflow server to log to, too, http(s)://… or as MLflow takes it; needs the extra mlflow."""
    scaling: ScalingConfig = ScalingConfig()
    """What the run computes on."""

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        if self.compute.total_batch % self.scaling.num_workers:
            raise ValueError(
                f"compute.total_batch {self.compute.total_batch} cannot be shared equally by "
                f"scaling.num_workers {self.scaling.num_workers}"
            )
        if "/" in self.name or self.name in {".", ".."}:
            raise ValueError(f"name {self.name!r} must be a folder name, without '/'")
        return self

    def mismatch(self, other: RunConfig) -> list[str]:
        """What keeps a run of config `other` from being continued with this one.

        Returns:
            A line for each field that differs and is none of `MAY_CHANGE`.
        """
        return [f"{each.name} was {each.there!r}, is {each.here!r}" for each in self.unlike(other)]

    def unlike(self, other: RunConfig) -> list[Unlike]:
        """The fields that differ from those of another config and are none of `MAY_CHANGE`."""
        return list(self._unlike("", self.model_dump(), other.model_dump()))

    def _unlike(self, prefix: str, here: object, there: object) -> Iterator[Unlike]:
        if isinstance(here, dict) and isinstance(there, dict):
            for key in here:
                name = f"{prefix}.{key}" if prefix else key
                if name not in self.MAY_CHANGE:
                    yield from self._unlike(name, here[key], there[key])
        elif here != there:
            yield Unlike(prefix, here, there)
