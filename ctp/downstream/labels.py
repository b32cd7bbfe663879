"""Labelled videos: which to train on, which to test on, and what classes there are."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from ctp.data.catalog import Catalog, open_catalog
from ctp.downstream.config import LabeledDataConfig
from ctp.rng import uniform_hash
from ctp.storage import Storage
from ctp.text import listed


@dataclass(frozen=True)
class LabeledVideos:
    """What a classifier learns from, and what it is tested on.

    Attributes:
        classes: names of the classes, in the order of their numbers.
        train, test: the videos, each labelled by one of the classes.
    """

    classes: tuple[str, ...]
    train: Catalog
    test: Catalog


def open_labeled(data: LabeledDataConfig, seed: int) -> LabeledVideos:
    """List the videos to train and to test on.

    Args:
        data: where they are.
        seed: which of them, where shares are asked for.

    Raises:
        ValueError: a list names videos that are not there, videos are unlabelled, there is one
            class only, nothing to test on, or classes to test on that are not trained on.
    """
    train, test = _parts(data, seed)
    if not len(train) or not len(test):
        raise ValueError(
            f"there are {len(train)} videos to train on and {len(test)} to test on. Say which to "
            "test on by data.test_uri, data.test_list or data.test_share"
        )
    for catalog, name in ((train, "train"), (test, "test")):
        _check_labeled(catalog, name)
    classes = tuple(sorted(set(labels(train))))
    if len(classes) < 2:
        raise ValueError(
            f"all {len(train)} videos to train on are of class {classes[0]!r}: there is nothing to "
            "tell apart. Labels are the names of the folders that videos lie in, or in the shards"
        )
    foreign = Counter(label for label in labels(test) if label not in set(classes))
    if foreign:
        raise ValueError(
            f"{sum(foreign.values())} videos to test on are of {len(foreign)} class(es) that none "
            f"to train on is of: {listed(foreign)}; those trained on are {listed(classes)}"
        )
    used = _share_of_each_class(train, data.label_fraction, seed, "label_fraction", leave=0)
    return LabeledVideos(classes, used, test)


def labels(catalog: Catalog) -> list[str]:
    """The label of each video, "" for none."""
    return [label or "" for label in catalog.columns["label"].to_pylist()]


def _parts(data: LabeledDataConfig, seed: int) -> tuple[Catalog, Catalog]:
    listed = open_catalog(data.uri)
    train = _named(listed, data.train_list) if data.train_list else None
    if data.test_uri:
        return train or listed, open_catalog(data.test_uri)
    if data.test_list:
        test = _named(listed, data.test_list)
        return train or _without(listed, test), test
    if train is not None:
        return train, _without(listed, train)
    if not data.test_share:
        return listed, listed.select(np.zeros(0, np.int64))
    _check_labeled(listed, "train and test")
    test = _share_of_each_class(listed, data.test_share, seed, "test_share", leave=1)
    return _without(listed, test), test


def _named(catalog: Catalog, uri: str) -> Catalog:
    """The videos that a list names: an id a line, perhaps with the number of its class after it."""
    rows = {video_id: row for row, video_id in enumerate(catalog.columns["id"].to_pylist())}
    lines = [line.strip() for line in Storage.of(uri).read_bytes().decode().splitlines()]
    named = [line if line in rows else line.rpartition(" ")[0] or line for line in lines if line]
    missing = [name for name in named if name not in rows]
    if missing:
        raise ValueError(
            f"{uri} names {len(missing)} video(s) of {len(named)} that are not there: "
            f"{listed(missing)}; those there are {listed(rows)}"
        )
    return catalog.select(np.array(sorted({rows[name] for name in named}), np.int64))


def _without(catalog: Catalog, others: Catalog) -> Catalog:
    taken = set(others.columns["id"].to_pylist())
    ids = catalog.columns["id"].to_pylist()
    return catalog.select(np.flatnonzero([video_id not in taken for video_id in ids]))


def _check_labeled(catalog: Catalog, name: str) -> None:
    ids = catalog.columns["id"].to_pylist()
    bare = [video for video, label in zip(ids, labels(catalog), strict=True) if not label]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(ids)} videos to {name} on have no label: {listed(bare)}. Put "
            "them in folders named by class, or build shards of them (jobs/build_shards.py)"
        )


def _share_of_each_class(
    catalog: Catalog, share: float, seed: int, purpose: str, *, leave: int
) -> Catalog:
    """A share of each class's videos, one at least, but `leave` of them at least are not in it.

    They are those of the least hash, so that those of a smaller share are among them.
    """
    by_class: dict[str, list[tuple[float, int]]] = defaultdict(list)
    ids = catalog.columns["id"].to_pylist()
    for row, (video, label) in enumerate(zip(ids, labels(catalog), strict=True)):
        by_class[label].append((uniform_hash(seed, purpose, video), row))
    kept: list[int] = []
    for rows in by_class.values():
        count = min(max(math.floor(share * len(rows) + 0.5), 1), len(rows) - leave)
        kept += [row for _, row in sorted(rows)[:count]]
    return catalog.select(np.array(sorted(kept), np.int64))
