"""Ctrl-C and SIGTERM in a run: what there is to save is saved, and the handlers are given back."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ctp.cluster.train import fit_until_stopped


class Quiet:
    """Fits at once."""

    def fit(self) -> Any:
        return "done"


class Failing:
    def fit(self) -> Any:
        raise RuntimeError("lost")


class Interrupted:
    """Runs forever, while this process gets a signal to stop."""

    def __init__(self, number: int):
        self._number = number

    def fit(self) -> Any:
        signal.raise_signal(self._number)
        threading.Event().wait()


class InterruptedAndFailing(Failing):
    """Fails as soon as this process gets a signal to stop."""

    def fit(self) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return super().fit()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it(number: int) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    called: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fit_until_stopped(Interrupted(number), lambda: called.append("saved"))  # type: ignore[arg-type]
    assert called == ["saved"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_signal_stops_it_also_if_it_fails_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        fit_until_stopped(InterruptedAndFailing(), lambda: None)  # type: ignore[arg-type]


def test_without_a_signal_it_does_not_stop() -> None:
    def never() -> None:
        raise AssertionError

    assert fit_until_stopped(Quiet(), never) == "done"  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="lost"):
        fit_until_stopped(Failing(), never)  # type: ignore[arg-type]


def test_off_the_main_thread_no_handler_is_touched() -> None:
    with ThreadPoolExecutor(1) as pool:
        fitted = pool.submit(fit_until_stopped, Quiet(), lambda: None)  # type: ignore[arg-type]
        assert fitted.result() == "done"  # type: ignore[comparison-overlap]
