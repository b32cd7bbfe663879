"""Compare loaders of Catch-the-Patch clips, stage by stage, on the same clips and one CPU core."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from ctp.bench.baselines import BASELINES
from ctp.bench.config import BenchConfig
from ctp.bench.loaders import ClipRequest, Loader, Seconds, draw_request, ours, timed
from ctp.bench.timing import DEVICE_STAGES, ON_DEVICE, Timing, default_device, one_thread
from ctp.build.transcode import inspect
from ctp.data.catalog import VideoEntry
from ctp.data.sources import Sources, open_catalog, prepare_corpus
from ctp.pretext.ctp.config import CtpConfig
from ctp.rng import generator
from ctp.storage import Storage
from ctp.video.encoded import EncodedVideo, VideoError

MAX_VIDEOS = 32
DEVICE_BATCH = 16
"""Clips that are sent to the device together."""
READ, DRAW = "read", "draw"
CPU_STAGES = (READ, DRAW, "open", "decode", "convert", "augment", "paste", "colours")
FRAME_STAGES = frozenset({READ, "open", "decode", "convert", "augment"})
"""Stages from the file to frames of the clip's size."""


@dataclass(frozen=True)
class LoaderTiming:
    """What a clip costs with one loader.

    Attributes:
        name: of the loader.
        kib_per_video: mean size of a stored video.
        stages: milliseconds a clip of each stage: of CPU time, on the device of elapsed time.
        num_frames: of a clip.
        baseline: name of the baseline that it is a way of; "" for our loaders.
    """

    name: str
    kib_per_video: float
    stages: tuple[Timing, ...]
    num_frames: int
    baseline: str = ""

    @property
    def cpu(self) -> Timing:
        """Return the CPU milliseconds a clip of all stages on the CPU."""
        on_cpu = [each.repeats for each in self.stages if not each.name.startswith(ON_DEVICE)]
        return Timing(self.name, "ms", tuple(map(sum, zip(*on_cpu, strict=True))))

    @property
    def frames_per_second(self) -> float:
        """Return the frames that one core reads, decodes and crops in a second."""
        stages = [each.median for each in self.stages if each.name in FRAME_STAGES]
        return 1e3 * self.num_frames / sum(stages)

    def ratio(self, other: LoaderTiming) -> Timing:
        """Return how many times the CPU time of `other` a clip takes, repeat by repeat."""
        return self.cpu.ratio(other.cpu)

    def figures(self, reference: LoaderTiming) -> dict[str, Any]:
        """Return all figures; the CPU time is compared with that of `reference`."""
        stages = {each.name: each for each in self.stages}
        ratio = self.ratio(reference)
        return {
            "loader": self.name,
            **{name: stages.get(name) for name in CPU_STAGES},
            "all on the CPU": self.cpu,
            ratio.name: ratio,
            "frames/s": self.frames_per_second,
            **{name: stages.get(name) for name in DEVICE_STAGES},
            "KiB a video": self.kib_per_video,
        }


def describe_loader(loader: LoaderTiming, reference: LoaderTiming) -> str:
    """Return a sentence with the speed of a loader."""
    return (
        f"{loader.name}: {loader.cpu.median:.2f} ms a clip, {loader.ratio(reference).median:.2f} "
        f"times {reference.name}; a core makes {loader.frames_per_second:,.0f} frames/s."
    )


def fastest_of_each(loaders: Sequence[LoaderTiming]) -> list[LoaderTiming]:
    """Return our loaders and, of each baseline, the way that takes least CPU time."""
    fastest: dict[str, LoaderTiming] = {}
    for loader in sorted(loaders, key=lambda each: each.cpu.median):
        fastest.setdefault(loader.baseline or loader.name, loader)
    return [each for each in loaders if each in fastest.values()]


def compare_loaders(config: BenchConfig) -> list[LoaderTiming]:
    """Measure our loader, with transcoded and with original videos, and the baselines.

    Raises:
        ValueError: no video can be used, or a package of a baseline is not installed.
    """
    device, game = default_device(), config.game
    loaders = {"": [ours(device, game, config.transcode), ours(device, game)]}
    loaders |= {name: BASELINES[name](device, config.transcode) for name in config.baseline}
    names = [name for name, ways in loaders.items() for _ in ways]
    videos = usable_videos(config.data.uri)
    with one_thread(), temporary_folder(config.store) as folder:
        timings = compare(
            [way for ways in loaders.values() for way in ways],
            videos,
            game,
            config.clips_per_repeat,
            repeats=config.repeats,
            folder=folder,
        )
    return [replace(each, baseline=name) for each, name in zip(timings, names, strict=True)]


