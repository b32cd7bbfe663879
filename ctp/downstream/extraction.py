"""From a collection of videos to a folder of features: the remaining parts, and computing a part.

A part is read, encoded and written by `read_part`, `embed_part` and `feature_folder.write_part`;
in `ctp.cluster.extract` many actors do so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctp.config import describe_kept, keep_stored
from ctp.data.catalog import Catalog
from ctp.data.journal import Journal
from ctp.data.parquet_folder import MANIFEST, find_beside
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.sources import open_catalog
from ctp.data.stream import LoadVideos, VideoSet, VideoSource
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.feature_folder import (
    Manifest,
    Rows,
    VideoFeatures,
    create_or_resume,
    missing_parts,
    read_manifest,
)
from ctp.downstream.features import (
    Embedder,
    check_poolings,
    open_embedder,
    read_encoder_file,
)
from ctp.downstream.labels import LabeledVideos
from ctp.encoders.config import DOWNSTREAM_SPATIAL_STRIDE
from ctp.encoders.weights import stored_config
from ctp.lease import Attempt
from ctp.storage import Storage
from ctp.training.run_folder import absolute
from ctp.versions import written_by
from ctp.video.config import ViewsConfig
from ctp.video.limits import DecodingLimits
from ctp.video.views import read_view_planes, views_shape


class NumberedViews(NamedTuple):
    """The views of a video.

    Attributes:
        video: its number in the catalogue.
        planes: uint8 [num_clips, T, 3/2 · S²].
    """

    video: int
    planes: NDArray[np.uint8]


@dataclass(frozen=True)
class ViewSet(VideoSet[NumberedViews]):
    """The views of videos.

    Attributes:
        views: which views.
    """

    views: ViewsConfig

    def load(self, videos: VideoSource) -> NumberedViews:
        """Decode the views of a video."""
        with videos.open() as reader:
            return NumberedViews(videos.video, read_view_planes(self.views, reader))


@dataclass(frozen=True)
class Extraction:
    """Features to be made.

    Attributes:
        config: of the features.
        catalog: the videos.
        encoder: the encoder's file.
        manifest: of the folder.
        left: the parts that do not exist yet.
        attempt: the claim of the folder; None: no other process writes it.
    """

    config: EmbedConfig
    catalog: Catalog
    encoder: bytes
    manifest: Manifest
    left: tuple[int, ...]
    attempt: Attempt | None = None

    @property
    def folder(self) -> Storage:
        """Return the folder of the features."""
        return Storage.from_uri(self.config.out)

    @property
    def part_bytes(self) -> int:
        """Return the bytes of the views of a part, which are read and then stacked."""
        return 2 * self.config.videos_per_part * math.prod(views_shape(self.config.views))

    def describe(self) -> str:
        """Return a line on what is to be computed, and what is done."""
        manifest = self.manifest
        done = manifest.num_parts - len(self.left)
        facts = [
            f"{manifest.num_listed} videos, {manifest.views.num_clips} clips of each",
            f"encoder {manifest.encoder}",
            f"{manifest.num_parts} parts",
            f"{done} of them are done" if done else "",
        ]
        return ", ".join(fact for fact in facts if fact)

    def held(self, attempt: Attempt) -> Extraction:
        """Return the extraction by the process that holds its folder.

        Raises:
            ValueError: another process has created the folder of other features meanwhile.
            StorageError: the folder cannot be read or written.
        """
        create_or_resume(self.folder, self.manifest)
        left = tuple(missing_parts(self.folder, self.manifest))
        return replace(self, left=left, attempt=attempt)

    def videos_in(self, parts: Sequence[int]) -> int:
        """Return the number of videos in some parts."""
        return sum(len(part_range(self.config, self.catalog, number)) for number in parts)


def check_given(config: EmbedConfig) -> None:
    """Check that the options without a default are given.

    Raises:
        ValueError: some are not; names all.
    """
    needed = {
        "encoder": (config.encoder, "a run, an encoder.safetensors, or random"),
        "data.uri": (config.data.uri, "the videos: a folder or URI"),
        "out": (config.out, "a folder or URI for the features"),
    }
    missing = [
        f"--{name} is missing: {what}" for name, (value, what) in needed.items() if not value
    ]
    if missing:
        raise ValueError("\n  ".join(missing))


def open_extraction(config: EmbedConfig) -> Extraction:
    """List the videos, read the encoder, and create or resume the folder.

    Raises:
        ValueError: an option is missing, there are no videos, the encoder cannot be used, or the
            folder holds something else.
        StorageError: something cannot be read, or the folder not be written.
    """
    check_given(config)
    uri, folder = absolute(config.data.uri), Storage.from_uri(config.out)
    for source in (uri,) if isinstance(uri, str) else uri:
        # a later run would list its own features as videos
        if f"{folder.uri}/".startswith(f"{source.rstrip('/')}/"):
            raise ValueError(f"--out {config.out} is inside {source} and would count as videos")
    config = config.replace(data=config.data.replace(uri=uri), out=folder.uri)
    encoder, about_encoder = read_encoder_file(config)
    catalog = open_catalog(uri, "data.uri")
    manifest = _manifest(config, catalog, encoder, about_encoder)
    create_or_resume(folder, manifest)
    left = tuple(missing_parts(folder, manifest))
    return Extraction(config, catalog, encoder, manifest, left)


def with_stored_defaults(config: EmbedConfig, given: Iterable[str]) -> EmbedConfig:
    """Return the config with the values of the folder that it resumes, where the user gave none.

    So the same command resumes although a default of ctp has changed. Prints each value that is
    taken from the folder.

    Args:
        config: of the features.
        given: dotted names of the options that the user gave.

    Raises:
        ValueError: the folder's manifest cannot be read, or does not fit the given options.
        StorageError: the folder cannot be read.
    """
    folder = Storage.from_uri(config.out)
    place = find_beside(folder, MANIFEST)
    if not config.out or not place.exists():
        return config
    stored = read_manifest(folder)
    if stored.recipe != config.recipe:
        return config  # another recipe is no changed default: its values are meant
    values = stored.model_dump(include={"views", "features", "videos_per_part"})
    kept = keep_stored(config, values, given)
    for line in describe_kept(config, kept, place.uri):
        print(line)
    return kept


def part_range(config: EmbedConfig, catalog: Catalog, number: int) -> range:
    """Return the numbers in the catalogue of a part's videos."""
    start = number * config.videos_per_part
    return range(start, min(start + config.videos_per_part, len(catalog)))


