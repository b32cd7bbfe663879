"""Where a sweep's videos are, and whether they do, found out before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from ctp.data.annotated import open_annotated
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.labels import open_labeled
from ctp.downstream.track_config import TrackConfig
from ctp.pretext.config import DataConfig
from ctp.pretext.pretrain import Pretraining
from ctp.storage import StorageError
from ctp.sweeps.plan import Plan
from ctp.sweeps.scores import PREFIXES, RetrievalConfig, Score, videos_of
from ctp.training.claim import Uris, read_places


def check_videos(plan: Plan) -> list[str]:
    """List the videos of all runs.

    Returns:
        A line for each kind of run: how many there are.

    Raises:
        ValueError: there are none, too few, or they are not labelled; says which option to give.
        StorageError: they cannot be listed.
    """
    told: dict[DataConfig, str] = {}
    for trial in plan.trials:
        data = trial.pretrain.data
        if data not in told:
            with _said("data.uri"):
                job = Pretraining.of(trial.pretrain)
            train, heldout = (len(catalog) for catalog in job.catalogs)
            told[data] = f"pretraining: {train} videos, {heldout} held out"
    return [*told.values(), *filter(None, map(_listed, plan.scores))]


def _listed(score: Score) -> str:
    config = score.config
    if config is None:
        return ""
    option = ".".join(filter(None, (PREFIXES[score.kind], score.dataset, "data.uri")))
    with _said(option):
        if isinstance(config, FinetuneConfig):
            found = open_labeled(config.data, config.seed)
        elif isinstance(config, RetrievalConfig):
            found = videos_of(config, config.seed)
        else:
            return _annotated(score.name, config)
    classes = f"videos of {len(found.classes)} classes"
    return f"{score.name}: {len(found.train)} {classes} to learn from, {len(found.test)} to test on"


def _annotated(name: str, config: TrackConfig) -> str:
    train, test = (len(open_annotated(u).catalog) for u in (config.data.uri, config.data.test_uri))
    return f"{name}: {train} videos to train on, {test} to test on"


def places_of(plan: Plan) -> list[Uris]:
    """What the trials of a sweep read."""
    runs = [trial.pretrain for trial in plan.trials]
    places = list(chain.from_iterable(map(read_places, runs)))
    for score in plan.scores:
        if isinstance(score.config, RetrievalConfig):
            places += [score.config.data.uri, score.config.data.test_uri]
        elif score.config is not None:
            places += read_places(score.config)
    return places


@contextmanager
def _said(option: str) -> Iterator[None]:
    """Errors name the option that mends them."""
    try:
        yield
    except (ValueError, StorageError) as error:
        kind = StorageError if isinstance(error, StorageError) else ValueError
        raise kind(f"{error}. Say which videos by --set {option}=URI") from error
