"""The accuracy of a nearest-neighbour classifier, as a quick score of an encoder."""

from __future__ import annotations

from ctp.data.stream import LoadVideos
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.extraction import embed_labeled
from ctp.downstream.labels import LabeledVideos
from ctp.downstream.retrieval import chance, knn_accuracy


def check_k(k: int, videos: LabeledVideos) -> None:
    """Check that the gallery has at least k videos.

    Raises:
        ValueError: it has fewer.
    """
    if k > len(videos.train):
        raise ValueError(
            f"knn.uri: {k} neighbours vote, but the gallery has {len(videos.train)} videos"
        )


def knn_score(
    encoder: bytes, config: EmbedConfig, videos: LabeledVideos, k: int, load: LoadVideos
) -> dict[str, float]:
    """Return the share of test videos whose class most of their k nearest neighbours have.

    Args:
        encoder: an encoder.safetensors.
        config: of the features; its `encoder` is the name used in errors.
        videos: the training videos are the gallery.
        k: number of neighbours that vote.
        load: reads the videos.

    Returns:
        "knn_top1", the share; "knn_chance", the same with one random neighbour; "knn_tested", the
        number of test videos; "knn_quarantined", the number of quarantined videos.

    Raises:
        ValueError: the encoder does not fit, or fewer than k videos can be used.
        StorageError, FloatingPointError: see `embed_labeled`.
    """
    gallery, queries, quarantined = embed_labeled(encoder, config, videos, load)
    return {
        "knn_top1": knn_accuracy(gallery, queries, k),
        "knn_chance": chance(gallery, queries, 1),
        "knn_tested": len(queries.ids),
        "knn_quarantined": quarantined,
    }
