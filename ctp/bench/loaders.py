"""Loaders: ways to get from an encoded video to the model's input, each as a list of stages.

Stages on the CPU work on one clip at a time, stages on the device on a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctp.bench.timing import ON_DEVICE, wait_for
from ctp.build.config import TranscodeConfig
from ctp.build.transcode import Facts, transcode
from ctp.data.stream import stack
from ctp.pretext.ctp.config import CtpConfig, GameConfig
from ctp.pretext.ctp.game import Game, draw_game
from ctp.pretext.ctp.task import CtpTask, GameSample
from ctp.training.transfer import to_device
from ctp.video.augment import PRETRAINING_COLORS, sample_color, sample_crop, to_input
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop
from ctp.video.sampling import sample_frames

Seconds = dict[str, float]
"""Name of a stage -> seconds."""


@dataclass(frozen=True)
class ClipRequest:
    """All random choices of a clip, so that every loader makes the same clip.

    Attributes:
        frame_numbers: the T frames, never falling, repeats allowed.
        picture_size_px: (width, height) of the video, upright.
        crop: the square to cut out, and whether it is mirrored.
        size_px: S, the side of the scaled square.
        game: the patches, cut from the clip itself.
        color: float32 [T, 4], see `sample_color`.
    """

    frame_numbers: tuple[int, ...]
    picture_size_px: tuple[int, int]
    crop: Crop
    size_px: int
    game: Game
    color: NDArray[np.float32]


def draw_request(
    config: CtpConfig, rules: GameConfig, facts: Facts, rng: np.random.Generator
) -> ClipRequest:
    """Draw a clip of a video as `CtpTask.draw` does; `rules` are `config.game`."""
    size, num_frames = config.augment.frame_size_px, config.sampling.num_frames
    frames = sample_frames(
        config.sampling, facts.num_frames, rng, temporal_jitter=config.rules == "official"
    )
    crop = sample_crop(config.augment, rng)
    game = draw_game(rules, num_frames, (size, size), rng)
    colors = replace(PRETRAINING_COLORS, half_open_key_frame_shift=rules.half_open_key_frame_shift)
    color = sample_color(colors, num_frames, rng)
    return ClipRequest(tuple(frames.tolist()), (facts.width, facts.height), crop, size, game, color)


@contextmanager
def timed(
    seconds: Seconds, stage: str, clock: Callable[[], float] = time.process_time
) -> Iterator[None]:
    """Add the time that a `with` block takes to `seconds[stage]`: by default the CPU time of this
    process, which other processes do not affect."""
    began = clock()
    yield
    # stages are entered once for each clip
    seconds[stage] = seconds.get(stage, 0.0) + clock() - began


@dataclass(frozen=True)
class Loader:
    """A way to load clips.

    Attributes:
        name: its name in tables.
        device: where the model's input is needed.
        store: returns a video's bytes in the format that this loader reads; done once, untimed.
        stages: name -> function of the previous stage's result; the first takes the stored video.
        device_stages: the same for a batch; the first takes a list of results of `stages`, the
            last returns the model's input.
    """

    name: str
    device: torch.device
    store: Callable[[EncodedVideo], bytes]
    stages: Mapping[str, Callable[[Any, ClipRequest], Any]]
    device_stages: Mapping[str, Callable[[Any, Sequence[ClipRequest]], Any]]

    def prepare(self, stored: EncodedVideo, request: ClipRequest, seconds: Seconds) -> Any:
        """Run the stages on the CPU for a clip; add their CPU time to `seconds`."""
        made: Any = stored
        for name, work in self.stages.items():
            with timed(seconds, name):
                made = work(made, request)
        return made

    def finish(
        self, made: Sequence[Any], requests: Sequence[ClipRequest], seconds: Seconds
    ) -> Tensor:
        """Run the stages on the device for a batch; add their time to `seconds`.

        Returns:
            float32 [B, 3, T, S, S], see `to_input`.
        """
        batch: Any = made
        for name, work in self.device_stages.items():
            with timed(seconds, ON_DEVICE + name, time.perf_counter):
                batch = work(batch, requests)
                # kernels run after the call that starts them has returned
                wait_for(self.device)
        clips: Tensor = batch
        return clips


def ours(
    device: torch.device, config: CtpConfig, transcoding: TranscodeConfig | None = None
) -> Loader:
    """Return this project's loader.

    Args:
        device: where the model's input is needed; patches are pasted there.
        config: the task; its patches are cut from the clip itself.
        transcoding: how videos are transcoded before, as in shards; None: not at all.
    """
    task = CtpTask(config)

    def transfer(made: Sequence[NDArray[np.uint8]], requests: Sequence[ClipRequest]) -> GameSample:
        samples = [
            task.fields()._replace(planes=planes, color=each.color, **each.game._asdict())
            for planes, each in zip(made, requests, strict=True)
        ]
        return to_device(stack(samples), device)

    return Loader(
        name="ours original" if transcoding is None else "ours transcoded",
        device=device,
        store=lambda video: video.data if transcoding is None else transcode(video, transcoding),
        stages={"open": lambda video, request: VideoReader(video), "decode": _decode},
        device_stages={
            "transfer": transfer,
            "paste": lambda samples, requests: (task.paste(samples), samples.color),
            "colours": lambda pasted, requests: to_input(*pasted),
        },
    )


def _decode(reader: VideoReader, request: ClipRequest) -> NDArray[np.uint8]:
    with reader:
        return reader.read_square(request.frame_numbers, request.crop, request.size_px)
