"""Swin3D-T, torchvision's (Liu et al., CVPR 2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models.swin_transformer import PatchMerging
from torchvision.models.video.swin_transformer import SwinTransformer3d

from ctp.encoders.config import KINETICS, Swin3dConfig
from ctp.encoders.encoder import Encoder, PublishedWeights

DEPTHS = (2, 2, 6, 2)
HEAD_CHANNELS = 32
LEFT, RIGHT = slice(None, -1), slice(1, None)
MERGINGS = {1: 8, 3: 16, 5: 32}
"""Index of each merging of patches, and the spatial stride of its output."""


class Swin3d(Encoder):
    """A transformer whose tokens attend to those of a window, shifted in every second block.

    The state dict is that of `torchvision.models.video.swin3d_t` without `head`. torchvision's net
    has a total stride of 32. Where the stride would exceed `spatial_stride`, each patch is merged
    with those beside and below it, and no patch is dropped.
    """

    Config = Swin3dConfig
    stages = ("patch_embed", *(f"features.{number}" for number in range(7)), "norm")
    published_weights: ClassVar = {KINETICS: PublishedWeights("Swin3D_T_Weights.KINETICS400_V1")}

    def __init__(self, config: Swin3dConfig):
        super().__init__(config)
        heads = config.width // HEAD_CHANNELS
        net = SwinTransformer3d(
            patch_size=[2, 4, 4],
            embed_dim=config.width,
            depths=list(DEPTHS),
            num_heads=[heads * 2**stage for stage in range(len(DEPTHS))],
            window_size=[8, 7, 7],
            # its draws would depend on the number of workers, and differ after a restart
            stochastic_depth_prob=0.0,
            num_classes=1,
        )
        self.out_channels = 8 * config.width
        self.stride = (2, config.spatial_stride, config.spatial_stride)
        self.patch_embed, self.features = net.patch_embed, net.features
        for index, stride in MERGINGS.items():
            if stride > config.spatial_stride:
                self.features[index].__class__ = DensePatchMerging
        self.norm = MapNorm(self.out_channels)


class DensePatchMerging(PatchMerging):  # type: ignore[misc]
    """A merging of 2×2 patches at each patch: the weights of `PatchMerging` at stride 1."""

    def forward(self, patches: Tensor) -> Tensor:
        """Return [..., H, W, 2·C] for float [..., H, W, C]."""
        padded = pad(patches, (0, 0, 0, 1, 0, 1))
        top, bottom = padded[..., :-1, :, :], padded[..., 1:, :, :]
        # in the order of the weights
        corners = [row[..., columns, :] for columns in (LEFT, RIGHT) for row in (top, bottom)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


class MapNorm(nn.LayerNorm):
    """Layer normalisation of tokens, which returns them as a map."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, C, T, H, W] for float [B, T, H, W, C]."""
        return super().forward(tokens).permute(0, 4, 1, 2, 3)
