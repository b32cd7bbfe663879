"""The process group of training workers on this machine alone."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from ctp.cluster.local import LOOPBACK
from ctp.training.distributed import join_group, listen


class LocalTorchConfig(TorchConfig):
    """As `TorchConfig`, but workers of a local Ray meet on the loopback interface only.

    The store through which PyTorch's workers find each other otherwise listens on all interfaces.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Return the class that sets up the process group."""
        return _LocalBackend


class _LocalBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Set up the process group of all workers."""
        assert isinstance(backend_config, TorchConfig)
        address, port = worker_group.execute_single(0, get_address_and_port)
        if address != LOOPBACK:
            super().on_start(worker_group, backend_config)
            return
        worker_group.execute(_set_torch_distributed_env_vars)
        has_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        backend = backend_config.backend or ("nccl" if has_gpus else "gloo")
        arguments = (backend, len(worker_group), port, backend_config.timeout_s)
        ray.get(
            [
                worker_group.execute_single_async(rank, _join_process_group, rank, *arguments)
                for rank in range(len(worker_group))
            ]
        )


def _join_process_group(
    rank: int, backend: str, world_size: int, port: int, timeout_seconds: int
) -> None:
    """Join the process group; the first worker holds the store.

    Args:
        rank: of this worker.
        backend: gloo or nccl.
        world_size: number of workers.
        port: where the store listens on the loopback interface.
        timeout_seconds: of each operation of the group.
    """
    os.environ |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    timeout = timedelta(seconds=timeout_seconds)
    listener = listen(LOOPBACK, port) if rank == 0 else None
    join_group(backend, rank, world_size, (LOOPBACK, port), listener, timeout)
