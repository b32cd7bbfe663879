"""How the encoders of a sweep are scored, at each scale."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch

from ctp import recipes
from ctp.config import differences, keep_stored
from ctp.data.stream import LoadVideos, load_here
from ctp.downstream.clip_choice import clip_options
from ctp.downstream.config import ACCURACY, TOP5, FinetuneConfig, LabeledVideosConfig
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_labeled
from ctp.downstream.feature_folder import by_pooling
from ctp.downstream.features import read_encoder_file
from ctp.downstream.labels import LabeledVideos, open_labeled
from ctp.downstream.retrieval import retrieve
from ctp.downstream.track_config import MEAN_IOU, TrackConfig
from ctp.encoders.config import NAMED_WEIGHTS, EncoderConfig
from ctp.report.papers import DATASETS
from ctp.score import Score
from ctp.sweeps.config import Scale
from ctp.sweeps.options import DATA, with_located_paths, with_values
from ctp.sweeps.recipes import ABLATION_DATASETS
from ctp.text import near_miss
from ctp.training.run_folder import Uris, folder_of
from ctp.training.trainer import TrainingSpec
from ctp.video.config import ClipFormat

TASK = "task"
"""The name of the task's own score."""
KS = (1, 5)
NUM_CLIPS = 3
"""Clips of each video for retrieval at the small scales."""
CLASSIFIED = (ACCURACY, TOP5)
RETRIEVED = (
    Score("top1", "top-1", "chance1", "chance", is_percent=True),
    Score("top5", "top-5", "chance5", "chance", is_percent=True),
)
KINDS = {
    "retrieval": ("embed", "retrieval", RETRIEVED),
    "linear": ("linear", "linear", CLASSIFIED),
    "attentive": ("attentive", "attentive", CLASSIFIED),
    "finetune": ("finetune", "fine-tuned", CLASSIFIED),
    "finetune10": ("finetune10", "fine-tuned on 10% of the labels", CLASSIFIED),
    "finetune25": ("finetune25", "fine-tuned on 25% of the labels", CLASSIFIED),
    "tracking": ("track", "tracking", (MEAN_IOU,)),
    "frozen": ("frozen", "tracking, encoder frozen", (MEAN_IOU,)),
}
"""Kind of score -> first part of the names of its options, its name in tables, and its numbers. The
first is always shown, top-5 where the paper's table has it."""
FEWER_LABELS = {"finetune10": 0.1, "finetune25": 0.25}
"""Kind of score -> share of the labels."""
ALL_STAGES = 5
"""Stages of the ResNets, which most encoders here are."""
DEFAULTS: Mapping[Scale, tuple[str, ...]] = {
    "tiny": (TASK, "retrieval", "linear"),
    "small": (TASK, "retrieval", "linear"),
    "paper": ("finetune",),
}


class RetrievalConfig(EmbedConfig):
    """Retrieval of videos by the features of an encoder."""

    LOCATIONS: ClassVar[tuple[str, ...]] = FinetuneConfig.LOCATIONS
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset({"scaling"})

    data: LabeledVideosConfig = LabeledVideosConfig()  # type: ignore[assignment]
    """The labelled videos: those to train on are the gallery, those to test on the queries."""


C = TypeVar("C", RetrievalConfig, FinetuneConfig, TrackConfig)
R = TypeVar("R", FinetuneConfig, TrackConfig)


@dataclass(frozen=True)
class TrainedEncoder:
    """The encoder of a trial.

    Attributes:
        trial: name of the trial.
        source: URI of its encoder.safetensors, or the name of other weights: random and so on.
        architecture: the encoder's config.
        storage: where the runs that score it are.
        seed: seed of these runs, and of random weights.
    """

    trial: str
    source: str
    architecture: EncoderConfig
    storage: str
    seed: int


class ScoreRunner(Protocol):
    """Computes the scores of an encoder; `phase` is the name of the score."""

    def train(self, phase: str, spec: TrainingSpec[Any]) -> None:
        """Train a run to its end, from its newest checkpoint."""

    def retrieve(self, phase: str, encoder: bytes, config: RetrievalConfig) -> Mapping[str, float]:
        """Return `retrieval_scores`, computed with the resources of `config.scaling`."""


