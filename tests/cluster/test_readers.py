"""The cost of Ray for a training worker is measured on streams that are read side by side."""

from __future__ import annotations

import pytest

from ctp.bench.config import BenchConfig
from ctp.cluster import readers, stream
from ctp.cluster.readers import describe_scaling, measure_readers

FIGURES = {"clips_per_block": 250, "reader_cpu_ms_per_block": 20, "record_cpu_ms_per_block": 0.5}


def test_the_cost_of_a_worker_does_not_depend_on_the_cluster() -> None:
    """A GPU takes 4 blocks/s: 80 ms of its worker's core, 2 ms of the core of the record."""
    few, many, more, limit = describe_scaling(FIGURES, 1000)
    assert "8 GPUs" in few
    assert "32 blocks/s" in few
    for line in (few, many, more):
        assert "8.0% of a core" in line
    assert "512 GPUs" in more
    assert "102% of a core" in more
    assert "500 GPUs" in limit


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_readers_are_measured_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(readers, "SECONDS_PER_BLOCK", 0.05)
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", 64)
    config = BenchConfig(readers={"numbers": (2,), "blocks": 4}, ray={"total_batch": 16})
    (figures,) = measure_readers(config)
    assert (figures["readers"], figures["clips_per_block"]) == (2, 64)
    assert figures["blocks_per_second_of_a_reader"] > 0
    assert figures["reader_cpu_ms_per_block"] > 0
    assert figures["record_cpu_ms_per_block"] > 0
