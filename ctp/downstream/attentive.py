"""Attentive pooling of features, as in V-JEPA's attentive probe (Bardes et al., TMLR 2024)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ctp.encoders.vit import Perceptron

HEAD_CHANNELS = 64
INIT_STD = 0.02


class AttentivePooler(nn.Module):
    """A block of cross-attention: one learned query attends to all tokens of a feature map.

    As in V-JEPA's code, pooled = query + Attention(query, Norm(tokens)), and the output is
    pooled + MLP(Norm(pooled)). Tokens get no position embedding besides the encoder's own.
    """

    def __init__(self, channels: int):
        super().__init__()
        # heads of 64 channels as V-JEPA's, or of fewer where 64 does not divide the channels
        num_heads = channels // math.gcd(channels, HEAD_CHANNELS)
        self.query = nn.Parameter(nn.init.trunc_normal_(Tensor(1, 1, channels), std=INIT_STD))
        self.norm1 = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(channels)
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                nn.init.trunc_normal_(parameter, std=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        # the last layer of each of the two branches, as V-JEPA scales the first block
        for last in (self.attention.out_proj, self.mlp.fc2):
            last.weight.data /= math.sqrt(2)

    def forward(self, features: Tensor) -> Tensor:
        """Return one vector for each clip, float [B, C], of features [B, C, T', H', W']."""
        tokens = self.norm1(features.flatten(2).mT)
        query = self.query.expand(len(tokens), -1, -1)
        attended, _ = self.attention(query, tokens, tokens, need_weights=False)
        pooled = (query + attended)[:, 0]
        mixed: Tensor = pooled + self.mlp(self.norm2(pooled))
        return mixed