@dataclass(frozen=True)
class EncoderScore(ABC, Generic[C]):
    """A way to score an encoder.

    Attributes:
        kind: one of `KINDS`.
        config: of the run, or the retrieval, that computes it.
        dataset: one of `papers.DATASETS`; "" if there is no choice.
    """

    kind: str
    config: C
    dataset: str = ""

    @property
    def name(self) -> str:
        """Return its name within the sweep, e.g. "finetune-ucf101"."""
        return "-".join(filter(None, (self.kind, self.dataset)))

    @property
    def prefix(self) -> str:
        """Return the first part of the names of its options."""
        return KINDS[self.kind][0]

    @property
    def measures(self) -> list[Score]:
        """Return its numbers, by their keys among the scores of a trial; the main one first."""
        _, name, numbers = KINDS[self.kind]
        dataset = f", {DATASETS[self.dataset]}" if self.dataset else ""
        return [
            replace(
                number,
                key=f"{self.name}.{number.key}",
                baseline_key=f"{self.name}.{number.baseline_key}" if number.baseline_key else "",
                label=f"{name} {number.label}{dataset}",
            )
            for number in numbers
        ]

    @abstractmethod
    def count_videos(self) -> tuple[int, int]:
        """Return the number of videos to train on and to test on.

        Raises:
            ValueError: they cannot be used.
            StorageError: they cannot be listed.
        """

    @abstractmethod
    def compute(self, encoder: TrainedEncoder, runner: ScoreRunner) -> Mapping[str, float]:
        """Return the numbers of an encoder."""

    @property
    def data_option(self) -> str:
        """Return the name of the option that says where the videos are."""
        return ".".join(filter(None, (self.prefix, self.dataset, "data.uri")))

    def locations(self) -> list[Uris]:
        """Return what it reads."""
        return [attrgetter(name)(self.config) for name in self.config.LOCATIONS]

    def own_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of some options that are this score's, by their names in its config.

        The options of its data set alone override those of all.
        """
        common, own = {}, {}
        for name, value in options.items():
            prefix, _, option = name.partition(".")
            dataset, _, below = option.partition(".")
            if prefix == self.prefix and dataset == self.dataset:
                own[below] = value
            # linear.ucf101.data.uri is for one data set, linear.data.test_share for all
            elif prefix == self.prefix and dataset not in DATASETS:
                common[option] = value
        return common | own

    def with_options(self, options: Mapping[str, Any], data: str) -> Self:
        """Return the score with its own ones of some options, and with absolute paths.

        Args:
            options: dotted option -> value, as in --set.
            data: see `with_located_paths`.

        Raises:
            ValueError: an option is unknown or a value does not fit it.
        """
        origin = f"--set {self.prefix}"
        config = with_values(self.config, self.own_options(options), origin)
        return replace(self, config=with_located_paths(config, config.LOCATIONS, data))

    def with_clips(self, clips: ClipFormat, options: Mapping[str, Any]) -> Self:
        """Return the score on clips of a format, except for its own ones of some options."""
        values = clip_options(self.config, clips)
        return replace(self, config=keep_stored(self.config, values, self.own_options(options)))

    def differences(self, other: EncoderScore[C]) -> list[str]:
        """Return a line for each option that differs and may not change in a sweep."""
        here, there = self.config.model_dump(), other.config.model_dump()
        return [f"{self.name}: {each}" for each in differences(here, there, self.config.MAY_CHANGE)]


class TrainedScore(EncoderScore[R]):
    """The test of a run that trains on top of the encoder."""

    @abstractmethod
    def open(self, config: R) -> TrainingSpec[Any]:
        """Return the run."""

    def count_videos(self) -> tuple[int, int]:
        train, test = self.open(self.config).catalogs
        return len(train), len(test)

    def compute(self, encoder: TrainedEncoder, runner: ScoreRunner) -> Mapping[str, float]:
        config = self.config.replace(
            name=f"{encoder.trial}-{self.name}",
            storage=encoder.storage,
            seed=encoder.seed,
            initial=encoder.source,
        )
        if encoder.source in NAMED_WEIGHTS:  # a file describes its encoder
            config = config.replace(encoder=encoder.architecture)
        result = folder_of(config).join(config.RESULT)
        # a sweep that was interrupted after this run does not train it again
        if not result.exists():
            runner.train(self.name, self.open(config))
        found = json.loads(result.read_bytes())
        # leaves out the confusion matrix and the scores of each video
        return {name: value for name, value in found.items() if isinstance(value, int | float)}


class FinetuneScore(TrainedScore[FinetuneConfig]):
    """Action recognition, of the whole network or of a probe of a frozen encoder."""

    def open(self, config: FinetuneConfig) -> TrainingSpec[Any]:
        from ctp.downstream import classification  # torchvision, which few scores need

        return classification.open_finetuning(classification.resolve(config))


class TrackingScore(TrainedScore[TrackConfig]):
    """Tracking of annotated objects."""

    def open(self, config: TrackConfig) -> TrainingSpec[Any]:
        from ctp.downstream import tracking  # torchvision, see above

        return tracking.open_tracking(tracking.resolve(config))


class RetrievalScore(EncoderScore[RetrievalConfig]):
    """Retrieval by VCOP's protocol."""

    def count_videos(self) -> tuple[int, int]:
        videos = retrieval_videos(self.config)
        return len(videos.train), len(videos.test)

    def compute(self, encoder: TrainedEncoder, runner: ScoreRunner) -> Mapping[str, float]:
        config = self.config.replace(
            encoder=encoder.source, architecture=encoder.architecture, seed=encoder.seed
        )
        return runner.retrieve(self.name, read_encoder_file(config)[0], config)


