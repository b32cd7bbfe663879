"""The tracker: its boxes follow from its offsets, and frozen stages do not learn."""

from __future__ import annotations

import pytest
import torch

from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.geometry import apply_offsets
from ctp.pretext.ctp.config import HeadConfig
from ctp.pretext.ctp.tracker import Tracker

SIGMA = (0.8, 0.8, 0.04, 0.04)
CLIPS = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
QUERIES = torch.tensor([[[4.0, 4, 20, 16]], [[8, 2, 30, 28]]])


@pytest.fixture
def tracker() -> Tracker:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
        return Tracker(encoder, HeadConfig(hidden_channels=8), 4, SIGMA)


def test_boxes_have_the_predicted_offsets_from_the_query(tracker: Tracker) -> None:
    tracker.eval()
    offsets = tracker(CLIPS, QUERIES)
    assert offsets.shape == (2, 1, 4, 4)
    expected = apply_offsets(QUERIES[:, :, None], offsets, torch.tensor(SIGMA))
    torch.testing.assert_close(tracker.track(CLIPS, QUERIES), expected)


@pytest.mark.parametrize("number", range(6))
def test_frozen_stages_stay_and_the_rest_learns(tracker: Tracker, number: int) -> None:
    tracker.encoder.freeze_stages(number)
    tracker.train()
    before = {name: value.clone() for name, value in tracker.state_dict().items()}
    trained = [each for each in tracker.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    (tracker(CLIPS, QUERIES) - 1).square().sum().backward()
    optimizer.step()
    changed = {n for n, value in tracker.state_dict().items() if not torch.equal(value, before[n])}
    learnt = {f"encoder.{name}" for name in R3d.stages[number:]} | {"head.mlp", "head.squeeze"}
    assert {".".join(name.split(".")[:2]) for name in changed} == learnt
    statistics = {name for name in before if "running_mean" in name}
    assert statistics & changed == {n for n in statistics if ".".join(n.split(".")[:2]) in learnt}
