"""Retrieval: worked by hand, and held to a plain reference in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ctp.downstream import retrieval
from ctp.downstream.feature_folder import VideoFeatures
from ctp.downstream.retrieval import knn_accuracy, nearest, retrieve

# seen from the origin, at so many degrees
GALLERY = {0: "run", 10: "walk", 20: "run", 90: "walk", 180: "sit"}
QUERIES = {4: "run", 7: "run", 99: "sit", 170: "sit"}


def at(degrees: dict[int, str], lengths: Sequence[float] | None = None) -> VideoFeatures:
    radians = np.radians(list(degrees))
    features = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    if lengths is not None:
        features *= np.array(lengths, np.float32)[:, None]
    return VideoFeatures([f"{d}.mp4" for d in degrees], list(degrees.values()), features)


def test_by_hand() -> None:
    found = retrieve(at(GALLERY), at(QUERIES), ks=(1, 2, 3))
    assert found.neighbours.indices.tolist() == [[0, 1, 2], [1, 0, 2], [3, 2, 4], [4, 3, 2]]
    np.testing.assert_allclose(
        found.neighbours.similarities[0], np.cos(np.radians([4, 6, 16])), rtol=1e-6
    )
    # at 1: the query at 4 finds run, that at 7 walk, that at 99 walk, that at 170 sit
    assert found.accuracy == {1: 0.5, 2: 0.75, 3: 1.0}
    assert found.class_accuracy == {"run": 0.5, "sit": 0.5}
    assert found.is_right[1].tolist() == [False, True, True]


def test_chance_by_hand() -> None:
    # 2 of 5 are run, 1 of 5 is sit: both draws miss with 3/5 · 2/4, 4/5 · 3/4
    found = retrieve(at(GALLERY), at(QUERIES), ks=(1, 2, 5))
    assert found.chance[1] == pytest.approx((2 / 5 + 1 / 5) / 2)
    assert found.chance[2] == pytest.approx((1 - 0.3 + 1 - 0.6) / 2)
    assert found.chance[5] == 1


def test_lengths_do_not_matter() -> None:
    plain = retrieve(at(GALLERY), at(QUERIES), ks=(5,))
    scaled = retrieve(at(GALLERY, (9, 0.1, 3, 100, 1)), at(QUERIES, (1, 0.01, 7, 50)), ks=(5,))
    assert (plain.neighbours.indices == scaled.neighbours.indices).all()


def reference(
    gallery: VideoFeatures, queries: VideoFeatures, ks: Sequence[int]
) -> tuple[np.ndarray, dict[int, float]]:
    """All at once, in float64: the order of the gallery for each query, and the accuracies."""
    first, second = (
        each.features.astype(np.float64) / np.linalg.norm(each.features, axis=1, keepdims=True)
        for each in (queries, gallery)
    )
    order = np.argsort(1 - first @ second.T, axis=1)
    right = {
        k: [
            queries.labels[i] in {gallery.labels[j] for j in order[i, :k]}
            for i in range(len(order))
        ]
        for k in ks
    }
    return order, {k: float(np.mean(each)) for k, each in right.items()}


def random_features(number: int, seed: int) -> VideoFeatures:
    rng = np.random.default_rng(seed)
    labels = [f"class {label}" for label in rng.integers(0, 12, number)]
    features = rng.random((number, 18), np.float32)
    return VideoFeatures([str(i) for i in range(number)], labels, features)


@pytest.mark.parametrize(("queries_at_once", "gallery_at_once"), [(4096, 8192), (7, 13), (1, 30)])
def test_as_the_reference_whatever_is_compared_at_a_time(
    monkeypatch: pytest.MonkeyPatch, queries_at_once: int, gallery_at_once: int
) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_AT_ONCE", queries_at_once)
    monkeypatch.setattr(retrieval, "GALLERY_AT_ONCE", gallery_at_once)
    gallery, queries = random_features(100, 0), random_features(40, 1)
    found = retrieve(gallery, queries)
    order, accuracy = reference(gallery, queries, retrieval.KS)
    assert (found.neighbours.indices == order[:, :50]).all()
    assert found.accuracy == accuracy
    assert list(found.accuracy) == [1, 5, 10, 20, 50]


def test_most_neighbours_decide() -> None:
    # of the query at 7: walk; walk, run; walk, run, run
    assert knn_accuracy(at(GALLERY), at({7: "run"}), k=1) == 0
    assert knn_accuracy(at(GALLERY), at({7: "run"}), k=2) == 0  # the nearer of the two
    assert knn_accuracy(at(GALLERY), at({7: "run"}), k=3) == 1
    assert knn_accuracy(at(GALLERY), at(QUERIES), k=1) == 0.5


def test_a_k_larger_than_the_gallery() -> None:
    with pytest.raises(ValueError, match="k is 50, and the gallery has 5 videos"):
        retrieve(at(GALLERY), at(QUERIES))
    with pytest.raises(ValueError, match="k is 0"):
        nearest(at(GALLERY).features, at(QUERIES).features, 0)


def test_videos_without_a_label() -> None:
    bare = at(dict.fromkeys(range(12), ""))
    with pytest.raises(ValueError, match=r"12 video\(s\) of the queries have no label: '0.mp4'"):
        retrieve(at(GALLERY), bare, ks=(1,))
    unknown = VideoFeatures(bare.ids, [None] * 12, bare.features)
    with pytest.raises(ValueError, match=r"of the gallery have no label: .* and 7 more\. Put each"):
        knn_accuracy(unknown, at(QUERIES), k=1)


def test_classes_that_the_gallery_lacks() -> None:
    queries = at({1: "run", 2: "jump", 3: "jump", 4: "fly"})
    said = r"3 queries are of 2 class\(es\) that the gallery lacks: 'fly', 'jump'. The gallery has"
    with pytest.raises(ValueError, match=said):
        retrieve(at(GALLERY), queries, ks=(1,))


def test_a_gallery_of_one_class() -> None:
    with pytest.raises(ValueError, match="all 2 videos of the gallery are of one class, 'run'"):
        retrieve(at({0: "run", 1: "run"}), at({2: "run"}), ks=(1,))


def test_nothing_to_look_up() -> None:
    nothing = VideoFeatures([], [], np.empty((0, 2), np.float32))
    with pytest.raises(ValueError, match="no videos among the queries"):
        retrieve(at(GALLERY), nothing, ks=(1,))
