"""compute.total_batch auto is as many samples as fit into the memory of the GPUs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ctp.cluster.batch_size import MAX_SHARE, fitting_share, with_chosen_batch
from ctp.pretext.config import PretrainConfig
from ctp.training.run_folder import create_or_resume


@pytest.fixture
def automatic(small_run: PretrainConfig, tmp_path: Path) -> PretrainConfig:
    compute = small_run.compute.replace(total_batch="auto")
    return small_run.replace(storage=str(tmp_path), compute=compute)


@pytest.mark.parametrize(("memory_bytes", "expected"), [(110, 1), (460, 8), (900, 16), (9999, 32)])
def test_it_is_the_largest_power_of_two_that_fits(memory_bytes: int, expected: int) -> None:
    """8 samples take 460 bytes, 16 take 820, 32 take 1540, and 64 raise an error."""
    tried = []

    def peak_bytes(samples: int) -> int:
        tried.append(samples)
        if samples > 46:
            raise torch.OutOfMemoryError
        return 100 + (10 if samples < 8 else 45) * samples

    assert fitting_share(peak_bytes, memory_bytes) == expected
    assert tried == [2**n for n in range(len(tried))]


def test_it_is_limited() -> None:
    assert fitting_share(lambda samples: samples, 10**9) == MAX_SHARE


def test_a_run_of_which_no_sample_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller encoder"):
        fitting_share(lambda samples: 10, 9)


def test_a_run_without_gpus_is_refused(automatic: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=re.escape("--scaling.use_gpu true")):
        with_chosen_batch(automatic)


def test_a_run_keeps_its_batch(automatic: PretrainConfig, small_run: PretrainConfig) -> None:
    create_or_resume(automatic.replace(compute=small_run.compute))
    assert with_chosen_batch(automatic).compute == small_run.compute


def test_jobs_that_cannot_choose_ask_for_a_number(automatic: PretrainConfig) -> None:
    with pytest.raises(ValueError, match=re.escape("compute.total_batch auto")):
        automatic.compute.batch  # noqa: B018
