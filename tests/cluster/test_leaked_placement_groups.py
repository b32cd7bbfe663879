"""Placement groups that outlive the actors that made them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table

from ctp.cluster.connect import cluster
from ctp.cluster.leaked_placement_groups import remove_leaked_placement_groups

TIMEOUT_SECONDS = 60


@ray.remote(num_cpus=0)
class Owner:
    """Owns the actor that makes groups, as a trial of a sweep owns the controller of a training."""

    def __init__(self) -> None:
        self.maker = Maker.remote()  # type: ignore[attr-defined]

    def pid(self) -> int:
        return os.getpid()

    def start(self) -> None:
        ray.get(self.maker.ready.remote())
        self.maker.make_for_ever.remote()


@ray.remote(num_cpus=0)
class Maker:
    """Makes groups until its process ends."""

    def ready(self) -> None:
        pass

    def make_for_ever(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray sends SIGKILL a moment later
        while True:
            placement_group([{"CPU": 0.001}])
            time.sleep(0.005)


@pytest.fixture
def local_cluster() -> Iterator[None]:
    with cluster():
        yield


def groups(state: Callable[[str], bool]) -> list[dict[str, Any]]:
    return [group for group in placement_group_table().values() if state(group["state"])]


@pytest.mark.ray
@pytest.mark.usefixtures("local_cluster")
def test_groups_of_dead_actors_are_removed_and_others_are_kept() -> None:
    """Also those that the process asks for between its actor's death and its own end."""
    kept = placement_group([{"CPU": 0.001}])
    owner: Any = Owner.remote()  # type: ignore[attr-defined]
    ray.get(owner.start.remote())
    while len(groups(lambda state: state == "CREATED")) < 5:
        time.sleep(0.01)
    assert remove_leaked_placement_groups() == 0  # all are alive
    os.kill(ray.get(owner.pid.remote()), signal.SIGKILL)

    deadline = time.monotonic() + TIMEOUT_SECONDS
    while remaining := [g["placement_group_id"] for g in groups(lambda s: s != "REMOVED")]:
        if remaining == [kept.id.hex()]:
            break
        assert time.monotonic() < deadline, f"{len(remaining)} groups are left"
        remove_leaked_placement_groups()
        time.sleep(1)
    assert remaining == [kept.id.hex()]
