"""One clip, several ways: what is asked of a loader, what a loader is, and ours.

A loader is two rows of stages: on the CPU from a video in memory to what goes to the device, clip
by clip, and there on to the model's input, batch by batch. Each can be timed, and one loader's
against another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ctp.bench.timing import wait_for
from ctp.build.config import TranscodeConfig
from ctp.build.transcode import transcode
from ctp.pretext.ctp.config import GameConfig
from ctp.pretext.ctp.game import Round, draw_round, play_round
from ctp.pretext.ctp.paste_batch import Rounds, paste_batch, stack_rounds
from ctp.rng import generator
from ctp.video.augment import sample_color, sample_crop, to_input
from ctp.video.config import AugmentConfig, SamplingConfig
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop, Cutter, to_rgb
from ctp.video.sampling import sample_frames

ON_DEVICE = "device: "
"""What the names of stages on the device begin with."""


class Drawn(NamedTuple):
    """All that is random about a clip; see `ClipRequest`."""

    frame_numbers: tuple[int, ...]
    crop: Crop
    game: Round
    color: NDArray[np.float32]


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
        draw: draws all this once more, for drawing is part of the work.
    """

    video: int
    frame_numbers: tuple[int, ...]
    picture_size_px: tuple[int, int]
    crop: Crop
    size_px: int
    game: Round
    color: NDArray[np.float32]
    draw: Callable[[], object]

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
        with VideoReader(videos[video]) as reader:
            names = ("clip", 0, videos[video].id, clip_number)
            draw = partial(_draw, sampling, augment, game, reader.num_frames, seed, names)
            requests.append(_request(video, reader, draw, augment.frame_size_px))
    return requests


def _draw(
    sampling: SamplingConfig,
    augment: AugmentConfig,
    game: GameConfig,
    num_video_frames: int,
    seed: int,
    names: tuple[int | str, ...],
) -> Drawn:
    rng, size = generator(seed, *names), augment.frame_size_px
    frames = tuple(sample_frames(sampling, num_video_frames, rng).tolist())
    crop = sample_crop(augment, rng)
    drawn = draw_round(game, len(frames), (size, size), rng)
    return Drawn(frames, crop, drawn, sample_color(augment, len(frames), rng))


def _request(
    video: int, reader: VideoReader, draw: Callable[[], Drawn], size_px: int
) -> ClipRequest:
    frames, crop, game, color = draw()
    cutter = Cutter(crop, num_frames=1)
    reader.decode(frames[:1], lambda _, frame: cutter.add(0, frame))
    assert cutter.picture_size is not None
    return ClipRequest(video, frames, cutter.picture_size, crop, size_px, game, color, draw)


@dataclass(frozen=True)
class Stage:
    """A step of a loader on the CPU: makes from what the stage before it returned what the next
    one takes."""

    name: str
    work: Callable[[Any, ClipRequest], Any]


@dataclass(frozen=True)
class DeviceStage:
    """A step on the device, for B clips at once."""

    name: str
    work: Callable[[Any, Sequence[ClipRequest]], Any]


@dataclass(frozen=True)
class Loader:
    """A way to make clips.

    Attributes:
        name: what it is called in tables.
        store: a video as this loader wants it to lie in storage; done once, not part of loading.
        device: where clips are wanted.
        stages: on the CPU; the first takes what `store` returned.
        device_stages: the first takes a list of what the last of `stages` returned; the last
            returns the model's input.
    """

    name: str
    store: Callable[[EncodedVideo], EncodedVideo]
    device: torch.device
    stages: tuple[Stage, ...]
    device_stages: tuple[DeviceStage, ...]

    def prepare(self, stored: EncodedVideo, request: ClipRequest, seconds: dict[str, float]) -> Any:
        """Do a clip's work on the CPU, and add what each stage took to `seconds`: of the cores
        of this process, so that it does not matter who else uses them."""
        made: Any = stored
        for stage in self.stages:
            began = time.process_time()
            made = stage.work(made, request)
            seconds[stage.name] = seconds.get(stage.name, 0) + time.process_time() - began
        return made

    def finish(
        self, made: Sequence[Any], requests: Sequence[ClipRequest], seconds: dict[str, float]
    ) -> torch.Tensor:
        """Do the work on the device for B clips, and add what each stage took to `seconds`.

        Returns:
            float32 [B, 3, T, H, W], as `to_input` makes it.
        """
        batch: Any = made
        for stage in self.device_stages:
            began = time.perf_counter()
            batch = stage.work(batch, requests)
            wait_for(self.device)
            name = ON_DEVICE + stage.name
            seconds[name] = seconds.get(name, 0) + time.perf_counter() - began
        clips: torch.Tensor = batch
        return clips


DRAW = Stage("draw", lambda video, request: (request.draw(), video)[1])


def ours(
    device: torch.device,
    transcoding: TranscodeConfig | None = None,
    *,
    play_on: Literal["cpu", "device"] = "cpu",
) -> Loader:
    """The way of `ctp`: decode, cut and scale, play; change colours on the device.

    Args:
        device: where clips are wanted.
        transcoding: how videos are coded anew before, as in shards for training; None: they stay
            as they are.
        play_on: where pixels become RGB and patches are pasted.
    """
    coded = "original" if transcoding is None else "transcoded"
    stages: tuple[Stage, ...] = (
        DRAW,
        Stage("open", lambda video, request: VideoReader(video)),
        Stage("decode", _decode),
    )
    device_stages = _playing_stages(device)
    if play_on == "cpu":
        stages = *stages, Stage("convert", _to_rgb), PLAY
        device_stages = played_stages(device)

    def store(video: EncodedVideo) -> EncodedVideo:
        return video if transcoding is None else replace(video, data=transcode(video, transcoding))

    return Loader(f"ours {coded} ({play_on})", store, device, stages, device_stages)


PLAY = Stage("game", lambda frames, request: play_round(frames, request.game))


def played_stages(device: torch.device) -> tuple[DeviceStage, ...]:
    """What is left to the device of clips that were played on the CPU, uint8 [T, S, S, 3]."""
    return (
        DeviceStage("transfer", lambda made, requests: torch.as_tensor(np.stack(made)).to(device)),
        DeviceStage("colours", _change_colors),
    )


def _playing_stages(device: torch.device) -> tuple[DeviceStage, ...]:
    """All that comes after the planes of a clip, uint8 [T, 3/2 · S²]."""

    def transfer(
        made: Sequence[NDArray[np.uint8]], requests: Sequence[ClipRequest]
    ) -> tuple[torch.Tensor, Rounds]:
        planes = torch.as_tensor(np.stack(made)).to(device)
        return planes, Rounds.on(device, stack_rounds([request.game for request in requests]))

    return (
        DeviceStage("transfer", transfer),
        DeviceStage(
            "convert", lambda batch, requests: (to_rgb(batch[0], requests[0].size_px), batch[1])
        ),
        DeviceStage("game", lambda batch, requests: paste_batch(*batch)),
        DeviceStage("colours", _change_colors),
    )


def _decode(reader: VideoReader, request: ClipRequest) -> NDArray[np.uint8]:
    with reader:
        return reader.read_square(request.frame_numbers, request.crop, request.size_px)


def _to_rgb(planes: NDArray[np.uint8], request: ClipRequest) -> NDArray[np.uint8]:
    frames: NDArray[np.uint8] = to_rgb(torch.from_numpy(planes), request.size_px).numpy()
    return frames


def _change_colors(frames: torch.Tensor, requests: Sequence[ClipRequest]) -> torch.Tensor:
    return to_input(frames, torch.from_numpy(np.stack([request.color for request in requests])))
