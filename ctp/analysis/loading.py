"""One clip, several ways: what is asked of a loader, what a loader is, and ours.

A loader is a row of stages, from a video in memory to the model's input on the device, so that
each can be timed, and one loader's against another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctp.clip import EncodedVideo
from ctp.rng import generator
from ctp.synthesis.config import GameConfig
from ctp.synthesis.game import Round, draw_round, play_round
from ctp.video.augment import AugmentConfig, sample_color, sample_crop, to_input
from ctp.video.decode import VideoReader
from ctp.video.pixels import Crop, Cutter, to_rgb
from ctp.video.sampling import SamplingConfig, sample_frames
from ctp.video.transcode import TranscodeConfig, transcode


@dataclass(frozen=True)
class ClipRequest:
    """A clip with all that is random about it settled, so that every loader makes the same.

    Attributes:
        video: number of the video in its list.
        frame_numbers: T of them, never falling, repeats allowed.
        picture_size_px: (width, height) of the video's pictures, upright.
        crop: the square that is cut out of every picture, and whether it is mirrored.
        size_px: S, what the square's side is scaled to.
        game: the round that is played; patches are cut from the clip itself.
        color: float32 [T, 4] as `Clip.color`.
    """

    video: int
    frame_numbers: tuple[int, ...]
    picture_size_px: tuple[int, int]
    crop: Crop
    size_px: int
    game: Round
    color: NDArray[np.float32]

    @property
    def scaled_size_px(self) -> tuple[int, int]:
        """(width, height) of the whole picture when the square is S pixels large."""
        width, height = self.picture_size_px
        scale = self._scale
        return max(round(width * scale), self.size_px), max(round(height * scale), self.size_px)

    @property
    def scaled_window(self) -> tuple[slice, slice]:
        """Rows and columns of the square in the scaled picture, to the nearest pixel."""
        left, top, _ = self.crop.window(*self.picture_size_px)
        starts = [round(top * self._scale), round(left * self._scale)]
        ends = [side - self.size_px for side in reversed(self.scaled_size_px)]
        rows, columns = map(min, starts, ends)
        return slice(rows, rows + self.size_px), slice(columns, columns + self.size_px)

    @property
    def _scale(self) -> float:
        return self.size_px / self.crop.window(*self.picture_size_px)[2]


def draw_requests(
    videos: Sequence[EncodedVideo],
    num_clips: int,
    sampling: SamplingConfig,
    augment: AugmentConfig,
    game: GameConfig,
    seed: int,
) -> list[ClipRequest]:
    """Draw clips as training does, video after video in turn. Patches are cut from the clip itself.

    Raises:
        VideoError: a video cannot be read.
    """
    requests = []
    for number in range(num_clips):
        clip_number, video = divmod(number, len(videos))
        rng = generator(seed, "clip", 0, videos[video].id, clip_number)
        requests.append(_draw(video, videos[video], sampling, augment, game, rng))
    return requests


def _draw(
    number: int,
    video: EncodedVideo,
    sampling: SamplingConfig,
    augment: AugmentConfig,
    game: GameConfig,
    rng: np.random.Generator,
) -> ClipRequest:
    with VideoReader(video) as reader:
        frames = tuple(sample_frames(sampling, reader.num_frames, rng).tolist())
        crop = sample_crop(augment, rng)
        cutter = Cutter(crop, num_frames=1)
        reader.decode(frames[:1], lambda _, frame: cutter.add(0, frame))
    assert cutter.picture_size is not None
    size = augment.frame_size_px
    return ClipRequest(
        video=number,
        frame_numbers=frames,
        picture_size_px=cutter.picture_size,
        crop=crop,
        size_px=size,
        game=draw_round(game, len(frames), (size, size), rng),
        color=sample_color(augment, len(frames), rng),
    )


@dataclass(frozen=True)
class Stage:
    """A step of a loader: makes from what the stage before it returned what the next one takes."""

    name: str
    work: Callable[[Any, ClipRequest], Any]


@dataclass(frozen=True)
class Loader:
    """A way to make clips.

    Attributes:
        name: what it is called in tables.
        store: a video as this loader wants it to lie in storage; done once, not part of loading.
        stages: the first takes what `store` returned; the last returns the model's input,
            float32 [3, T, H, W], on the device and ready.
    """

    name: str
    store: Callable[[EncodedVideo], EncodedVideo]
    stages: tuple[Stage, ...]

    def load(
        self, stored: EncodedVideo, request: ClipRequest, seconds: dict[str, float]
    ) -> torch.Tensor:
        """Make a clip, and add what each stage took to `seconds`.

        Returns:
            float32 [3, T, H, W], as `to_input` makes it.
        """
        made: Any = stored
        for stage in self.stages:
            began = time.perf_counter()
            made = stage.work(made, request)
            seconds[stage.name] = seconds.get(stage.name, 0) + time.perf_counter() - began
        clip: torch.Tensor = made
        return clip


def ours(device: torch.device, transcoding: TranscodeConfig | None = None) -> Loader:
    """The way of `ctp`: decode, cut and scale, play, change colours on the device.

    Args:
        device: where the clip is wanted.
        transcoding: how videos are coded anew before, as in shards for training; None: they stay
            as they are.
    """
    stages = (
        Stage("read", lambda video, request: VideoReader(video)),
        Stage("decode", _decode),
        Stage("convert", _to_rgb),
        *playing_stages(device),
    )
    if transcoding is None:
        return Loader("ours", lambda video: video, stages)
    return Loader(
        "ours, transcoded", lambda video: replace(video, data=transcode(video, transcoding)), stages
    )


def playing_stages(device: torch.device) -> tuple[Stage, ...]:
    """Our stages from the clip's frames, uint8 [T, S, S, 3], to the model's input."""
    return (
        Stage("game", lambda frames, request: play_round(frames, request.game)),
        Stage("transfer", lambda frames, request: torch.from_numpy(frames)[None].to(device)),
        Stage("input", _to_input),
    )


def _decode(reader: VideoReader, request: ClipRequest) -> NDArray[np.uint8]:
    with reader:
        return reader.read_square(request.frame_numbers, request.crop, request.size_px)


def _to_rgb(planes: NDArray[np.uint8], request: ClipRequest) -> NDArray[np.uint8]:
    frames: NDArray[np.uint8] = to_rgb(torch.from_numpy(planes), request.size_px).numpy()
    return frames


def _to_input(frames: torch.Tensor, request: ClipRequest) -> torch.Tensor:
    clip = to_input(frames, torch.from_numpy(request.color)[None])[0]
    if clip.is_cuda:
        torch.cuda.synchronize(clip.device)
    return clip
