"""A process that trains a run without Ray: `writer.py LEASE_SECONDS SECONDS_PER_STEP < CONFIG`.

Prints "step N" after each step.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from ctp.data.stream import Batch, SampleStream
from ctp.lease import LeaseError, hold
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.distributed import Worker
from ctp.training.run_folder import create_or_resume, folder_of
from ctp.training.trainer import RunStoppedError, train


def main() -> None:
    """Train."""
    torch.set_num_threads(1)
    lease_seconds, pause = map(float, sys.argv[1:])
    config = PretrainConfig.model_validate_json(sys.stdin.read())

    def slowly(stream: SampleStream[Any], first: int) -> Iterator[Batch[Any]]:
        for batch in stream.batches(first, 0, 1):
            time.sleep(pause)
            yield batch

    with hold(folder_of(config), config.KIND, lease_seconds=lease_seconds) as lease:
        create_or_resume(config)
        spec = replace(open_pretraining(config), attempt=lease.attempt)
        train(spec, Worker(), slowly, publish=lambda row: print("step", row["step"], flush=True))


if __name__ == "__main__":
    try:
        main()
    except (LeaseError, RunStoppedError) as error:
        sys.exit(f"error: {error}")
