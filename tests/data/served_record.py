"""A `LossRecord` in a process of its own, for the workers of tests that do without Ray."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Sequence
from multiprocessing.managers import BaseManager
from typing import Any

from ctp.data.journal import Death, LossRecord, Machine, Standing

KEY = b"test"


@functools.cache
def the_record() -> LossRecord:
    return LossRecord(states_of=states_of)


def states_of(machines: Collection[str]) -> dict[str, Machine]:
    """Return the states that the machines' names begin with."""
    return {machine: Machine[machine.partition("-")[0]] for machine in machines}


class Server(BaseManager):
    """Serves the record."""


Server.register("record", the_record)


class ServedRecord:
    """The record as one actor calls it."""

    def __init__(self, address: str, actor: str, machine: str = "ALIVE"):
        server = Server(address=address, authkey=KEY)
        server.connect()
        self._record: Any = server.record()  # type: ignore[attr-defined]
        self._actor, self._machine = actor, machine

    def start(self, process: str, deaths: Sequence[Death]) -> str:
        error: str = self._record.start(self._actor, process, self._machine, deaths)
        return error

    def begin_task(self, videos: Sequence[str]) -> Standing:
        standing: Standing = self._record.begin_task(self._actor, videos)
        return standing

    def end_task(self) -> None:
        self._record.end_task(self._actor)

    def name(self, video: str, limit: float) -> None:
        self._record.name(self._actor, video, limit)

    def grant(self, video: str, limit: float) -> bool:
        granted: bool = self._record.grant(self._actor, video, limit)
        return granted

    def release(self, video: str) -> None:
        self._record.release(self._actor, video)


if __name__ == "__main__":
    server = Server(address=sys.argv[1], authkey=KEY).get_server()
    print("ready", flush=True)
    server.serve_forever()
