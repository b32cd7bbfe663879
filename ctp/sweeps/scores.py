"""What encoders of a sweep are scored by, at each scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ctp import recipes
from ctp.data.catalog import Sources
from ctp.downstream.config import ClassifierHeadConfig, FinetuneConfig, LabeledDataConfig
from ctp.downstream.embed_config import EmbedConfig, EmbedDataConfig
from ctp.downstream.extraction import embed_videos
from ctp.downstream.features import open_embedder
from ctp.downstream.labels import LabeledVideos, open_labeled
from ctp.downstream.retrieval import retrieve
from ctp.downstream.track_config import TrackConfig
from ctp.sweeps.config import Scale
from ctp.sweeps.values import with_values
from ctp.text import near_miss
from ctp.training.claim import absolute, anchored
from ctp.training.config import RunConfig

IOU = "iou"
KS = (1, 5)
FEW = 3
"""Clips of each video at the small scales."""
PREFIXES = {"finetune": "finetune", "linear": "linear", "retrieval": "embed", "tracking": "track"}
"""Kind of score -> what its options begin with."""
PAPERS_DATASETS = ("ucf101", "hmdb51")
"""What the paper's ablations are scored on."""
DEFAULTS: Mapping[Scale, tuple[str, ...]] = {
    "tiny": (IOU, "retrieval", "linear"),
    "small": (IOU, "retrieval", "linear"),
    "paper": ("finetune",),
}


class RetrievalDataConfig(EmbedDataConfig):
    """Labelled videos: a gallery, and those that are looked up in it."""

    test_uri: Sources = ()
    """Videos to look up; none: `test_share` of `uri`, or those that `test_list` names."""
    test_list: str = ""
    """A text file that names them."""
    test_share: float = 0.0
    """Share of each class's videos of `uri` to look up."""


class RetrievalConfig(EmbedConfig):
    """Retrieval of videos by the features of an encoder."""

    data: RetrievalDataConfig = RetrievalDataConfig()
    """Where the videos are."""

    @property
    def labeled(self) -> LabeledDataConfig:
        """The same, as `open_labeled` takes it."""
        data = self.data
        return LabeledDataConfig(
            uri=data.uri,
            test_uri=data.test_uri,
            test_list=data.test_list,
            test_share=data.test_share,
        )


ScoreConfig = FinetuneConfig | TrackConfig | RetrievalConfig


@dataclass(frozen=True)
class Score:
    """A way to score an encoder.

    Attributes:
        name: of its runs and its numbers, e.g. "finetune-ucf101".
        kind: one of `PREFIXES`, or "iou".
        dataset: one of `PAPERS_DATASETS`; empty where there is one only.
        config: of the run that makes it; None for what pretraining itself tells.
    """

    name: str
    kind: str
    dataset: str = ""
    config: ScoreConfig | None = None

    def numbered(self, found: Mapping[str, float]) -> dict[str, float]:
        """Numbers by names that no other score has."""
        return {f"{self.name}.{name}": float(value) for name, value in found.items()}


def scores_of(scale: Scale, asked: Sequence[str], options: Mapping[str, Any]) -> tuple[Score, ...]:
    """The scores that are asked for, with their options.

    Args:
        scale: of the sweep.
        asked: names or kinds; none: what suits the scale.
        options: dotted name -> value: a prefix, perhaps a data set, and a field.

    Raises:
        ValueError: there is no such score or option, or an option is of a score that is not asked
            for.
    """
    known = {score.name: score for score in _scores_at(scale)}
    names = dict.fromkeys(n for ask in asked or DEFAULTS[scale] for n in _meant(ask, known))
    scores = [known[name] for name in names]
    used = {name for score in scores for name in _own(score, options)}
    unused = [name for name in options if name not in used]
    if unused:
        raise ValueError(
            f"--set {unused[0]}: no score that is asked for has such an option; the scores are "
            f"{', '.join(names)}"
        )
    return tuple(_with_options(score, options) for score in scores)


def is_option(name: str) -> bool:
    """Whether a dotted name is that of an option of scores."""
    return name.partition(".")[0] in PREFIXES.values()


def videos_of(config: RetrievalConfig, seed: int) -> LabeledVideos:
    """Gallery and queries.

    Raises:
        ValueError: as `open_labeled`; or there are too few videos in the gallery.
    """
    videos = open_labeled(config.labeled, seed)
    if len(videos.train) < max(KS):
        raise ValueError(f"the gallery has {len(videos.train)} videos; wanted {max(KS)} at least")
    return videos


