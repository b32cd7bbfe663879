"""The loaders that ours is measured against, and the comparison: same clips, same run."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as transforms

from ctp.bench.loading import (
    DRAW,
    ON_DEVICE,
    PLAY,
    ClipRequest,
    Loader,
    Stage,
    played_stages,
)
from ctp.bench.timing import Timing
from ctp.data.catalog import VideoEntry
from ctp.video.encoded import EncodedVideo

READ = "read"
"""The stage before a loader's own: a video's bytes from its file."""
BaselineName = Literal["opencv-zip-jpeg", "torchcodec", "torchcodec-approximate"]


class MissingPackageError(ValueError):
    """A baseline's package is not there, or a library that it needs."""


def opencv_zip_jpeg(device: torch.device) -> Loader:
    """Zipped JPEG frames and OpenCV, all of it on the CPU; see `ctp.bench.opencv_zip_jpeg`.

    Raises:
        MissingPackageError: there is no OpenCV.
    """
    try:
        from ctp.bench import opencv_zip_jpeg  # cv2 is of an extra
    except ImportError as error:
        raise MissingPackageError(
            f"baseline opencv-zip-jpeg: {error}. Install it by pip install -e '.[bench]'"
        ) from error
    return opencv_zip_jpeg.loader(device)


def torchcodec(
    device: torch.device, *, seek_mode: Literal["exact", "approximate"] = "exact"
) -> Loader:
    """Decoding by torchcodec and scaling by torchvision; then as ours.

    Args:
        device: where the clip is wanted; decoding is on the CPU.
        seek_mode: "exact" scans the file for its frames; "approximate" believes its header.

    Raises:
        MissingPackageError: there is no torchcodec, or no FFmpeg for it.
    """
    try:
        decoder = import_module("torchcodec.decoders").VideoDecoder  # of an extra
    except (ImportError, RuntimeError, OSError) as error:
        said = str(error).strip().partition("\n")[0]
        raise MissingPackageError(
            f"baseline torchcodec: {said}. Install it by pip install -e '.[bench]', and FFmpeg's "
            "shared libraries (Debian: apt-get install ffmpeg)"
        ) from error
    # NHWC: the layout that the converter writes and torchvision scales fastest
    opened = partial(decoder, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    stages = (
        DRAW,
        Stage("open", lambda video, request: opened(video.data)),
        Stage("decode", _decode),
        Stage("augment", _crop_scale_flip),
        PLAY,
    )
    name = "torchcodec" if seek_mode == "exact" else f"torchcodec-{seek_mode}"
    return Loader(name, lambda video: video, device, stages, played_stages(device))


def _decode(decoder: Any, request: ClipRequest) -> torch.Tensor:
    """uint8 [T, h, w, 3] of the video's own size."""
    frames: torch.Tensor = decoder.get_frames_at(list(request.frame_numbers)).data
    return frames


def _crop_scale_flip(frames: torch.Tensor, request: ClipRequest) -> NDArray[np.uint8]:
    """uint8 [T, S, S, 3]; cropped first, so that no more is scaled than is shown."""
    left, top, side = request.crop.window(*request.picture_size_px)
    square = frames[:, top : top + side, left : left + side].permute(0, 3, 1, 2)
    scaled = transforms.resize(square, [request.size_px, request.size_px])
    if request.crop.flip:
        scaled = scaled.flip(3)
    clip: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().numpy()
    return clip


BASELINES: dict[BaselineName, Callable[[torch.device], Loader]] = {
    "opencv-zip-jpeg": opencv_zip_jpeg,
    "torchcodec": torchcodec,
    "torchcodec-approximate": partial(torchcodec, seek_mode="approximate"),
}


@dataclass(frozen=True)
class LoaderTiming:
    """What a clip cost one loader.

    Attributes:
        name: the loader's.
        kib_per_video: what a video takes in storage, on average.
        stages: milliseconds a clip of each stage; of cores of the CPU, on the device of its time.
    """

    name: str
    kib_per_video: float
    stages: tuple[Timing, ...]

    @property
    def cpu(self) -> Timing:
        """Milliseconds of a core a clip, all stages on the CPU together."""
        ours = [stage.repeats for stage in self.stages if not stage.name.startswith(ON_DEVICE)]
        sums = tuple(sum(repeat) for repeat in zip(*ours, strict=True))
        return Timing(self.name, "ms", sums, f"{self.kib_per_video:,.0f} KiB a video")

    def times(self, other: LoaderTiming) -> Timing:
        """How many times as much work as another's, repeat by repeat."""
        ratios = [own / its for own, its in zip(self.cpu.repeats, other.cpu.repeats, strict=True)]
        return Timing(f"{self.name} / {other.name}", "×", tuple(ratios), "")


def compare(
    loaders: Sequence[Loader],
    videos: Sequence[EncodedVideo],
    requests: Sequence[ClipRequest],
    *,
    repeats: int,
    batch: int = 16,
) -> list[LoaderTiming]:
    """Time loaders in turn, each on the same clips of videos that lie in local files.

    What is random was drawn before, and videos are stored as each loader wants them before.
    Torch uses the threads that it has been given; all else uses one.

    Args:
        loaders: to compare.
        videos: to make clips of.
        requests: the clips.
        repeats: how often, after once to warm up.
        batch: clips that go to the device together.

    Raises:
        VideoError: a video cannot be decoded.
        ValueError: a loader cannot read a video.
    """
    taken: list[list[dict[str, float]]] = [[] for _ in loaders]
    with TemporaryDirectory() as folder:
        stored = [
            _store(loader, videos, Path(folder) / str(number))
            for number, loader in enumerate(loaders)
        ]
        for _ in range(repeats + 1):
            for loader, entries, seconds in zip(loaders, stored, taken, strict=True):
                seconds.append(_load_all(loader, entries, requests, batch))
    return [
        LoaderTiming(loader.name, _mean_kib(entries), _stage_timings(seconds[1:], len(requests)))
        for loader, entries, seconds in zip(loaders, stored, taken, strict=True)
    ]


def _store(loader: Loader, videos: Sequence[EncodedVideo], folder: Path) -> list[VideoEntry]:
    """Write videos as a loader wants them, to be read as those of a shard are."""
    folder.mkdir()
    entries = []
    for number, video in enumerate(videos):
        path, data = folder / str(number), loader.store(video).data
        path.write_bytes(data)
        entries.append(VideoEntry(video.id, str(path), size=len(data), checksum=zlib.crc32(data)))
    return entries


def _mean_kib(entries: Sequence[VideoEntry]) -> float:
    return sum(entry.size or 0 for entry in entries) / len(entries) / 1024


def _load_all(
    loader: Loader, stored: Sequence[VideoEntry], requests: Sequence[ClipRequest], batch: int
) -> dict[str, float]:
    """Make all clips; seconds by stage.

    Raises:
        ValueError: one cannot be made.
    """
    seconds: dict[str, float] = {READ: 0.0}
    for start in range(0, len(requests), batch):
        together = requests[start : start + batch]
        made = [_prepare(loader, stored[each.video], each, seconds) for each in together]
        loader.finish(made, together, seconds)
    return seconds


def _prepare(
    loader: Loader, entry: VideoEntry, request: ClipRequest, seconds: dict[str, float]
) -> Any:
    began = time.process_time()
    video = entry.read()
    seconds[READ] += time.process_time() - began
    try:
        return loader.prepare(video, request, seconds)
    except (RuntimeError, IndexError) as error:  # as torchcodec reports what it cannot read
        raise ValueError(
            f"{loader.name} cannot load video {video.id!r}: {error}. Leave it out of the comparison"
        ) from error


def _stage_timings(repeats: Sequence[Mapping[str, float]], num_clips: int) -> tuple[Timing, ...]:
    """Milliseconds a clip of each stage, from the seconds that all clips took in each repeat."""
    return tuple(
        Timing(stage, "ms", tuple(1e3 * taken[stage] / num_clips for taken in repeats), "")
        for stage in repeats[0]
    )