def retrieval_videos(config: RetrievalConfig) -> LabeledVideos:
    """Return the gallery, as videos to train on, and the queries.

    Raises:
        ValueError: see `open_labeled`; or there are too few videos in the gallery.
    """
    videos = open_labeled(config.data, config.seed)
    if len(videos.train) < max(KS):
        raise ValueError(f"the gallery has {len(videos.train)} videos; expected {max(KS)} or more")
    return videos


def retrieval_scores(
    encoder: bytes, config: RetrievalConfig, load: LoadVideos = load_here
) -> dict[str, float]:
    """Score an encoder by retrieval.

    Args:
        encoder: an encoder.safetensors.
        config: its `encoder` names the file in errors; its `seed` decides which videos are the
            queries, where `data.test_share` is given.
        load: reads the videos.

    Returns:
        "top1" and "top5", the share of queries with a neighbour of their class among the nearest 1
        and 5; "vcop_top1" and "vcop_top5", the same with VCOP's own pooling, if the features have
        it beside the adaptive one; "chance1" and "chance5", the same by chance; "tested", the
        number of queries; "quarantined", the number of videos that cannot be used.

    Raises:
        ValueError: the videos or the encoder cannot be used.
        StorageError: the storage fails.
        FloatingPointError: a feature is not finite.
    """
    # torch would start a thread for each core of the machine, whatever share this task was given
    torch.set_num_threads(max(int(config.scaling.cpus_per_encoder), 1))
    videos = retrieval_videos(config)
    gallery, queries, quarantined = embed_labeled(encoder, config, videos, load)
    device = "cuda" if config.scaling.use_gpu else "cpu"
    galleries, asked = (by_pooling(each, config.features) for each in (gallery, queries))
    found = {name: retrieve(galleries[name], asked[name], KS, device) for name in galleries}
    first, *others = found
    return {
        **{f"top{k}": share for k, share in found[first].accuracy.items()},
        **{f"{o}_top{k}": share for o in others for k, share in found[o].accuracy.items()},
        **{f"chance{k}": share for k, share in found[first].chance.items()},
        "tested": len(queries.ids),
        "quarantined": quarantined,
    }


