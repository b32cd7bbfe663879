"""What the configs of all runs have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from annotated_types import Ge, Gt, Le
from pydantic import model_validator

from ctp.config import Config
from ctp.training.checkpoint import CheckpointConfig
from ctp.training.schedule import ScheduleConfig
from ctp.training.step import ComputeConfig, OptimizerConfig
from ctp.video.catalog import Sources


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
