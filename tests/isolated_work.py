"""What test_isolation has done in child processes, which import this file by its name."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ctp.isolation import Isolated, working_on


class OddError(Exception):
    """Cannot be made again from its pickle."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first}, {second}")


def make() -> Callable[..., Any]:
    """A function that does what its first argument names, and knows how often it was called."""
    calls = 0

    def do(what: str, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        return calls if what == "count" else globals()[what](*args)

    return do


def refuse() -> Callable[..., Any]:
    raise ValueError("there is no function")


def pid() -> int:
    return os.getpid()


def same(value: Any) -> Any:
    return value


def own_modules() -> list[str]:
    return list(sys.modules)


def die(item: str, number: int) -> None:
    with working_on("one before"):
        pass
    with working_on(item):
        os.kill(os.getpid(), number)


def leave() -> None:
    os._exit(3)


def interrupt_parent() -> None:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(600)


def work(items: list[str], seconds: float, between: float) -> str:
    for item in items:
        with working_on(item):
            time.sleep(seconds)
        time.sleep(between)
    return "done"


def spin() -> None:
    """Never return, in C code that does not let go of the interpreter."""
    re.match("(a+)+$", "a" * 64 + "b")


def odd_error() -> None:
    raise OddError("one", "two")


def stop() -> None:
    sys.exit(1)


def lambda_() -> Any:
    return lambda: None


def fail_at(item: str) -> None:
    with working_on(item):
        raise KeyError(item)


def arrays(size: int) -> dict[str, Any]:
    return {
        "long": np.arange(size),
        "strided": np.arange(size)[::3],
        "turned": np.arange(size).reshape(2, -1).T,
        "empty": np.zeros((0, 3), np.float32),
        "many": [np.full(5, i, np.uint8) for i in range(100)],
    }


if __name__ == "__main__":  # a parent that is killed while its child works
    import isolated_work

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    isolated = Isolated(isolated_work.make, item_seconds=600)
    isolated.call("pid")
    print("ready", flush=True)
    isolated.call(sys.argv[1], *([["item"], 600, 0] if sys.argv[1] == "work" else []))
    signal.pause()
