"""Pasting for a batch on a CPU, clip by clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ctp.pretext.ctp.game import Game
from ctp.pretext.ctp.paste import paste

if TYPE_CHECKING:
    from ctp.pretext.ctp.task import GameSample


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its loops are those of NumPy
def paste_on_cpu(
    frames: Tensor, sources: Tensor, samples: GameSample, blending: Literal["exact", "official"]
) -> Tensor:
    """Cut the patches of all clips and paste them.

    Args:
        frames: uint8 [B, T, S, S, 3].
        sources: uint8 [B, K, S, S, 3], pictures to cut the patches from; K may be 0.
        samples: the patches.
        blending: as in `paste`.

    Returns:
        uint8 [B, T, S, S, 3].
    """
    pasted = [
        paste(
            clip.numpy(),
            Game(*(field.numpy() for field in game)),
            own if used else None,
            blending=blending,
        )
        for clip, own, used, *game in zip(
            frames, sources.numpy(), samples.has_patch_sources, *samples.game, strict=True
        )
    ]
    return torch.from_numpy(np.stack(pasted))