def choose_scores(
    scale: Scale,
    names: Sequence[str],
    options: Mapping[str, Any],
    datasets: Collection[str] = ABLATION_DATASETS,
    data: str = DATA,
) -> tuple[EncoderScore[Any], ...]:
    """Return the scores of some names, with their options.

    Args:
        scale: of the sweep.
        names: names or kinds, as in `SweepConfig.scores`; the task's own score is skipped.
        options: dotted option -> value, as in --set.
        datasets: those that a kind means at scale paper.
        data: see `with_located_paths`.

    Raises:
        ValueError: a score or option is unknown, or an option is that of a score not chosen.
    """
    known = {score.name: score for score in _scores_at(scale)}
    chosen = dict.fromkeys(each for name in names for each in _names_of(name, known, datasets))
    scores = [known[name] for name in chosen]
    for option in options:
        if not any(score.own_options({option: None}) for score in scores):
            raise ValueError(
                f"--set {option}: no chosen score has this option; the scores are "
                f"{', '.join(chosen)}"
            )
    return tuple(score.with_options(options, data) for score in scores)


def is_score_option(name: str) -> bool:
    """Return whether a dotted name is that of an option of scores."""
    return name.partition(".")[0] in {prefix for prefix, *_ in KINDS.values()}


def heading(score: Score) -> str:
    """Return the heading of a score's column."""
    return score.label + (f" ({score.baseline_label})" if score.baseline_key else "")


def _names_of(
    name: str, known: Mapping[str, EncoderScore[Any]], datasets: Collection[str]
) -> list[str]:
    names = [
        each
        for each, score in known.items()
        if name == each or (name == score.kind and score.dataset in ("", *datasets))
    ]
    if not names and name != TASK:
        there = [TASK, *dict.fromkeys([*(score.kind for score in known.values()), *known])]
        raise ValueError(
            f"--scores: unknown score {name!r}{near_miss(name, there)}; expected some of "
            f"{', '.join(there)}"
        )
    return names


def _scores_at(scale: Scale) -> Iterator[EncoderScore[Any]]:
    """Yield all scores there are at a scale."""
    if scale == "paper":
        for dataset in DATASETS:
            finetune = recipes.FINETUNE[dataset]()
            yield from _recognition(recipes.retrieval_features(), finetune.data, finetune, dataset)
        yield from _tracking(recipes.track_got10k())
        return
    # other videos than the scale pretrains on, which random weights have not seen either
    uri, epochs = {"tiny": ("corpus:240-480", 10), "small": ("corpus:480-960", 30)}[scale]
    finetune, features = recipes.finetune_small(), recipes.small_features()
    finetune = finetune.replace(
        data=finetune.data.replace(uri=uri),
        encoder=None,  # that of the trial
        schedule=finetune.schedule.replace(length=epochs),
    )
    features = features.replace(views=features.views.replace(num_clips=NUM_CLIPS))
    yield from _recognition(features, LabeledVideosConfig(uri=uri, test_share=0.25), finetune)
    yield from _tracking(recipes.track_small().replace(encoder=None))


def _tracking(track: TrackConfig) -> Iterator[EncoderScore[Any]]:
    yield TrackingScore("tracking", track)
    yield TrackingScore("frozen", track.replace(frozen_stages=ALL_STAGES))


def _recognition(
    features: EmbedConfig, data: LabeledVideosConfig, finetune: FinetuneConfig, dataset: str = ""
) -> Iterator[EncoderScore[Any]]:
    retrieval = RetrievalConfig.from_values({**features.model_dump(), "data": data.model_dump()})
    yield FinetuneScore("finetune", finetune, dataset)
    for kind, share in FEWER_LABELS.items():
        fewer = finetune.replace(data=finetune.data.replace(label_fraction=share))
        yield FinetuneScore(kind, fewer, dataset)
    yield FinetuneScore("linear", finetune.replace(protocol="linear"), dataset)
    yield FinetuneScore("attentive", recipes.attentive_probe(finetune), dataset)
    yield RetrievalScore("retrieval", retrieval, dataset)
