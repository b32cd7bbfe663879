"""Signs of a run that does not learn, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.pretext.health import HealthMonitor, dead_unit_share, effective_rank, gradient_norm


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (torch.eye(6), 6.0),
        (torch.ones(5, 3), 1.0),
        (torch.diag(torch.tensor([2.0, 1.0, 1.0])), 2**1.5),  # entropy of ½, ¼, ¼
        (7 * torch.diag(torch.tensor([2.0, 1.0, 1.0])), 2**1.5),
        (torch.zeros(4, 4), 1.0),
    ],
    ids=["orthogonal", "alike", "halves", "scaled", "zero"],
)
def test_the_effective_rank_of_known_spectra(features: Tensor, expected: float) -> None:
    assert effective_rank(features) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_have_no_effective_rank(value: float) -> None:
    with pytest.raises(FloatingPointError, match=r"not finite. Lower optimizer.learning_rate"):
        effective_rank(torch.tensor([[1.0, 2.0], [value, 1.0]]))


def test_the_effective_rank_does_not_depend_on_order_or_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 8, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
    expected = effective_rank(features)
    assert effective_rank(features.flip(0) @ rotation) == pytest.approx(expected, rel=1e-5)
    assert 1 < expected < 8


def test_the_worst_layer_counts() -> None:
    layers = [np.array([True, True, True, False]), np.array([False, True])]
    assert dead_unit_share(layers) == 0.5


def test_the_norm_of_a_gradient() -> None:
    module = nn.Linear(1, 2, bias=False)
    assert gradient_norm(module) == 0
    module.weight.grad = torch.tensor([[3.0], [4.0]])
    assert gradient_norm(module) == 5


class Model(nn.Module):
    """An encoder, and a head that adds biases to three of its channels."""

    def __init__(self, biases: list[float]):
        super().__init__()
        self.encoder = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
        self.relu, self.biases = nn.ReLU(inplace=True), torch.tensor(biases)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.encoder(clips)
        pooled = features.mean(dim=(2, 3, 4))
        return pooled, self.relu(F.normalize(pooled[:, :3], dim=1) + self.biases)


def test_a_monitor_watches_the_features_and_the_relus_of_the_head() -> None:
    # normalised, no channel exceeds 1
    model = Model([2.0, -2.0, -2.0]).eval()
    clips = torch.randn(6, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    monitor = HealthMonitor()
    with torch.no_grad(), monitor.watching(model):
        batches = [model(clips[:4])[0], model(clips[4:])[0]]
    found = monitor.metrics()
    assert found["dead_unit_share"] == pytest.approx(2 / 3)
    assert found["effective_rank"] == pytest.approx(effective_rank(torch.cat(batches)))
    with torch.no_grad():
        model(-clips)  # not watched
    assert monitor.metrics() == found


def test_a_unit_that_fired_in_any_batch_is_alive() -> None:
    model = Model([0.0] * 3).eval()
    monitor = HealthMonitor()
    with torch.no_grad(), monitor.watching(model):
        for biases in ([-2.0, 2.0, -2.0], [-2.0, -2.0, 2.0]):
            model.biases = torch.tensor(biases)
            model(torch.zeros(2, 3, 4, 32, 32))
    assert monitor.metrics()["dead_unit_share"] == pytest.approx(1 / 3)


def test_units_of_a_part_that_does_not_learn_do_not_count() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
            self.heads = nn.ModuleList(nn.Sequential(nn.Linear(32, 4), nn.ReLU()) for _ in range(2))
            for head, biases in zip(self.heads, ([2, 2, 2, -2], [-2] * 4), strict=True):
                nn.init.zeros_(head[0].weight)
                head[0].bias.data = torch.tensor(biases).float()
            self.heads[1].requires_grad_(False)

        def forward(self, clips: Tensor) -> None:
            for head in self.heads:
                head(self.encoder(clips).mean(dim=(2, 3, 4)))

    model, monitor = TwoHeads().eval(), HealthMonitor()
    with torch.no_grad(), monitor.watching(model):
        model(torch.zeros(2, 3, 4, 32, 32))
    assert monitor.metrics()["dead_unit_share"] == 0.25
