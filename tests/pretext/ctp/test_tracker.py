"""The tracker: what its boxes are, and what is frozen in it."""

from __future__ import annotations

import pytest
import torch

from ctp.encoders.config import STAGES, EncoderConfig, HeadConfig
from ctp.geometry import apply_offsets
from ctp.pretext.ctp.tracker import Tracker

TINY = EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1))
HEAD = HeadConfig(hidden_channels=8)
SIGMA = (0.8, 0.8, 0.04, 0.04)
CLIPS = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
QUERIES = torch.tensor([[[4.0, 4, 20, 16]], [[8, 2, 30, 28]]])


def test_boxes_are_those_that_the_offsets_describe() -> None:
    model = Tracker(TINY, HEAD, 4, SIGMA).eval()
    offsets = model(CLIPS, QUERIES)
    assert offsets.shape == (2, 1, 4, 4)
    expected = apply_offsets(QUERIES[:, :, None], offsets, torch.tensor(SIGMA))
    torch.testing.assert_close(model.track(CLIPS, QUERIES), expected)


@pytest.mark.parametrize("number", range(6))
def test_frozen_stages_stay_and_the_rest_learns(number: int) -> None:
    model = Tracker(TINY, HEAD, 4, SIGMA, frozen_stages=number).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    (model(CLIPS, QUERIES) - 1).square().sum().backward()
    optimizer.step()
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    frozen = {f"encoder.{name}" for name in STAGES[:number]}
    assert not {name for name in changed if ".".join(name.split(".")[:2]) in frozen}
    learnt = {f"encoder.{name}" for name in STAGES[number:]} | {"head.mlp", "head.squeeze"}
    assert {".".join(name.split(".")[:2]) for name in changed} == learnt
    statistics = {name for name in before if "running_mean" in name}
    assert {n for n in statistics if n in changed} == {
        name for name in statistics if ".".join(name.split(".")[:2]) not in frozen
    }
