"""Score features by retrieval, and draw queries with their nearest neighbours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctp.commands.retrieve import RetrieveConfig
from ctp.data.catalog import TEXT, Catalog, check_apart
from ctp.data.sources import open_catalog
from ctp.downstream.embed_config import RETRIEVAL_KS
from ctp.downstream.feature_folder import (
    Manifest,
    VideoFeatures,
    by_pooling,
    check_comparable,
    read_features,
)
from ctp.downstream.retrieval import Retrieval, chance, knn_accuracy, retrieve
from ctp.report.neighbours import Row, Shown, describe_retrieval, neighbours_png
from ctp.report.preview import read_clip
from ctp.score import format_share
from ctp.storage import Storage, StorageError
from ctp.text import and_unread
from ctp.versions import written_by
from ctp.video.config import ViewsConfig

SCORES, PICTURE = "retrieval.json", "neighbours.png"
NEIGHBOURS_SHOWN, SIDE_PX = 6, 128
"""Neighbours of each query in the picture, and the side of a video in it."""

Side = tuple[Manifest, VideoFeatures]


def run(config: RetrieveConfig) -> None:
    """Score, draw, and print the scores.

    Raises:
        ValueError: features are missing or cannot be compared, a query is in the gallery, or a
            video is gone.
        StorageError: something cannot be read or written.
    """
    missing = [
        f"--{name} is missing: a folder that jobs/embed.py made"
        for name in ("gallery", "queries")
        if not getattr(config, name)
    ]
    if missing:
        raise ValueError("\n  ".join(missing))
    out = Storage.from_uri(config.out)
    out.check_output()
    about_gallery, gallery = read_features(config.gallery)
    about_queries, queries = read_features(config.queries)
    check_comparable(about_gallery, about_queries)
    _check_apart((about_gallery, gallery), (about_queries, queries))
    device = "cuda" if config.use_gpu else "cpu"
    galleries, asked = (by_pooling(each, about_queries.features) for each in (gallery, queries))
    ks = _ks(config, len(next(iter(galleries.values())).ids))
    results = {name: retrieve(galleries[name], asked[name], ks, device) for name in galleries}
    first, found = next(iter(results.items()))
    gallery, queries = galleries[first], asked[first]
    knn = knn_accuracy(gallery, queries, config.knn, device) if config.knn else None
    by_chance = chance(gallery, queries, 1)
    scores = _scores(config, about_gallery, about_queries, results, knn, by_chance)
    out.join(SCORES).write_bytes(json.dumps(scores, indent=2).encode())
    _print(scores)
    print(out.join(SCORES).uri)
    if config.num_pictured:
        rows = _rows(config, (about_gallery, gallery), (about_queries, queries), found)
        title = describe_retrieval(found, len(queries.ids))
        out.join(PICTURE).write_bytes(neighbours_png(rows, title))
        print(out.join(PICTURE).uri)


def _ks(config: RetrieveConfig, num_gallery: int) -> list[int]:
    """Return the numbers of neighbours to score by.

    Raises:
        ValueError: one that was given is larger than the gallery.
    """
    for option, given in (("ks", config.ks), ("knn", (config.knn or 1,))):
        if given and max(given) > num_gallery:
            raise ValueError(
                f"--{option} has {max(given)}; expected at most {num_gallery}, the number of "
                "gallery videos"
            )
    return list(config.ks) or [k for k in RETRIEVAL_KS if k <= num_gallery]


def _check_apart(gallery: Side, queries: Side) -> None:
    """Check that no query is in the gallery, where it would find itself.

    Raises:
        ValueError: some are; says how many, and names one.
    """
    (about, searched), (other, asked) = gallery, queries
    both = set(searched.ids) & set(asked.ids)
    # of one source, ids tell; of two, they may be equal by chance, and differ for one video
    if about.data_uri == other.data_uri and both:
        raise ValueError(
            f"{len(both)} of {len(asked.ids)} queries are in the gallery, such as {min(both)!r} of "
            f"{about.data_uri}: each would find itself. Take those of the training videos, and of "
            "the test videos"
        )
    try:
        catalogs = _catalog(*gallery), _catalog(*queries)
    except (ValueError, StorageError) as error:  # features outlive their videos
        print(f"It is not known whether a query is in the gallery: {error}")
        return
    check_apart(*catalogs, "--gallery", "--queries")


def _catalog(manifest: Manifest, videos: VideoFeatures) -> Catalog:
    """List the videos of features."""
    catalog = open_catalog(manifest.data_uri)
    has_features = pc.is_in(catalog.columns["id"], value_set=pa.array(videos.ids, TEXT))
    return catalog.select(np.flatnonzero(has_features))


def _scores(
    config: RetrieveConfig,
    gallery: Manifest,
    queries: Manifest,
    results: Mapping[str, Retrieval],
    knn: float | None,
    by_chance: float,
) -> dict[str, Any]:
    """Return the contents of retrieval.json; those of the first pooling, if not said otherwise."""
    accuracies = {
        name: {str(k): share for k, share in each.accuracy.items()}
        for name, each in results.items()
    }
    found = next(iter(results.values()))
    return {
        "accuracy": next(iter(accuracies.values())),
        "accuracy_by_pooling": accuracies,
        "chance": {str(k): share for k, share in found.chance.items()},
        "knn": None if knn is None else {"k": config.knn, "accuracy": knn, "chance": by_chance},
        "class_accuracy": found.class_accuracy,
        "encoder": queries.encoder,
        "architecture": queries.encoder_config.describe(),
        "encoder_sha256": queries.encoder_sha256,
        "views": queries.views.model_dump(mode="json"),
        "features": queries.features.model_dump(mode="json"),
        "gallery": _side(config.gallery, gallery),
        "queries": _side(config.queries, queries),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "written_by": dict(written_by()),
    }


def _side(folder: str, manifest: Manifest) -> dict[str, Any]:
    assert manifest.counts is not None, "read_features refuses unfinished features"
    counts = manifest.counts
    return {
        "folder": Storage.from_uri(folder).uri,
        "data": manifest.data_uri,
        "videos": counts.videos,
        "quarantined": counts.quarantined,
    }


def _print(scores: dict[str, Any]) -> None:
    print(f"encoder {scores['encoder']}: {scores['architecture']}")
    for role in ("gallery", "queries"):
        side = scores[role]
        lost = and_unread(side["quarantined"])
        print(f"{role}: {side['videos']} videos{lost}")
    by_pooling, tested = scores["accuracy_by_pooling"], scores["queries"]["videos"]
    print(f"right at k of {tested} queries, by pooling, ± half of Wilson's 68% interval")
    print("    k" + "".join(f"  {name:>15}" for name in [*by_pooling, "chance"]))
    for k, by_chance in scores["chance"].items():
        cells = [format_share(accuracy[k], tested) for accuracy in by_pooling.values()]
        print(f"{k:>5}" + "".join(f"  {cell:>15}" for cell in [*cells, f"{by_chance:.1%}"]))
    if knn := scores["knn"]:
        share = format_share(knn["accuracy"], tested)
        print(f"kNN of {knn['k']}: {share} of {tested} queries (chance {knn['chance']:.1%})")


def _rows(config: RetrieveConfig, gallery: Side, queries: Side, found: Retrieval) -> list[Row]:
    """Return some queries, evenly chosen, and their neighbours.

    Raises:
        ValueError, StorageError: a video is no longer where it was, or cannot be read.
    """
    searched, asked = (open_catalog(manifest.data_uri) for manifest, _ in (gallery, queries))
    number = min(config.num_pictured, len(queries[1].ids))
    rows = []
    for query in np.linspace(0, len(queries[1].ids) - 1, number).round().astype(int).tolist():
        near = found.neighbours
        pairs = zip(near.indices[query].tolist(), near.similarities[query].tolist(), strict=True)
        shown = [
            _read(searched, gallery[1], place, f"{similarity:.3f}")
            for place, similarity in [*pairs][:NEIGHBOURS_SHOWN]
        ]
        name = queries[1].ids[query]
        rows.append(Row(_read(asked, queries[1], query, name), shown))
    return rows


def _read(catalog: Catalog, videos: VideoFeatures, place: int, note: str) -> Shown:
    name = videos.ids[place]
    row = pc.index(catalog.columns["id"], name).as_py()
    if row < 0:
        raise ValueError(
            f"video {name!r} of the features does not exist any more; --num_pictured 0 draws none"
        )
    middle = ViewsConfig(
        num_clips=1, num_frames=1, interval_frames=1, frame_size_px=SIDE_PX, short_side_px=SIDE_PX
    )
    return Shown(read_clip(middle, catalog[row])[0], str(videos.labels[place]), note)