def read_part(
    config: EmbedConfig, catalog: Catalog, number: int, journal: Journal | None = None
) -> Rows:
    """Read the views of a part's videos: "planes" uint8 [n, num_clips, T, 3/2 · S²].

    Raises:
        StorageError: the storage fails.
    """
    part = part_range(config, catalog, number)
    limits = DecodingLimits(config.data.max_megapixels)
    loaded = ViewSet(catalog, config.seed, config.views).load_many(part, journal, limits)
    reasons = {each.video_id: json.dumps(asdict(each)) for each in loaded.quarantined}
    entries = [catalog[video] for video in part]
    planes = np.zeros((len(part), *views_shape(config.views)), np.uint8)
    for video, own in loaded.items:
        # rows of quarantined videos stay zero, so that all rows have one shape
        planes[video - part.start] = own
    return {
        "id": np.array([entry.id for entry in entries]),
        "label": np.array([entry.label or "" for entry in entries]),
        "quarantined": np.array([reasons.get(entry.id, "") for entry in entries]),
        "planes": planes,
    }


def embed_part(embedder: Embedder, rows: Rows) -> Rows:
    """Encode what `read_part` returned: "feature" [n, num_clips, D] instead of "planes".

    Raises:
        FloatingPointError: a feature is not finite.
    """
    planes, good = rows["planes"], rows["quarantined"] == ""
    features = np.zeros((*planes.shape[:2], embedder.out_size), embedder.dtype)
    if good.any():
        features[good] = embedder.embed(planes[good])
    return {name: rows[name] for name in ("id", "label", "quarantined")} | {"feature": features}


def embed_videos(
    embedder: Embedder, config: EmbedConfig, catalog: Catalog, load: LoadVideos
) -> tuple[VideoFeatures, list[QuarantinedVideo]]:
    """Return features of videos, in memory, and the videos that cannot be used.

    Raises:
        StorageError: the storage fails.
        FloatingPointError: a feature is not finite.
    """
    features: list[NDArray[np.float32]] = []
    numbers: list[int] = []
    quarantined: list[QuarantinedVideo] = []

    def items() -> Iterator[NumberedViews]:
        views = ViewSet(catalog, config.seed, config.views)
        for some in load(views, range(len(catalog))):
            quarantined.extend(some.quarantined)
            yield from some.items

    # a few videos at a time, as in the parts of a folder
    for _, part in groupby(items(), key=lambda item: item.video // config.videos_per_part):
        videos = list(part)
        found = embedder.embed(np.stack([video.planes for video in videos]))
        features.append(found.mean(axis=1, dtype=np.float32))
        numbers += [video.video for video in videos]
    if not numbers:
        raise ValueError(f"none of the {len(catalog)} videos can be used")
    entries = [catalog[number] for number in numbers]
    ids, labels = [entry.id for entry in entries], [entry.label for entry in entries]
    return VideoFeatures(ids, labels, np.concatenate(features)), quarantined


def embed_labeled(
    encoder: bytes, config: EmbedConfig, videos: LabeledVideos, load: LoadVideos
) -> tuple[VideoFeatures, VideoFeatures, int]:
    """Return the features of training and of test videos, and how many videos cannot be used.

    Args:
        encoder: an encoder.safetensors.
        config: of the features; its `encoder` is the name used in errors.
        videos: the videos.
        load: reads the videos.

    Raises:
        ValueError: the encoder does not fit, or no video can be used.
        StorageError, FloatingPointError: see `embed_videos`.
    """
    embedder = open_embedder(config, encoder)
    train, unused = embed_videos(embedder, config, videos.train, load)
    test, unused_too = embed_videos(embedder, config, videos.test, load)
    return train, test, len(unused) + len(unused_too)


def _manifest(
    config: EmbedConfig, catalog: Catalog, encoder: bytes, about_encoder: str
) -> Manifest:
    stored = stored_config(encoder, config.encoder)
    assert stored is not None, "the file of read_encoder_file describes its encoder"
    stored = stored.replace(spatial_stride=DOWNSTREAM_SPATIAL_STRIDE)
    check_poolings(config, stored)
    return Manifest(
        encoder=about_encoder,
        encoder_sha256=hashlib.sha256(encoder).hexdigest(),
        encoder_config=stored,
        views=config.views,
        features=config.features,
        data_uri=config.data.uri,
        catalog=catalog.fingerprint(),
        num_listed=len(catalog),
        videos_per_part=config.videos_per_part,
        recipe=config.recipe,
        written_by=written_by(),
    )
