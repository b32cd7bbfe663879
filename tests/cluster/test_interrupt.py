"""Ctrl-C and SIGTERM in a run: what there is to save is saved, and the handlers are given back."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ctp.cluster.train import _fit


class Quiet:
    """Fits at once."""

    def fit(self) -> Any:
        return "done"


class Failing:
    def fit(self) -> Any:
        raise RuntimeError("lost")


class Interrupted:
    """Goes on for ever, while this process is told to stop."""

    def __init__(self, number: int):
        self._number = number

    def fit(self) -> Any:
        signal.raise_signal(self._number)
        threading.Event().wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop(number: int) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    called: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _fit(Interrupted(number), lambda: called.append("saved"))  # type: ignore[arg-type]
    assert called == ["saved"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_not_told_to_stop() -> None:
    def never() -> None:
        raise AssertionError

    assert _fit(Quiet(), never) == "done"  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="lost"):
        _fit(Failing(), never)  # type: ignore[arg-type]


def test_off_the_main_thread_no_handler_is_touched() -> None:
    with ThreadPoolExecutor(1) as pool:
        fitted = pool.submit(_fit, Quiet(), lambda: None)  # type: ignore[arg-type]
        assert fitted.result() == "done"  # type: ignore[comparison-overlap]
