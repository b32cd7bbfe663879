"""From a collection of videos to a folder of features: what is left to do, and how a part is done.

A part is read, encoded and written by `PartReader.read`, `embed_part` and
`feature_folder.write_part`, here one after the other, in `ctp.cluster.extract` by many actors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ctp.data.catalog import Catalog, VideoEntry, open_catalog
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.read_ahead import ReadAhead
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.feature_folder import (
    Manifest,
    Rows,
    VideoFeatures,
    claim,
    missing_parts,
    write_part,
)
from ctp.downstream.features import Embedder, open_embedder, read_encoder_file
from ctp.encoders.weights import stored_config
from ctp.storage import Storage
from ctp.training.claim import absolute
from ctp.video.config import ViewsConfig
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.views import guarded_views, read_view_planes


@dataclass(frozen=True)
class Extraction:
    """What is to be done, and what is left of it.

    Attributes:
        config: of the features.
        catalog: the videos.
        encoder: the encoder's file.
        manifest: of the folder.
        left: the parts that are not there yet.
    """

    config: EmbedConfig
    catalog: Catalog
    encoder: bytes
    manifest: Manifest
    left: tuple[int, ...]

    @property
    def folder(self) -> Storage:
        """Where the features go."""
        return Storage.of(self.config.out)

    def videos_in(self, parts: Sequence[int]) -> int:
        """Videos of the catalogue in so many parts."""
        return sum(len(part_range(self.config, self.catalog, number)) for number in parts)


def open_extraction(config: EmbedConfig) -> Extraction:
    """List the videos, read the encoder, and claim the folder for them.

    Raises:
        ValueError: an option is missing, there are no videos, the encoder cannot be used, or the
            folder holds something else.
        StorageError: something cannot be read, or the folder not be written.
    """
    for name, value in (("data.uri", config.data.uri), ("out", config.out)):
        if not value:
            raise ValueError(f"--{name} is missing: a folder or URI")
    uri, folder = absolute(config.data.uri), Storage.of(config.out)
    for source in (uri,) if isinstance(uri, str) else uri:
        if f"{folder.uri}/".startswith(f"{source.rstrip('/')}/"):
            raise ValueError(f"--out {config.out} lies in {source}; it would count as videos")
    config = config.replace(data=config.data.replace(uri=uri), out=folder.uri)
    encoder, about_encoder = read_encoder_file(config)
    catalog = open_catalog(uri)
    manifest = _manifest(config, catalog, encoder, about_encoder)
    claim(folder, manifest)
    left = tuple(missing_parts(folder, manifest))
    return Extraction(config, catalog, encoder, manifest, left)


def extract(extraction: Extraction, show: Callable[[int], None]) -> None:
    """Make all parts that are left, in this process alone, which a video that crashes the decoder
    takes with it.

    Args:
        extraction: what is to be done.
        show: is told how many videos are done since it was told last.

    Raises:
        StorageError: a video cannot be read through no fault of its own, or a part written.
        FloatingPointError: a feature is infinite or no number.
    """
    config = extraction.config
    embedder = open_embedder(config, extraction.encoder)
    reader = PartReader(config, extraction.catalog, partial(read_view_planes, config.views))
    for number in extraction.left:
        rows = embed_part(embedder, reader.read(number))
        write_part(extraction.folder, number, rows)
        show(len(rows["id"]))


def embed_videos(
    embedder: Embedder, config: EmbedConfig, catalog: Catalog
) -> tuple[VideoFeatures, list[QuarantinedVideo]]:
    """Features of some videos, in memory, and which of them could not be used; for a score on the
    way of a run. Nothing is written.

    Raises:
        StorageError, LostError, FloatingPointError: as of `PartReader.read` and `embed_part`.
    """
    features, ids, labels, quarantined = [], [], [], []
    with guarded_views(config.views, config.data.max_seconds_per_video) as read:
        reader = PartReader(config, catalog, read)
        for number in range(-(-len(catalog) // config.videos_per_part)):
            rows = embed_part(embedder, reader.read(number))
            good = rows["quarantined"] == ""
            features.append(rows["feature"][good].mean(axis=1, dtype=np.float32))
            ids += rows["id"][good].tolist()
            labels += [label or None for label in rows["label"][good].tolist()]
            quarantined += [
                QuarantinedVideo(**json.loads(each)) for each in rows["quarantined"][~good]
            ]
    return VideoFeatures(ids, labels, np.concatenate(features)), quarantined


def part_range(config: EmbedConfig, catalog: Catalog, number: int) -> range:
    """The positions in the catalogue of a part's videos."""
    start = number * config.videos_per_part
    return range(start, min(start + config.videos_per_part, len(catalog)))


