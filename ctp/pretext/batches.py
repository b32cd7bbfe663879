"""Clips as batches: arrays with a leading B on the way to a worker, and frames on its device.

A batch comes in one of two forms. *Played*: the actors have pasted the patches. *Drawn*: they
have decoded, and drawn where patches go; converting to RGB and pasting is left to the device, in
one go for the whole batch, at half the bytes on the way. The pixels are the same to 1/255.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctp.pretext.ctp.game import Round, play_round
from ctp.pretext.ctp.paste_batch import Rounds, paste_batch, stack_rounds
from ctp.training.maker import Batch
from ctp.video.planes import to_rgb


@dataclass(frozen=True)
class Clip:
    """One training example: the game as it was played on the frames of one video.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB, patches pasted.
        boxes: float32 [K, T, 4], xyxy pixels.
        visible: bool [K, T].
        color: float32 [T, 4]: hue shift in degrees, saturation factor, brightness added (of
            255), contrast factor; applied on the device.
        video_id: the video that the frames come from.
    """

    frames: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visible: NDArray[np.bool_]
    color: NDArray[np.float32]
    video_id: str


@dataclass(frozen=True)
class DrawnClip:
    """A clip before its patches are pasted.

    Attributes:
        planes: uint8 [T, 3/2 · S²], the frames as `pixels.to_rgb` takes them.
        donors: uint8 [K, 3/2 · S²], pictures of other videos that the patches are cut from; None:
            they are cut from the clip's own frames.
        drawn: the round of the game.
        color: float32 [T, 4] as `Clip.color`.
        video_id: the video that the frames come from.
    """

    planes: NDArray[np.uint8]
    donors: NDArray[np.uint8] | None
    drawn: Round
    color: NDArray[np.float32]
    video_id: str

    def play(self, size_px: int) -> Clip:
        """Convert to RGB of S × S and paste, on the CPU."""
        frames = to_rgb(torch.from_numpy(self.planes), size_px).numpy()
        donors = None
        if self.donors is not None:
            donors = to_rgb(torch.from_numpy(self.donors), size_px).numpy()
        return Clip(
            frames=play_round(frames, self.drawn, donors),
            boxes=self.drawn.trajectories.boxes,
            visible=self.drawn.trajectories.visible,
            color=self.color,
            video_id=self.video_id,
        )


def stack(clips: Sequence[Clip]) -> Batch:
    """Played clips: "frames" uint8 [B, T, H, W, 3], "boxes" float32 [B, K, T, 4], "visible" bool
    [B, K, T], "color" float32 [B, T, 4], and "video" [B] ids."""
    return {
        "frames": np.stack([clip.frames for clip in clips]),
        "boxes": np.stack([clip.boxes for clip in clips]),
        "visible": np.stack([clip.visible for clip in clips]),
        "color": np.stack([clip.color for clip in clips]),
        "video": [clip.video_id for clip in clips],
    }


def stack_drawn(clips: Sequence[DrawnClip], *, with_donors: bool) -> Batch:
    """Drawn clips: "planes" uint8 [B, T, 3/2 · S²], the fields of `Rounds`, "color" and "video".

    Args:
        clips: B of them.
        with_donors: whether there is to be "donors" uint8 [B, K, 3/2 · S²], zeros for a clip
            that has none, and "has_donors" bool [B]. All batches of a run must be alike.
    """
    batch: Batch = stack_rounds([clip.drawn for clip in clips])
    batch["planes"] = np.stack([clip.planes for clip in clips])
    batch["color"] = np.stack([clip.color for clip in clips])
    batch["video"] = [clip.video_id for clip in clips]
    if with_donors:
        shape = (len(clips[0].drawn.order), clips[0].planes.shape[-1])
        donors = [np.zeros(shape, np.uint8) if c.donors is None else c.donors for c in clips]
        batch["donors"] = np.stack(donors)
        batch["has_donors"] = np.array([clip.donors is not None for clip in clips])
    return batch


def frames_on(device: torch.device, batch: Mapping[str, Any], size_px: int) -> Tensor:
    """The frames of a batch of either form, patches pasted: uint8 [B, T, S, S, 3] on `device`."""
    if "frames" in batch:
        return on(device, batch["frames"])
    rounds = Rounds.on(device, batch)
    frames = to_rgb(on(device, batch["planes"]), size_px)
    if "donors" not in batch:
        return paste_batch(frames, rounds)
    donors = to_rgb(on(device, batch["donors"]), size_px)
    return paste_batch(frames, rounds, donors, on(device, batch["has_donors"]))


def on(device: torch.device, values: Any) -> Tensor:
    """An array as a tensor on a device."""
    return torch.as_tensor(values).to(device, non_blocking=True)
