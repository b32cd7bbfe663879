"""The complete config of a pretraining run."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import FiniteFloat, model_validator

from ctp.config import Config
from ctp.data.plan import whole_weights
from ctp.data.sources import Sources
from ctp.encoders.config import (
    DEFAULT_ENCODER,
    NAMED_WEIGHTS,
    WEIGHT_FILES,
    AnyEncoderConfig,
)
from ctp.pretext.ctp.config import CtpConfig
from ctp.pretext.task_config import AnyTaskConfig
from ctp.score import Score
from ctp.training.config import AUTO, RunConfig, VideosConfig
from ctp.training.run_folder import ENCODER
from ctp.video.config import ClipFormat, MaxMegapixels
from ctp.video.limits import DEFAULT_MAX_MEGAPIXELS


class PretrainVideosConfig(VideosConfig):
    """The videos to train on, and those to evaluate on."""

    uri: Sources = "corpus:240"
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""
    heldout_uri: Sources = ()
    """Other videos to evaluate on, e.g. a test split; none: `heldout_share` of `uri`."""
    heldout_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the videos of `uri` that are evaluated on and never trained on."""
    share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the videos to train on that is used, chosen by the seed. A larger share contains the
    videos of a smaller one."""
    max_megapixels: MaxMegapixels = DEFAULT_MAX_MEGAPIXELS
    """Quarantine a video whose pictures have more pixels than this many million; 36 is enough for
    8K. Memory is bounded in proportion."""
    mix: tuple[Annotated[FiniteFloat, Gt(0)], ...] = ()
    """Weights of the sources of `uri`, e.g. 3,1: three of four clips are from the first one. Each
    source then has passes of its own. none: all sources are one set of videos."""
    clips_per_video: Literal["one", "by_duration"] = "one"
    """Clips of a video in each pass over the videos: one, or as many as fit into it, one after the
    other, at the middle of `task.sampling`. by_duration needs shards, which record the lengths."""
    repeats_per_pass: Annotated[int, Ge(1)] = 1
    """Samples of each of these clips in a pass, two steps apart and with other frames: one read
    serves them all. The length of an epoch does not change."""

    @model_validator(mode="after")
    def _check_mix(self) -> Self:
        sources = [self.uri] if isinstance(self.uri, str) else self.uri
        if self.mix and len(self.mix) != len(sources):
            raise ValueError(
                f"mix: expected one weight for each source of uri ({', '.join(sources)}), e.g. "
                f"{','.join('1' * len(sources))}, got {', '.join(f'{w:g}' for w in self.mix)}"
            )
        if self.mix:
            whole_weights(self.mix)
        return self


class EvaluationConfig(Config):
    """Evaluation of the task on held-out samples during the run: it needs no labels (§4)."""

    num_clips: Annotated[int, Ge(0)] = 256
    """Held-out samples; 0: no evaluation."""
    every_steps: Annotated[int, Ge(1)] = 1000
    """Steps between two evaluations; there is also one at the end."""


class KnnConfig(Config):
    """Classification of labelled videos by their nearest neighbours, beside the run."""

    uri: Sources = ()
    """Labelled videos; none: no such score. A quarter of each class is looked up in the rest."""
    test_uri: Sources = ()
    """Labelled videos to look up in all of `uri` instead."""
    every_epochs: Annotated[int, Ge(1)] = 10
    """Epochs between two scores; there is also one at the end."""
    gpus: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of a GPU for it, besides those of the workers; 0: one CPU core."""


class PretrainConfig(RunConfig):
    """A pretraining run. The defaults are the paper's R3D-18 on UCF-101 (§5.1), data aside."""

    KIND: ClassVar[str] = "pretrain"
    RESULT: ClassVar[str] = ENCODER
    LOCATIONS: ClassVar[tuple[str, ...]] = (
        "data.uri",
        "data.heldout_uri",
        "knn.uri",
        "knn.test_uri",
    )
    WEIGHTS: ClassVar[str] = "initial_encoder"
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE | {"evaluation", "knn"}

    data: PretrainVideosConfig = PretrainVideosConfig()
    """The videos to train on, and those to evaluate on."""
    task: AnyTaskConfig = CtpConfig()
    """The pretext task: its name, or its options as --task.OPTION."""
    encoder: AnyEncoderConfig = DEFAULT_ENCODER
    """The encoder: its name, or its options as --encoder.OPTION."""
    initial_encoder: str = ""
    """Weights to start from: a run (its name or folder), ctp-small (a small encoder that is part of
    ctp), an encoder.safetensors, or a .pth of the authors' code or of VideoMAE; none: random."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation of the task on held-out samples."""
    knn: KnnConfig = KnnConfig()
    """Classification by nearest neighbours."""

    @model_validator(mode="after")
    def _check_task_and_weights(self) -> Self:
        if self.initial_encoder in NAMED_WEIGHTS:
            raise ValueError(
                f"no initial_encoder {self.initial_encoder!r}; expected a run, or {WEIGHT_FILES}"
            )
        if self.compute.total_batch != AUTO:
            self.task.check_batch(self.compute.batch)
        self.task.check_encoder(self.encoder)
        return self

    def describe(self) -> dict[str, str]:
        """Return the facts of the run that a report shows."""
        from ctp.pretext.registry import build_task  # needs torch, which holding a config does not

        task = build_task(self.task).describe()
        return {**super().describe(), "encoder": self.encoder.describe(), **task}

    @property
    def score(self) -> Score:
        """Return the score of the task."""
        from ctp.pretext.registry import TASKS  # see above

        return TASKS[self.task.name].score

    @property
    def clip_format(self) -> ClipFormat:
        """Return the format of the clips that it trains on."""
        return ClipFormat.from_training(self.task.sampling, self.task.augment)
