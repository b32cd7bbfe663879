"""The config of a measurement, and its recipes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, MinLen, MultipleOf
from pydantic import model_validator

from ctp.build.config import TranscodeConfig
from ctp.config import Config
from ctp.data.sources import Sources
from ctp.encoders.config import DEFAULT_ENCODER, AnyEncoderConfig
from ctp.pretext.config import PretrainConfig, PretrainVideosConfig
from ctp.pretext.ctp.config import CtpConfig
from ctp.pretext.task_config import AnyTaskConfig
from ctp.training.config import ComputeConfig, ScalingConfig
from ctp.training.schedule import ScheduleConfig

Part = Literal["ingest", "long", "curate", "ray", "readers", "step", "gpu", "game", "plan"]
BaselineName = Literal["opencv-zip-jpeg", "torchcodec", "torchcodec-transcoded"]
Precision = Literal["fp32", "tf32", "bf16"]
PARTS: tuple[Part, ...] = ("ingest", "ray", "step", "game", "plan")
CTP_PARTS = frozenset({"ingest", "game"})
"""Parts that measure Catch-the-Patch and no other task."""


class BenchVideosConfig(Config):
    """The videos to measure on."""

    uri: Sources = "corpus:32"
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""


class BenchLongConfig(Config):
    """A long video in one file."""

    minutes: Annotated[float, Gt(0)] = 60
    """Length of the film, which repeats the videos of data.uri."""


class BenchRayConfig(Config):
    """The stream of samples through Ray."""

    uri: Sources = ()
    """Other videos for this part, e.g. shards; none: those of data.uri."""
    num_actors: Annotated[int, Ge(1)] | None = None
    """Actors that draw samples; none: one for each CPU core."""
    clips: Annotated[int, Ge(1)] = 4000
    """Clips to time, after a quarter as many to warm up; memory growth shows after 20000."""
    total_batch: Annotated[int, Ge(1)] = 32
    """Clips in a batch of the single worker."""


class BenchReadersConfig(Config):
    """Training workers that read side by side."""

    numbers: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (1, 2, 4, 8)
    """Numbers of workers, measured one after the other."""
    blocks: Annotated[int, Ge(1)] = 40
    """Blocks that each worker receives."""


class BenchCurateConfig(Config):
    """Raw video that is curated."""

    seconds: Annotated[float, Gt(0)] = 20.0
    """Length of the video of each size."""
    heights_px: Annotated[tuple[Annotated[int, Ge(16), MultipleOf(2)], ...], MinLen(1)] = (
        *(240, 480, 720, 1080),
    )
    """Heights of the pictures, which are 16:9."""


class BenchStepConfig(Config):
    """The training step, in every combination of these options."""

    precisions: tuple[Precision, ...] = ()
    """Some of fp32,tf32,bf16; none: all on a GPU, fp32 on a CPU."""
    compile: tuple[bool, ...] = ()
    """Whether to compile the model; none: both on a GPU, false on a CPU."""
    clips: tuple[Annotated[int, Ge(1)], ...] = ()
    """Clips of each worker in a step; none: 32 on a GPU, 1 on a CPU, and 4,32,256 for gpu."""
    workers: tuple[Annotated[int, Ge(1)], ...] = ()
    """Numbers of workers that take a step together, on this machine; none: 1, and all GPUs."""
    max_seconds: Annotated[float, Gt(0)] | None = None
    """No step begins to be timed after this time; none: no limit."""


class BenchConfig(Config):
    """What to measure, and how often. The defaults are the paper's task and encoder."""

    what: Annotated[tuple[Part, ...], MinLen(1)] = PARTS
    """The parts to measure: some of ingest,long,curate,ray,readers,step,gpu,game,plan."""
    out: str = "bench.json"
    """File for the figures, local or s3://."""
    repeats: Annotated[int, Ge(1)] = 7
    """Times that each figure is measured, in turn with the others."""
    clips_per_repeat: Annotated[int, Ge(1)] = 32
    """Clips in each repeat of ingest, long and game."""
    data: BenchVideosConfig = BenchVideosConfig()
    """The videos to measure on."""
    task: AnyTaskConfig = CtpConfig()
    """The pretext task: its name, or its options as --task.OPTION; ingest and game need ctp."""
    encoder: AnyEncoderConfig = DEFAULT_ENCODER
    """The encoder of the training step: its name, or its options as --encoder.OPTION."""
    baseline: tuple[BaselineName, ...] = ()
    """Other loaders to compare: some of opencv-zip-jpeg,torchcodec,torchcodec-transcoded."""
    transcode: TranscodeConfig = TranscodeConfig()
    """How videos are transcoded, as in shards."""
    store: str = ""
    """Folder or URI for the loaders' videos while they are measured; by default a local one."""
    long: BenchLongConfig = BenchLongConfig()
    """A long video in one file."""
    curate: BenchCurateConfig = BenchCurateConfig()
    """Raw video that is curated; needs the extra curate."""
    ray: BenchRayConfig = BenchRayConfig()
    """The stream of samples through Ray."""
    readers: BenchReadersConfig = BenchReadersConfig()
    """Training workers that read side by side."""
    step: BenchStepConfig = BenchStepConfig()
    """The training step."""
    gpus: Annotated[int, Ge(1)] = 8
    """GPUs of the run whose bottleneck is computed."""
    cores: Annotated[int, Ge(1)] = 96
    """CPU cores of that run, of all machines together."""
    gpu_clips_per_second: Annotated[float, Gt(0)] | None = None
    """Clips/s that a GPU of that run trains on; none: as measured in this call, or 1000."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = sorted(CTP_PARTS.intersection(self.what))
        if parts and not isinstance(self.task, CtpConfig):
            raise ValueError(
                f"what: {' and '.join(parts)} can only measure the task ctp, got task "
                f"{self.task.name}. Choose among --what ray,step,plan"
            )
        return self

    @property
    def game(self) -> CtpConfig:
        """Return the task of the parts in `CTP_PARTS`; it cuts patches from the clip itself."""
        assert isinstance(self.task, CtpConfig)
        return self.task.replace(curriculum=None, patch_source="trajectory")

    def pretraining(
        self, uri: Sources, compute: ComputeConfig, *, num_actors: int = 1
    ) -> PretrainConfig:
        """Return a pretraining run of this task and encoder that lasts one step."""
        return PretrainConfig(
            data=PretrainVideosConfig(uri=uri),
            task=self.task,
            encoder=self.encoder,
            schedule=ScheduleConfig(unit="steps", length=1, decay_at=()),
            compute=compute,
            scaling=ScalingConfig(num_actors=num_actors),
        )


def standard() -> BenchConfig:
    """Measure everything: some minutes (default)."""
    return BenchConfig()


def quick() -> BenchConfig:
    """Measure three times, on fewer clips; step and gpu take at most 8 minutes."""
    return BenchConfig(
        repeats=3,
        clips_per_repeat=8,
        ray=BenchRayConfig(clips=1000),
        # the step that began last takes some time, and so do the other checks of a GPU
        step=BenchStepConfig(max_seconds=240),
    )


def like_run(run: PretrainConfig) -> BenchConfig:
    """Measure the task, encoder and batch of a pretraining run."""
    return BenchConfig(
        task=run.task, encoder=run.encoder, step=BenchStepConfig(clips=(run.compute.batch,))
    )
