"""The cores that a GPU needs and what limits a run, worked by hand."""

import pytest

from ctp.bench.budget import Budget


def test_cores_for_a_gpu():
    """1000 clips/s of 4 ms are 4 cores; when 80% of their work arrives, 5."""
    budget = Budget("ours", 4.0, 0.8, 1000.0, num_gpus=8, num_cores=96)
    assert budget.cores_per_gpu == pytest.approx(5)
    assert budget.asked == 8000
    assert budget.delivered == pytest.approx((96 - 8) * 200)
    assert budget.is_enough
    assert "5.0 cores" in budget.sentence()
    assert "training step is the limit" in budget.sentence()


def test_too_few_cores_are_the_limit():
    """28 cores, 8 of them for the workers: 20 make 200 clips/s each, half of 8000."""
    budget = Budget("ours", 4.0, 0.8, 1000.0, num_gpus=8, num_cores=28)
    assert "the data are the limit, and the GPUs wait 50% of the time" in budget.sentence()
    assert budget.as_row()["limit"] == "data"
    assert Budget("ours", 4.0, 0.8, 1000.0, num_gpus=8, num_cores=4).delivered == 0
