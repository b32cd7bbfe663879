"""The loaders that ours is measured against, and the comparison: same clips, same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as transforms

from ctp.analysis.loading import ClipRequest, Loader, Stage, playing_stages
from ctp.analysis.timing import Case, Timing, measure
from ctp.clip import EncodedVideo

BaselineName = Literal["opencv-zip-jpeg", "torchcodec", "torchcodec-approximate"]


class MissingPackageError(ValueError):
    """A baseline's package is not there, or a library that it needs."""


def opencv_zip_jpeg(device: torch.device) -> Loader:
    """Zipped JPEG frames and OpenCV, all of it on the CPU; see `ctp.analysis.opencv_zip_jpeg`.

    Raises:
        MissingPackageError: there is no OpenCV.
    """
    try:
        from ctp.analysis import opencv_zip_jpeg  # cv2 is of an extra
    except ImportError as error:
        raise MissingPackageError(
            f"baseline opencv-zip-jpeg: {error}. Install it by pip install 'ctp[bench]'"
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
            f"baseline torchcodec: {said}. Install it by pip install 'ctp[bench]', and FFmpeg's "
            "shared libraries (Debian: apt-get install ffmpeg)"
        ) from error
    # NHWC: the layout that the converter writes and torchvision scales fastest
    opened = partial(decoder, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode)
    stages = (
        Stage("read", lambda video, request: opened(video.data)),
        Stage("decode", _decode),
        Stage("augment", _crop_scale_flip),
        *playing_stages(device),
    )
    name = "torchcodec" if seek_mode == "exact" else f"torchcodec-{seek_mode}"
    return Loader(name, lambda video: video, stages)


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


def compare(
    loaders: Sequence[Loader],
    videos: Sequence[EncodedVideo],
    requests: Sequence[ClipRequest],
    *,
    repeats: int,
) -> list[Timing]:
    """Time loaders in turn, each on the same clips of videos that lie in memory.

    What is random was drawn before, and videos are stored as each loader wants them before.
    Torch uses the threads that it has been given; all else uses one.

    Returns:
        For each loader the whole clip and each stage in ms, then for each loader after the first
        its time in units of the first one's ("×"), repeat by repeat.

    Raises:
        VideoError: a video cannot be decoded.
        ValueError: a loader cannot read a video.
    """
    stored = [[loader.store(video) for video in videos] for loader in loaders]
    stages: list[list[dict[str, float]]] = [[] for _ in loaders]

    def case(number: int) -> Case:
        def work(repeat: int) -> None:
            stages[number].append(_load_all(loaders[number], stored[number], requests))

        size = sum(len(video.data) for video in stored[number]) / len(videos) / 1024
        return Case(loaders[number].name, work, len(requests), note=f"{size:,.0f} KiB a video")

    clips = measure([case(number) for number in range(len(loaders))], repeats)
    timings = []
    for clip, seconds in zip(clips, stages, strict=True):
        # the first is of the clips that warm up
        timings += [clip, *_stage_timings(clip.name, seconds[1:], len(requests))]
    return timings + [_ratio(clip, clips[0]) for clip in clips[1:]]


def _load_all(
    loader: Loader, stored: Sequence[EncodedVideo], requests: Sequence[ClipRequest]
) -> dict[str, float]:
    """Make all clips; seconds by stage.

    Raises:
        ValueError: one cannot be made.
    """
    seconds: dict[str, float] = {}
    for request in requests:
        video = stored[request.video]
        try:
            loader.load(video, request, seconds)
        except (RuntimeError, IndexError) as error:  # as torchcodec reports what it cannot read
            raise ValueError(
                f"{loader.name} cannot load video {video.id!r} ({video.uri}): {error}. "
                "Leave it out of the comparison"
            ) from error
    return seconds


def _stage_timings(name: str, repeats: Sequence[dict[str, float]], num_clips: int) -> list[Timing]:
    """Milliseconds a clip of each stage, from the seconds that all clips took in each repeat."""
    return [
        Timing(
            f"{name}: {stage}", "ms", tuple(1e3 * taken[stage] / num_clips for taken in repeats), ""
        )
        for stage in repeats[0]
    ]


def _ratio(clip: Timing, first: Timing) -> Timing:
    """How many times as long as the first one's, repeat by repeat."""
    ratios = [own / other for own, other in zip(clip.repeats, first.repeats, strict=True)]
    return Timing(f"{clip.name} / {first.name}", "×", tuple(ratios), "")
