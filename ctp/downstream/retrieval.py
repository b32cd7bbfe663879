"""Video retrieval without training, by VCOP's protocol (§5.5, supplement A, Table 5).

A query is right at k when one of the k gallery videos nearest to it, by cosine, has its class.
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

from ctp.downstream.feature_folder import VideoFeatures
from ctp.text import listed

KS = (1, 5, 10, 20, 50)
"""The k of the protocol."""
QUERIES_AT_ONCE, GALLERY_AT_ONCE = 4096, 8192
"""Videos that are compared at a time: some 600 MB in all, however many there are."""


@dataclass(frozen=True)
class Neighbours:
    """The gallery videos nearest to each query.

    Attributes:
        indices: int64 [M, k], places in the gallery, the nearest first.
        similarities: float32 [M, k], their cosines.
    """

    indices: NDArray[np.int64]
    similarities: NDArray[np.float32]


@dataclass(frozen=True)
class Retrieval:
    """What retrieval came to.

    Attributes:
        accuracy: k -> share of queries that are right at k.
        chance: k -> the same, had the neighbours been drawn at random.
        class_accuracy: class -> share of its queries that are right at the least k.
        neighbours: of each query, as many as the greatest k.
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
    ks: Sequence[int] = KS,
    device: torch.device | str = "cpu",
) -> Retrieval:
    """Find the neighbours of all queries, and how often they are right.

    Raises:
        ValueError: a k is larger than the gallery, a video has no label, the gallery has one class
            only, or lacks one of the queries; says how many and which.
    """
    ks = sorted(ks)
    _check_labels(gallery, queries)
    found = nearest(gallery.features, queries.features, ks[-1], device)
    own, theirs = np.array(queries.labels), np.array(gallery.labels)
    is_right = theirs[found.indices] == own[:, None]
    accuracy = {k: float(is_right[:, :k].any(axis=1).mean()) for k in ks}
    least = is_right[:, : ks[0]].any(axis=1)
    by_class = {str(name): float(least[own == name].mean()) for name in np.unique(own)}
    chance = {k: _chance(gallery, queries, k) for k in ks}
    return Retrieval(accuracy, chance, by_class, found, is_right)


def knn_accuracy(
    gallery: VideoFeatures,
    queries: VideoFeatures,
    k: int,
    device: torch.device | str = "cpu",
) -> float:
    """Share of queries whose class most of their k nearest neighbours have; where classes have
    equally many, the one with the nearest of them counts.

    Raises:
        ValueError: as `retrieve`.
    """
    _check_labels(gallery, queries)
    found = nearest(gallery.features, queries.features, k, device)
    names, numbers = np.unique(np.array(gallery.labels), return_inverse=True)
    voted = numbers[found.indices]
    # how many of a query's k neighbours have the class that each of them has
    votes = np.stack([(voted == voted[:, [i]]).sum(axis=1) for i in range(k)], axis=1)
    winner = voted[np.arange(len(voted)), votes.argmax(axis=1)]
    return float((names[winner] == np.array(queries.labels)).mean())


def nearest(
    gallery: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    device: torch.device | str = "cpu",
) -> Neighbours:
    """The k gallery features nearest to each query by cosine; of equally near ones, any.

    Args:
        gallery: [N, D], at least k.
        queries: [M, D].
        k: how many.
        device: what to compute on; the memory it takes does not grow with N and M.

    Raises:
        ValueError: there are fewer than k.
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(
            f"k is {k}, and the gallery has {len(gallery)} videos; wanted a k from 1 to that"
        )
    found = [
        _nearest_of(gallery, _unit(queries[start : start + QUERIES_AT_ONCE], device), k, device)
        for start in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    similarities, indices = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))
    return Neighbours(indices, similarities)


def _chance(gallery: VideoFeatures, queries: VideoFeatures, k: int) -> float:
    """How often one of k gallery videos drawn at random has a query's class, on average."""
    total, sizes = len(gallery.ids), Counter(gallery.labels)
    others = np.array([total - sizes[label] for label in queries.labels])
    # the draws are without replacement, and all miss
    drawn = np.arange(k)
    misses = np.maximum(others[:, None] - drawn, 0) / (total - drawn)
    return float(1 - misses.prod(axis=1).mean())


def _nearest_of(
    gallery: NDArray[np.float32], queries: Tensor, k: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Similarities and places in the gallery of the k nearest to a few queries."""
    best = torch.empty(len(queries), 0, device=device)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(gallery), GALLERY_AT_ONCE):
        some = queries @ _unit(gallery[start : start + GALLERY_AT_ONCE], device).T
        values, where = some.topk(min(k, some.shape[1]), dim=1)
        best, places = torch.cat([best, values], dim=1), torch.cat([places, where + start], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        places = places.gather(1, order)
    return best, places


def _unit(features: NDArray[np.float32], device: torch.device | str) -> Tensor:
    return F.normalize(torch.from_numpy(features).to(device), dim=1)


def _check_labels(gallery: VideoFeatures, queries: VideoFeatures) -> None:
    for role, videos in (("gallery", gallery), ("queries", queries)):
        if not len(videos.ids):
            raise ValueError(f"there are no videos among the {role}")
        bare = [name for name, label in zip(videos.ids, videos.labels, strict=True) if not label]
        if bare:
            raise ValueError(
                f"{len(bare)} video(s) of the {role} have no label: {listed(bare)}. Put each into "
                "a folder named by its class, or give labels in a .txt list"
            )
    known = set(gallery.labels)
    if len(known) == 1:
        raise ValueError(
            f"all {len(gallery.ids)} videos of the gallery are of one class, "
            f"{gallery.labels[0]!r}: every neighbour would be right. Take a gallery of several"
        )
    lacking = Counter(str(label) for label in queries.labels if label not in known)
    if lacking:
        raise ValueError(
            f"{lacking.total()} queries are of {len(lacking)} class(es) that the gallery lacks: "
            f"{listed(sorted(lacking))}. The gallery has {listed(sorted(map(str, known)))}"
        )
