"""One round of Catch-the-Patch on the frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctp.pretext.ctp.appearance import PatchLooks, sample_looks
from ctp.pretext.ctp.config import GameConfig
from ctp.pretext.ctp.paste import paste
from ctp.pretext.ctp.trajectory import Trajectories, sample_trajectories


@dataclass(frozen=True)
class Round:
    """A round of the game as it was drawn, before a pixel is touched.

    Attributes:
        trajectories: where the K patches go.
        looks: how they look.
        order: int64 [K], which is pasted first, second, …
    """

    trajectories: Trajectories
    looks: PatchLooks
    order: NDArray[np.int64]


def draw_round(
    config: GameConfig, num_frames: int, size_px: tuple[int, int], rng: np.random.Generator
) -> Round:
    """Draw a round on `num_frames` frames of a width and height.

    Raises:
        ValueError: there are fewer than two frames.
    """
    if num_frames < 2:
        raise ValueError(f"the game needs at least 2 frames, got {num_frames}")
    trajectories = sample_trajectories(config, num_frames, size_px, rng)
    looks = sample_looks(config, num_frames, rng)
    return Round(trajectories, looks, _paste_order(config, trajectories))


def play_round(
    frames: NDArray[np.uint8], drawn: Round, donors: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Cut the patches and paste them. All are cut before the first one is pasted.

    Args:
        frames: uint8 [T, H, W, 3]; not changed.
        drawn: the round.
        donors: uint8 [K, H, W, 3], a picture of another video to cut each patch from; none: each
            is cut from the clip's own frame that its trajectory names.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        ValueError: the donors are not one for each patch, or of another size than the frames.
    """
    sources = frames[drawn.trajectories.source_frame] if donors is None else donors
    wanted = (len(drawn.order), *frames.shape[1:])
    if sources.shape != wanted:
        raise ValueError(f"wanted donors of {wanted}, got an array of {sources.shape}")
    return paste(frames, drawn.trajectories, drawn.looks, sources, drawn.order)


def play(
    frames: NDArray[np.uint8],
    config: GameConfig,
    rng: np.random.Generator,
    donors: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], Trajectories]:
    """Cut K patches, let them fly over the frames, hide them now and then (§3.3).

    A pure function of its arguments.

    Args:
        frames: uint8 [T, H, W, 3], T at least 2.
        config: the rules.
        rng: source of randomness.
        donors: uint8 [K, H, W, 3], a frame of another video for each patch, needed and used if
            `config.patch_source` is "other_clip".

    Returns:
        The pasted frames, uint8 [T, H, W, 3], and the trajectories.

    Raises:
        ValueError: `frames` has fewer than two frames, or the donors that the rules ask for are
            missing or of another size.
    """
    num_frames, height, width, _ = frames.shape
    drawn = draw_round(config, num_frames, (width, height), rng)
    if config.patch_source == "trajectory":
        donors = None
    elif donors is None:
        raise ValueError("patch_source 'other_clip' needs donors, got none")
    return play_round(frames, drawn, donors), drawn.trajectories


def _paste_order(config: GameConfig, trajectories: Trajectories) -> NDArray[np.int64]:
    if not config.large_first:
        return np.arange(config.num_patches)
    # large first, or they hide the small ones
    size = (trajectories.boxes[..., 2:] - trajectories.boxes[..., :2]).mean(axis=1)
    return np.argsort(-size.prod(axis=1), kind="stable")
