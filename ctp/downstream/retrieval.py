"""Video retrieval without training, by VCOP's protocol (§5.5, supplement A, Table 5).

A query is correct at k if one of its k nearest gallery videos by cosine similarity has its class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctp.downstream.embed_config import RETRIEVAL_KS
from ctp.downstream.feature_folder import VideoFeatures
from ctp.text import listed

QUERIES_AT_ONCE, GALLERY_AT_ONCE = 4096, 8192
"""Videos that are compared at a time, which limits memory to about 600 MB."""


@dataclass(frozen=True)
class Neighbours:
    """The gallery videos nearest to each query.

    Attributes:
        indices: int64 [M, k], indices into the gallery, the nearest first.
        similarities: float32 [M, k], cosine similarities.
    """

    indices: NDArray[np.int64]
    similarities: NDArray[np.float32]


@dataclass(frozen=True)
class Retrieval:
    """The result of retrieval.

    Attributes:
        accuracy: k -> share of queries that are correct at k.
        chance: k -> the expected share with random neighbours.
        class_accuracy: class -> share of its queries that are correct at the smallest k.
        neighbours: of each query, for the largest k.
        is_right: bool [M, k], whether a neighbour has the query's class.
    """

    accuracy: dict[int, float]
    chance: dict[int, float]
    class_accuracy: dict[str, float]
    neighbours: Neighbours
    is_right: NDArray[np.bool_]


def retrieve(
    gallery: VideoFeatures,
    queries: VideoFeatures,
    ks: Sequence[int] = RETRIEVAL_KS,
    device: torch.device | str = "cpu",
) -> Retrieval:
    """Find the nearest neighbours of all queries, and the accuracy.

    Raises:
        ValueError: a k is larger than the gallery, a video has no label, or the gallery has only
            one class or lacks a class of the queries; names them.
    """
    ks = sorted(ks)
    _check_labels(gallery, queries)
    found = nearest(gallery.features, queries.features, ks[-1], device)
    own, theirs = np.array(queries.labels), np.array(gallery.labels)
    is_right = theirs[found.indices] == own[:, None]
    accuracy = {k: float(is_right[:, :k].any(axis=1).mean()) for k in ks}
    # at the smallest k, the strictest
    least = is_right[:, : ks[0]].any(axis=1)
    by_class = {str(name): float(least[own == name].mean()) for name in np.unique(own)}
    chances = {k: chance(gallery, queries, k) for k in ks}
    return Retrieval(accuracy, chances, by_class, found, is_right)


def knn_accuracy(
    gallery: VideoFeatures,
    queries: VideoFeatures,
    k: int,
    device: torch.device | str = "cpu",
) -> float:
    """Return the share of queries whose class most of their k nearest neighbours have.

    If several classes have equally many, that of the nearest neighbour among them counts.

    Raises:
        ValueError: see `retrieve`.
    """
    _check_labels(gallery, queries)
    found = nearest(gallery.features, queries.features, k, device)
    names, numbers = np.unique(np.array(gallery.labels), return_inverse=True)
    voted = numbers[found.indices]
    # for each neighbour, how many neighbours of the query have its class
    votes = np.stack([(voted == voted[:, [i]]).sum(axis=1) for i in range(k)], axis=1)
    # argmax takes the first of equals, and neighbours are sorted by distance
    winner = voted[np.arange(len(voted)), votes.argmax(axis=1)]
    return float((names[winner] == np.array(queries.labels)).mean())


def nearest(
    gallery: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    device: torch.device | str = "cpu",
) -> Neighbours:
    """Find the k nearest gallery features of each query by cosine similarity.

    Args:
        gallery: [N, D], at least k.
        queries: [M, D].
        k: number of neighbours.
        device: to compute on; its memory use does not depend on N and M.

    Raises:
        ValueError: there are fewer than k.
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k is {k}; expected 1 to {len(gallery)}, the number of gallery videos")
    found = [
        _nearest_of(gallery, _unit(queries[start : start + QUERIES_AT_ONCE], device), k, device)
        for start in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    similarities, indices = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))
    return Neighbours(indices, similarities)


def chance(gallery: VideoFeatures, queries: VideoFeatures, k: int) -> float:
    """Return the mean probability that one of k random gallery videos has a query's class."""
    total, sizes = len(gallery.ids), Counter(gallery.labels)
    others = np.array([total - sizes[label] for label in queries.labels])
    # the probability that all k draws, without replacement, have another class
    drawn = np.arange(k)
    # 0 if fewer than k videos have another class: then one of k must be right
    misses = np.maximum(others[:, None] - drawn, 0) / (total - drawn)
    return float(1 - misses.prod(axis=1).mean())


def _nearest_of(
    gallery: NDArray[np.float32], queries: Tensor, k: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return the similarities and gallery indices of the k nearest of some queries."""
    best = torch.empty(len(queries), 0, device=device)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(gallery), GALLERY_AT_ONCE):
        some = queries @ _unit(gallery[start : start + GALLERY_AT_ONCE], device).T
        # the best of this block compete with the best so far: all similarities would not fit into
        # memory
        values, where = some.topk(min(k, some.shape[1]), dim=1)
        best, places = torch.cat([best, values], dim=1), torch.cat([places, where + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        places = places.gather(1, order)
    return best, places


def _unit(features: NDArray[np.float32], device: torch.device | str) -> Tensor:
    return F.normalize(torch.from_numpy(features).to(device), dim=1)


def _check_labels(gallery: VideoFeatures, queries: VideoFeatures) -> None:
    for role, videos in (("gallery", gallery), ("query", queries)):
        if not len(videos.ids):
            raise ValueError(f"there are no {role} videos")
        bare = [name for name, label in zip(videos.ids, videos.labels, strict=True) if not label]
        if bare:
            raise ValueError(
                f"{len(bare)} {role} video(s) have no label: {listed(bare)}. Put them in folders "
                "named by class, or build shards of them (jobs/build_shards.py)"
            )
    known = set(gallery.labels)
    if len(known) == 1:
        raise ValueError(
            f"all {len(gallery.ids)} gallery videos have the class {gallery.labels[0]!r}; expected "
            "at least two classes"
        )
    lacking = Counter(str(label) for label in queries.labels if label not in known)
    if lacking:
        raise ValueError(
            f"{lacking.total()} queries have {len(lacking)} class(es) that the gallery lacks: "
            f"{listed(sorted(lacking))}. The gallery has {listed(sorted(map(str, known)))}"
        )
