"""Telling labelled videos apart by their nearest neighbours: a quick score of any encoder."""

from __future__ import annotations

from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_videos
from ctp.downstream.features import open_embedder
from ctp.downstream.labels import LabeledVideos
from ctp.downstream.retrieval import knn_accuracy


def check_k(k: int, videos: LabeledVideos) -> None:
    """Check beforehand that there are as many neighbours as are asked for.

    Raises:
        ValueError: there are fewer.
    """
    if k > len(videos.train):
        raise ValueError(f"knn.k is {k}, and the gallery has {len(videos.train)} videos. Lower it")


def knn_score(
    encoder: bytes, config: EmbedConfig, videos: LabeledVideos, k: int
) -> dict[str, float]:
    """How many of the videos to test on have the class of most of their k nearest neighbours.

    Args:
        encoder: an encoder.safetensors.
        config: of the features; its own `encoder` is the file's name in errors.
        videos: those to train on are the gallery.
        k: neighbours that vote.

    Returns:
        "knn_top1", that share; "knn_tested", of how many; "knn_quarantined", the videos of both
        kinds that could not be used.

    Raises:
        ValueError: the encoder does not fit, or fewer than k videos can be used.
        StorageError, LostError, FloatingPointError: as of `extraction.embed_videos`.
    """
    embedder = open_embedder(config, encoder)
    gallery, lost = embed_videos(embedder, config, videos.train)
    queries, more = embed_videos(embedder, config, videos.test)
    return {
        "knn_top1": knn_accuracy(gallery, queries, k),
        "knn_tested": len(queries.ids),
        "knn_quarantined": len(lost) + len(more),
    }