@contextmanager
def temporary_folder(uri: str) -> Iterator[Storage]:
    """Yield a new folder below `uri`, or a local one, that is deleted at the end."""
    if not uri:
        with TemporaryDirectory() as name:
            yield Storage.from_uri(name)
        return
    folder = Storage.from_uri(uri).join(f"ctp-bench-{uuid4().hex}")
    try:
        yield folder
    finally:
        folder.delete_folder()


def usable_videos(uri: Sources) -> list[EncodedVideo]:
    """Read videos from all over a source, without those that cannot be decoded.

    Raises:
        ValueError: there is no video that can be decoded.
    """
    catalog = open_catalog(uri, "data.uri")
    # not the first ones, which may all be of one class
    catalog = catalog[:: max(len(catalog) // MAX_VIDEOS, 1)][:MAX_VIDEOS]
    prepare_corpus(catalog)
    videos, sizes = [], set()
    for entry in catalog:
        try:
            video = entry.read()
            facts = inspect(video)
        except VideoError as error:
            print(f"skipped: {error}", file=sys.stderr)
        else:
            videos.append(video)
            sizes.add(f"{facts.width}×{facts.height}")
    if not videos:
        raise ValueError(f"data.uri: none of the videos of {uri!r} can be decoded")
    print(f"{len(videos)} video(s) of {', '.join(sorted(sizes))}", file=sys.stderr)
    return videos


def compare(
    loaders: Sequence[Loader],
    videos: Sequence[EncodedVideo],
    config: CtpConfig,
    num_clips: int,
    *,
    repeats: int,
    folder: Storage,
) -> list[LoaderTiming]:
    """Time loaders in turn on the same clips of videos.

    Torch uses the threads that it is set to; all else uses one thread.

    Args:
        loaders: to compare.
        videos: the clips are drawn from one after the other.
        config: what a clip is.
        num_clips: in each repeat.
        repeats: after one to warm up.
        folder: for the videos of the loaders.

    Raises:
        VideoError: a video cannot be decoded.
        ValueError: a loader cannot read a video.
    """
    rules, facts = config.game, [inspect(video) for video in videos]

    def draw(number: int) -> ClipRequest:
        clip_number, video = divmod(number, len(videos))
        # the same request for every loader and in every repeat
        rng = generator(0, "clip", 0, videos[video].id, clip_number)
        return draw_request(config, rules, facts[video], rng)

    taken: list[list[Seconds]] = [[] for _ in loaders]
    stored = [
        _store(loader, videos, folder.join(str(number))) for number, loader in enumerate(loaders)
    ]
    # loaders in turn within each repeat, so that a slow minute of the machine slows all of them
    for _ in range(repeats + 1):
        for loader, entries, repeats_of in zip(loaders, stored, taken, strict=True):
            repeats_of.append(_load(loader, entries, draw, num_clips))
    num_frames = config.sampling.num_frames
    return [
        LoaderTiming(
            loader.name, _mean_kib(entries), _stage_timings(repeats_of[1:], num_clips), num_frames
        )
        for loader, entries, repeats_of in zip(loaders, stored, taken, strict=True)
    ]


def _store(loader: Loader, videos: Sequence[EncodedVideo], folder: Storage) -> list[VideoEntry]:
    """Write videos in the loader's format; they are read with a checksum, like those of shards."""
    entries = []
    for number, video in enumerate(videos):
        file, data = folder.join(str(number)), loader.store(video)
        file.write_bytes(data)
        entries.append(VideoEntry(video.id, file.uri, size=len(data), checksum=zlib.crc32(data)))
    return entries


def _mean_kib(entries: Sequence[VideoEntry]) -> float:
    return sum(entry.size or 0 for entry in entries) / len(entries) / 1024


def _load(
    loader: Loader,
    entries: Sequence[VideoEntry],
    draw: Callable[[int], ClipRequest],
    num_clips: int,
) -> Seconds:
    """Load all clips; return the seconds of each stage."""
    seconds: Seconds = {}
    for start in range(0, num_clips, DEVICE_BATCH):
        made, requests = [], []
        for number in range(start, min(start + DEVICE_BATCH, num_clips)):
            with timed(seconds, READ):
                video = entries[number % len(entries)].read()
            with timed(seconds, DRAW):
                request = draw(number)
            try:
                made.append(loader.prepare(video, request, seconds))
            except (RuntimeError, IndexError) as error:  # torchcodec's, for unreadable videos
                raise ValueError(
                    f"{loader.name} cannot load video {video.id!r}: {error}. Remove it from "
                    "data.uri"
                ) from error
            requests.append(request)
        loader.finish(made, requests, seconds)
    return seconds


def _stage_timings(repeats: Sequence[Seconds], num_clips: int) -> tuple[Timing, ...]:
    """Return milliseconds a clip of each stage from the seconds of all clips in each repeat."""
    return tuple(
        Timing(stage, "ms", tuple(1e3 * seconds[stage] / num_clips for seconds in repeats))
        for stage in repeats[0]
    )
