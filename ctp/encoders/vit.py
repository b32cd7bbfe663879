"""A plain video transformer, the encoder of VideoMAE (Tong et al., NeurIPS 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from ctp.encoders.config import VitConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.swin3d import MapNorm

WIDTHS = {"Ti": 192, "S": 384, "B": 768}
"""Channels of a token, by size."""
NUM_BLOCKS = 12
HEAD_CHANNELS = 64
TUBELET_FRAMES = 2
NORM_EPS = 1e-6
WAVELENGTH = 10_000
"""Longest wavelength of the position embedding, in tokens over 2π."""


class Vit(Encoder):
    """Transformer blocks on tubelets of 2 frames, with attention between all tubelets.

    The spatial stride is `patch`. The position embedding is fixed, so clips may have any size.
    Parameters have VideoMAE's names, and its published encoders, pretrained or fine-tuned, are read
    from their .pth files.
    """

    Config = VitConfig
    stages = ("patch_embed", *(f"blocks.{number}" for number in range(NUM_BLOCKS)), "norm")
    # of fine-tuned nets, which normalise the mean of all tokens
    checkpoint_names = ((r"^fc_norm\.", "norm."),)

    def __init__(self, config: VitConfig):
        super().__init__(config)
        width = WIDTHS[config.size]
        self.out_channels = width
        self.stride = (TUBELET_FRAMES, config.patch, config.patch)
        self.patch_embed = TubeletEmbedding(width, self.stride)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(NUM_BLOCKS)))
        self.norm = MapNorm(width, eps=NORM_EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class TubeletEmbedding(nn.Module):
    """Makes a token of each tubelet and adds the embedding of its position."""

    def __init__(self, width: int, size: tuple[int, int, int]):
        super().__init__()
        self.proj = nn.Conv3d(3, width, size, stride=size)

    def forward(self, clips: Tensor) -> Tensor:
        """Return tokens [B, ⌈T/t⌉, ⌈H/h⌉, ⌈W/w⌉, C] of clips, float [B, 3, T, H, W]."""
        missing = [-n % size for n, size in zip(clips.shape[2:], self.proj.stride, strict=True)]
        clips = pad(clips, (0, missing[2], 0, missing[1], 0, missing[0]))
        tokens: Tensor = self.proj(clips).permute(0, 2, 3, 4, 1)
        grid, width = tokens.shape[1:4], tokens.shape[4]
        positions = embed_positions(math.prod(grid), width, tokens.device)
        return tokens + positions.to(tokens.dtype).view(*grid, width)


def embed_positions(number: int, width: int, device: torch.device) -> Tensor:
    """Return sines and cosines of the positions 0 to `number` - 1, float64 [number, width].

    Channels 2i and 2i+1 are the sine and the cosine of position / 10000^(2i/width) (Vaswani et
    al., NeurIPS 2017, §3.5). As in VideoMAE, a token's position is its place in the order of time,
    height and width.
    """
    channel = torch.arange(width, device=device, dtype=torch.float64)
    even = 2 * (channel // 2)
    frequency = torch.exp(even * (-math.log(WAVELENGTH) / width))
    # in double precision: float32 would round the phases of late tokens
    position = torch.arange(number, device=device, dtype=torch.float64)
    # a cosine is a sine a quarter of a turn later
    return torch.sin(position[:, None] * frequency + (channel - even) * (math.pi / 2))


class Block(nn.Module):
    """Attention and a perceptron, each after layer normalisation and beside a shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Perceptron(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape, float [B, T, H, W, C]."""
        tokens = tokens + self.attn(self.norm1(tokens))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class Attention(nn.Module):
    """Attention of every token to all tokens of its clip. Keys have no bias: it would have no
    effect."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape, float [B, T, H, W, C]."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = linear(tokens.flatten(1, 3), self.qkv.weight, bias)
        # [B, N, 3·C] to three of [B, heads, N, C/heads]
        heads = qkv.view(*qkv.shape[:2], 3, -1, HEAD_CHANNELS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected.view(tokens.shape)


class Perceptron(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return float [..., C] for [..., C]."""
        mixed: Tensor = self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return mixed
