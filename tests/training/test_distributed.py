"""How many workers can share a batch, and that they form a group without the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ctp.training.config import ComputeConfig


@pytest.mark.parametrize(
    ("present", "total_batch", "usable"),
    [(8, 32, 8), (7, 32, 4), (3, 32, 2), (1, 32, 1), (6, 48, 6), (5, 7, 1), (9, 7, 7)],
)
def test_the_largest_number_of_workers_that_divides_the_batch_is_used(
    present: int, total_batch: int, usable: int
) -> None:
    assert ComputeConfig(total_batch=total_batch).usable_workers(present) == usable


def test_the_first_workers_form_a_new_group_without_the_others(free_port: int) -> None:
    script = str(Path(__file__).with_name("regroup_worker.py"))
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(free_port)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(3)
    ]
    met = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    assert met == ["[[0, 1, 2], [0, 1], [0]]", "[[0, 1, 2], [0, 1]]", "[[0, 1, 2]]"]
