"""Retrieval: worked by hand, and held to a plain reference in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ctp.downstream import retrieval
from ctp.downstream.feature_folder import VideoFeatures
from ctp.downstream.retrieval import knn_accuracy, nearest, retrieve

# unit vectors by their angle in degrees
GALLERY = {0: "run", 10: "walk", 20: "run", 90: "walk", 180: "sit"}
QUERIES = {4: "run", 7: "run", 99: "sit", 170: "sit"}


def at(degrees: dict[int, str], lengths: Sequence[float] | None = None) -> VideoFeatures:
    radians = np.radians(list(degrees))
    features = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    if lengths is not None:
        features *= np.array(lengths, np.float32)[:, None]
    return VideoFeatures([f"{d}.mp4" for d in degrees], list(degrees.values()), features)


def test_neighbours_and_accuracy_by_hand() -> None:
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


def test_the_lengths_of_features_do_not_matter() -> None:
    plain = retrieve(at(GALLERY), at(QUERIES), ks=(5,))
    scaled = retrieve(at(GALLERY, (9, 0.1, 3, 100, 1)), at(QUERIES, (1, 0.01, 7, 50)), ks=(5,))
    assert (plain.neighbours.indices == scaled.neighbours.indices).all()


def reference(
    gallery: VideoFeatures, queries: VideoFeatures, ks: Sequence[int]
) -> tuple[np.ndarray, dict[int, float]]:
    """Return the order of the gallery for each query, and the accuracies, computed in float64."""
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
def test_equals_the_reference_for_any_size_of_blocks(
    monkeypatch: pytest.MonkeyPatch, queries_at_once: int, gallery_at_once: int
) -> None:
    monkeypatch.setattr(retrieval, "QUERIES_AT_ONCE", queries_at_once)
    monkeypatch.setattr(retrieval, "GALLERY_AT_ONCE", gallery_at_once)
    gallery, queries = random_features(100, 0), random_features(40, 1)
    found = retrieve(gallery, queries)
    order, accuracy = reference(gallery, queries, retrieval.RETRIEVAL_KS)
    assert (found.neighbours.indices == order[:, :50]).all()
    assert found.accuracy == accuracy
    assert list(found.accuracy) == [1, 5, 10, 20, 50]


def test_the_class_of_most_neighbours_wins() -> None:
    # of the query at 7: walk; walk, run; walk, run, run
    assert knn_accuracy(at(GALLERY), at({7: "run"}), k=1) == 0
    assert knn_accuracy(at(GALLERY), at({7: "run"}), k=2) == 0  # the nearer of the two
    assert knn_accuracy(at(GALLERY), at({7: "run"}), k=3) == 1
    assert knn_accuracy(at(GALLERY), at(QUERIES), k=1) == 0.5


def test_a_k_that_does_not_fit_the_gallery_is_refused() -> None:
    with pytest.raises(ValueError, match=r"50.* 5, "):
        retrieve(at(GALLERY), at(QUERIES))
    with pytest.raises(ValueError, match="k is 0; expected 1 to 5"):
        nearest(at(GALLERY).features, at(QUERIES).features, 0)


def test_videos_without_a_label_are_refused() -> None:
    bare = at(dict.fromkeys(range(12), ""))
    with pytest.raises(ValueError, match=r"12 query.*'0\.mp4'"):
        retrieve(at(GALLERY), bare, ks=(1,))
    unknown = VideoFeatures(bare.ids, [None] * 12, bare.features)
    with pytest.raises(ValueError, match=r"gallery.* 7 more"):
        knn_accuracy(unknown, at(QUERIES), k=1)


def test_queries_of_classes_that_the_gallery_lacks_are_refused() -> None:
    queries = at({1: "run", 2: "jump", 3: "jump", 4: "fly"})
    with pytest.raises(ValueError, match=r"3 queries .*'fly', 'jump'"):
        retrieve(at(GALLERY), queries, ks=(1,))


def test_a_gallery_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 gallery videos .*'run'"):
        retrieve(at({0: "run", 1: "run"}), at({2: "run"}), ks=(1,))


def test_no_queries_are_refused() -> None:
    nothing = VideoFeatures([], [], np.empty((0, 2), np.float32))
    with pytest.raises(ValueError, match="no query videos"):
        retrieve(at(GALLERY), nothing, ks=(1,))
