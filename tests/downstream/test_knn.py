"""The k-NN score of an encoder: held to the features themselves."""

from __future__ import annotations

import numpy as np
import pytest

from ctp.data.catalog import Catalog
from ctp.data.sources import open_catalog
from ctp.data.stream import load_here
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_videos
from ctp.downstream.features import open_embedder, read_encoder_file
from ctp.downstream.knn import check_k, knn_score
from ctp.downstream.labels import LabeledVideos


@pytest.fixture
def videos(small_embedding: EmbedConfig) -> LabeledVideos:
    """A gallery of three videos, of which one cannot be read, and three queries."""
    catalog = open_catalog(small_embedding.data.uri)
    rows = {name: row for row, name in enumerate(catalog.columns["id"].to_pylist())}

    def chosen(*names: str) -> Catalog:
        return catalog.select(np.array(sorted(rows[name] for name in names), np.int64))

    train = chosen("a/0.mp4", "a/bad.mp4", "b/3.mp4")
    return LabeledVideos(("a", "b"), train, chosen("a/1.mp4", "a/2.mp4", "b/4.mp4"))


def test_the_score_is_the_share_of_queries_with_a_nearest_neighbour_of_their_class(
    small_embedding: EmbedConfig, videos: LabeledVideos
) -> None:
    encoder, _ = read_encoder_file(small_embedding)
    found = knn_score(encoder, small_embedding, videos, 1, load_here)
    embedder = open_embedder(small_embedding, encoder)
    catalog = open_catalog(small_embedding.data.uri)
    features, _ = embed_videos(embedder, small_embedding, catalog, load_here)
    unit = features.features / np.linalg.norm(features.features, axis=1, keepdims=True)
    of = dict(zip(features.ids, unit, strict=True))
    nearer_to_a = {name: of[name] @ of["a/0.mp4"] > of[name] @ of["b/3.mp4"] for name in of}
    right = [nearer_to_a["a/1.mp4"], nearer_to_a["a/2.mp4"], not nearer_to_a["b/4.mp4"]]
    # the gallery has a video of each class
    assert found == {
        "knn_top1": sum(right) / 3, "knn_chance": 0.5, "knn_tested": 3, "knn_quarantined": 1,
    }  # fmt: skip


def test_more_neighbours_than_videos_are_refused(videos: LabeledVideos) -> None:
    check_k(3, videos)
    with pytest.raises(ValueError, match=r"4.* 3 videos"):
        check_k(4, videos)