def retrieval_scores(encoder: bytes, config: RetrievalConfig) -> dict[str, float]:
    """Retrieval by VCOP's protocol.

    Args:
        encoder: an encoder.safetensors.
        config: its own `encoder` is the file's name in errors, its `seed` decides which videos are
            looked up, where a share is asked for.

    Returns:
        "top1" and "top5", the shares of videos that are right at 1 and 5; "chance1" and "chance5",
        the same by chance; "tested", how many; "quarantined", videos that could not be used.

    Raises:
        ValueError: videos or encoder do not do.
        StorageError, LostError, FloatingPointError: as of `extraction.embed_videos`.
    """
    torch.set_num_threads(max(int(config.scaling.cpus_per_encoder), 1))
    videos, embedder = videos_of(config, config.seed), open_embedder(config, encoder)
    gallery, lost = embed_videos(embedder, config, videos.train)
    queries, more = embed_videos(embedder, config, videos.test)
    found = retrieve(gallery, queries, KS, "cuda" if config.scaling.use_gpu else "cpu")
    return {
        **{f"top{k}": share for k, share in found.accuracy.items()},
        **{f"chance{k}": share for k, share in found.chance.items()},
        "tested": len(queries.ids),
        "quarantined": len(lost) + len(more),
    }


def _meant(asked: str, known: Mapping[str, Score]) -> list[str]:
    names = [name for name, score in known.items() if asked in (name, score.kind)]
    if not names:
        there = [*dict.fromkeys([*(score.kind for score in known.values()), *known])]
        raise ValueError(
            f"--scores: there is no score {asked!r}{near_miss(asked, there)}; there are "
            f"{', '.join(there)}"
        )
    return names


def _own(score: Score, options: Mapping[str, Any]) -> dict[str, str]:
    """Options of a score -> their field; those of its data set alone come last."""
    prefix, own = f"{PREFIXES.get(score.kind, score.kind)}.", {}
    for name in options:
        head, _, below = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix) and head not in {*PAPERS_DATASETS} - {score.dataset}:
            own[name] = below if head == score.dataset else f"{head}.{below}".rstrip(".")
    return dict(sorted(own.items(), key=lambda each: f"{prefix}{score.dataset}." in each[0]))


def _with_options(score: Score, options: Mapping[str, Any]) -> Score:
    if score.config is None:
        return score
    changes = {field: options[name] for name, field in _own(score, options).items()}
    config = with_values(score.config, changes, f"--set {PREFIXES[score.kind]}")
    return replace(score, config=_anchored(config))


def _anchored(config: ScoreConfig) -> ScoreConfig:
    if isinstance(config, RunConfig):
        return anchored(config)
    data = config.data
    places = {name: absolute(getattr(data, name)) for name in ("uri", "test_uri", "test_list")}
    return config.replace(data=data.model_dump() | places)


def _scores_at(scale: Scale) -> list[Score]:
    if scale == "paper":
        return [Score(IOU, IOU), *_papers_scores()]
    videos, epochs = {"tiny": ("corpus:240", 10), "small": ("corpus:480", 30)}[scale]
    recipe = recipes.finetune_small()
    tuned = recipe.replace(
        data=recipe.data.replace(uri=videos),
        encoder=None,  # that of the trial
        schedule=recipe.schedule.replace(length=epochs),
    )
    small, looked_up = recipes.small_features(), RetrievalDataConfig(uri=videos, test_share=0.25)
    features = small.replace(views=small.views.replace(num_clips=FEW))
    return [
        Score(IOU, IOU),
        Score("retrieval", "retrieval", config=_retrieval(features, looked_up)),
        Score("linear", "linear", config=_linear(tuned)),
        Score("finetune", "finetune", config=tuned),
        Score("tracking", "tracking", config=recipes.track_small().replace(encoder=None)),
    ]


def _papers_scores() -> Iterator[Score]:
    tuned = {"ucf101": recipes.finetune_ucf101(), "hmdb51": recipes.finetune_hmdb51()}
    for dataset, config in tuned.items():
        looked_up = RetrievalDataConfig(uri=config.data.uri, test_uri=config.data.test_uri)
        features = _retrieval(recipes.retrieval_features(), looked_up)
        yield Score(f"finetune-{dataset}", "finetune", dataset, config)
        yield Score(f"linear-{dataset}", "linear", dataset, _linear(config))
        yield Score(f"retrieval-{dataset}", "retrieval", dataset, features)
    yield Score("tracking", "tracking", config=recipes.track_got10k())


def _linear(config: FinetuneConfig) -> FinetuneConfig:
    return config.replace(head=ClassifierHeadConfig(frozen_encoder=True))


def _retrieval(features: EmbedConfig, data: RetrievalDataConfig) -> RetrievalConfig:
    return RetrievalConfig.model_validate(features.model_dump() | {"data": data.model_dump()})
