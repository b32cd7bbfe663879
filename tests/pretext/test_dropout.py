"""Dropout by a seed: its share, its independence, and that no global random state is used."""

import torch

from ctp.pretext.dropout import seeded_dropout


def test_values_are_dropped_or_scaled() -> None:
    seeds = torch.arange(200)
    values = torch.rand(200, 10, 50) + 1
    for prob in (0.0, 0.1, 0.5, 0.9):
        dropped = seeded_dropout(values, seeds, prob)
        is_kept = dropped != 0
        assert abs(is_kept.float().mean() - (1 - prob)) < 0.005
        torch.testing.assert_close(dropped[is_kept], (values / (1 - prob))[is_kept])


def test_samples_and_values_are_independent() -> None:
    kept = seeded_dropout(torch.ones(300, 300), torch.arange(300), 0.5) / 2
    for matrix in (kept, kept.T):
        correlation = torch.corrcoef(matrix) - torch.eye(300)
        assert correlation.abs().max() < 0.35  # six standard deviations
        assert abs(matrix.mean(dim=1) - 0.5).max() < 0.18


def test_a_sample_alone_is_dropped_as_in_a_batch() -> None:
    values, seeds = torch.rand(4, 30), torch.tensor([7, 2**61, 3, 7])
    torch.manual_seed(0)
    together = seeded_dropout(values, seeds, 0.5)
    torch.manual_seed(1)
    apart = [seeded_dropout(values[i : i + 1], seeds[i : i + 1], 0.5) for i in range(4)]
    assert torch.equal(together, torch.cat(apart))
    assert torch.equal(together[0] != 0, together[3] != 0)
