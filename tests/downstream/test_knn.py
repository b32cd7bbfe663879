"""A quick score of an encoder: whose neighbours are whose, and what could not be read."""

from __future__ import annotations

import numpy as np
import pytest

from ctp.data.catalog import Catalog, open_catalog
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_videos
from ctp.downstream.features import open_embedder, read_encoder_file
from ctp.downstream.knn import check_k, knn_score
from ctp.downstream.labels import LabeledVideos


def videos(config: EmbedConfig) -> LabeledVideos:
    """Two of each class to look up among the others, of which one cannot be read."""
    catalog = open_catalog(config.data.uri)
    rows = {name: row for row, name in enumerate(catalog.columns["id"].to_pylist())}

    def chosen(*names: str) -> Catalog:
        return catalog.select(np.array(sorted(rows[name] for name in names), np.int64))

    train = chosen("a/0.mp4", "a/bad.mp4", "b/3.mp4")
    return LabeledVideos(("a", "b"), train, chosen("a/1.mp4", "a/2.mp4", "b/4.mp4"))


def test_it_is_the_share_whose_nearest_is_of_their_class(small_embedding: EmbedConfig) -> None:
    encoder, _ = read_encoder_file(small_embedding)
    found = knn_score(encoder, small_embedding, videos(small_embedding), k=1)
    embedder = open_embedder(small_embedding, encoder)
    all_videos, _ = embed_videos(embedder, small_embedding, open_catalog(small_embedding.data.uri))
    unit = all_videos.features / np.linalg.norm(all_videos.features, axis=1, keepdims=True)
    of = dict(zip(all_videos.ids, unit, strict=True))
    nearer_to_a = {name: of[name] @ of["a/0.mp4"] > of[name] @ of["b/3.mp4"] for name in of}
    right = [nearer_to_a["a/1.mp4"], nearer_to_a["a/2.mp4"], not nearer_to_a["b/4.mp4"]]
    assert found == {"knn_top1": sum(right) / 3, "knn_tested": 3, "knn_quarantined": 1}


def test_more_neighbours_than_videos(small_embedding: EmbedConfig) -> None:
    check_k(3, videos(small_embedding))
    with pytest.raises(ValueError, match=r"knn\.k is 4, and the gallery has 3 videos"):
        check_k(4, videos(small_embedding))
