"""MemDPC: the loss against a plain loop, and blocks of five frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctp.encoders.config import R2plus1dConfig, R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.pretext.memdpc import Memdpc, contrastive_loss


def test_the_loss_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    true, predicted = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)  # clips, ways, places
    expected = 0.0
    for way in range(2):
        for clip in range(2):
            for place in range(3):
                query = predicted[clip, way, place]
                dots = torch.stack([each @ query for each in true[:, way].reshape(6, 4)])
                expected -= float(dots[3 * clip + place] - dots.logsumexp(0)) / 6
    assert float(contrastive_loss(true, predicted)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [R3dConfig, R2plus1dConfig])
def test_a_block_of_five_frames_has_two_steps_of_features(kind: Any) -> None:
    config = kind(width=4, blocks_per_stage=(1, 1, 1, 1), spatial_stride=16)
    encoder = build_encoder(config)
    before = {key: value.shape for key, value in encoder.state_dict().items()}
    model = Memdpc(encoder)
    assert encoder(torch.zeros(1, 3, 5, 32, 32)).shape == (1, 32, 2, 2, 2)
    assert {key: value.shape for key, value in encoder.state_dict().items()} == before
    true, predicted = model(torch.randn(8, 3, 5, 32, 32), None)
    assert true.shape == predicted.shape == (1, 2, 12, 256)