@dataclass(frozen=True)
class PartReader:
    """Reads the views of a part's videos.

    Attributes:
        config: of the features.
        catalog: all videos.
        decode: makes the planes of a video's views, `views.read_view_planes` or the same in a
            process that may be lost.
    """

    config: EmbedConfig
    catalog: Catalog
    decode: Callable[[EncodedVideo], NDArray[np.uint8]]

    def read(self, number: int) -> Rows:
        """The videos of part `number`, "planes" uint8 [n, num_clips, T, 3/2 · S²].

        Raises:
            StorageError: a video cannot be read through no fault of its own.
            LostError: the process that decodes ended while it worked on no video.
        """
        rows = part_range(self.config, self.catalog, number)
        entries = [self.catalog[row] for row in rows]
        with ReadAhead(entries, depth=self.config.data.read_ahead) as videos:
            read = [self._planes(entry, videos) for entry in entries]
        planes, quarantined = zip(*read, strict=True)
        return {
            "id": np.array([entry.id for entry in entries]),
            "label": np.array([entry.label or "" for entry in entries]),
            "quarantined": np.array(quarantined),
            "planes": np.stack(planes),
        }

    def _planes(self, entry: VideoEntry, videos: ReadAhead) -> tuple[NDArray[np.uint8], str]:
        try:
            return self.decode(videos.read(entry)), ""
        except VideoError as error:
            blank = np.zeros(_planes_shape(self.config.views), np.uint8)
            return blank, json.dumps(asdict(QuarantinedVideo.from_error(error)))


def embed_part(embedder: Embedder, rows: Rows) -> Rows:
    """Encode what `PartReader` read: "feature" [n, num_clips, D] for "planes".

    Raises:
        FloatingPointError: a feature is infinite or no number.
    """
    planes, good = rows["planes"], rows["quarantined"] == ""
    shape = (*planes.shape[:2], embedder.out_size)
    features = np.zeros(shape, embedder.dtype)
    if good.any():
        clips = planes[good].reshape(-1, *planes.shape[2:])
        features[good] = embedder(clips).reshape(-1, *shape[1:])
    return {name: rows[name] for name in ("id", "label", "quarantined")} | {"feature": features}


def _planes_shape(views: ViewsConfig) -> tuple[int, int, int]:
    return views.num_clips, views.num_frames, 3 * views.frame_size_px**2 // 2


def _manifest(
    config: EmbedConfig, catalog: Catalog, encoder: bytes, about_encoder: str
) -> Manifest:
    stored = stored_config(encoder, config.encoder)
    assert stored is not None, "an encoder's file tells what it holds"
    stride = config.features.last_stage_spatial_stride
    return Manifest(
        encoder=about_encoder,
        encoder_sha256=hashlib.sha256(encoder).hexdigest(),
        encoder_config=stored.replace(last_stage_spatial_stride=stride),
        views=config.views,
        features=config.features,
        data_uri=config.data.uri,
        catalog=catalog.fingerprint(),
        num_listed=len(catalog),
        videos_per_part=config.videos_per_part,
    )
