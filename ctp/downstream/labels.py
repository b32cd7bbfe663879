"""Labelled videos, divided into those to train on and those to test on."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from ctp.data.catalog import Catalog, check_apart
from ctp.data.sources import open_catalog
from ctp.downstream.config import LabeledVideosConfig
from ctp.rng import uniform_hash
from ctp.text import listed


@dataclass(frozen=True)
class LabeledVideos:
    """The videos of a classification run.

    Attributes:
        classes: names of the classes; the index is the class number.
        train, test: the videos; each has one of the classes as its label.
    """

    classes: tuple[str, ...]
    train: Catalog
    test: Catalog


def open_labeled(data: LabeledVideosConfig, seed: int, section: str = "data") -> LabeledVideos:
    """List the videos to train and to test on.

    Args:
        data: locations, and shares to use.
        seed: chooses the videos of a share.
        section: name of the section of options that holds the locations, for errors.

    Raises:
        ValueError: a video does not exist or has no label, there is only one class or no test
            video, a video is both trained and tested on, or a test video has a class without
            training videos.
    """
    train, test = _parts(data, seed, section)
    if not len(train) or not len(test):
        raise ValueError(
            f"there are {len(train)} training videos and {len(test)} test videos. Set "
            "data.test_uri or data.test_share"
        )
    for catalog, name in ((train, "training"), (test, "test")):
        _check_labeled(catalog, name)
    classes = tuple(sorted(set(labels(train))))
    if len(classes) < 2:
        raise ValueError(
            f"all {len(train)} training videos have the class {classes[0]!r}; expected at least "
            "two classes. The label of a video is the name of its folder, or is stored in its shard"
        )
    foreign = Counter(label for label in labels(test) if label not in set(classes))
    if foreign:
        raise ValueError(
            f"{sum(foreign.values())} test videos have {len(foreign)} class(es) without training "
            f"videos: {listed(foreign)}. The classes of the training videos: {listed(classes)}"
        )
    test_option = "test_uri" if data.test_uri else "test_share"
    check_apart(train, test, f"{section}.uri", f"{section}.{test_option}")
    used = _share_of_each_class(train, data.label_fraction, seed, "label_fraction", leave=0)
    return LabeledVideos(classes, used, test)


def labels(catalog: Catalog) -> list[str]:
    """Return the label of each video, "" for none."""
    return [label or "" for label in catalog.columns["label"].to_pylist()]


def _parts(data: LabeledVideosConfig, seed: int, section: str) -> tuple[Catalog, Catalog]:
    """Return the training and the test videos."""
    listed = open_catalog(data.uri, f"{section}.uri")
    if data.test_uri:
        return listed, open_catalog(data.test_uri, f"{section}.test_uri")
    if not data.test_share:
        return listed, listed.select(np.zeros(0, np.int64))
    _check_labeled(listed, "labelled")
    test = _share_of_each_class(listed, data.test_share, seed, "test_share", leave=1)
    return _without(listed, test), test


def _without(catalog: Catalog, others: Catalog) -> Catalog:
    taken = set(others.columns["id"].to_pylist())
    ids = catalog.columns["id"].to_pylist()
    return catalog.select(np.flatnonzero([video_id not in taken for video_id in ids]))


def _check_labeled(catalog: Catalog, name: str) -> None:
    ids = catalog.columns["id"].to_pylist()
    bare = [video for video, label in zip(ids, labels(catalog), strict=True) if not label]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(ids)} {name} videos have no label: {listed(bare)}. Put them in "
            "folders named by class, or build shards of them (jobs/build_shards.py)"
        )


def _share_of_each_class(
    catalog: Catalog, share: float, seed: int, purpose: str, *, leave: int
) -> Catalog:
    """Return a share of each class's videos: at least one, and all but `leave` at most.

    The videos with the lowest hashes are chosen, so that a larger share contains a smaller one.
    """
    by_class: dict[str, list[tuple[float, int]]] = defaultdict(list)
    ids = catalog.columns["id"].to_pylist()
    for row, (video, label) in enumerate(zip(ids, labels(catalog), strict=True)):
        # by the id alone: new videos in the catalogue leave the choice among the old ones nearly as
        # it is
        by_class[label].append((uniform_hash(seed, purpose, video), row))
    kept: list[int] = []
    for rows in by_class.values():
        # rounded half up: round() rounds half to even, a share of .5 of 5 videos to 2
        count = min(max(math.floor(share * len(rows) + 0.5), 1), len(rows) - leave)
        kept += [row for _, row in sorted(rows)[:count]]
    return catalog.select(np.array(sorted(kept), np.int64))
