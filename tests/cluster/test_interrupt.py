"""Ctrl-C in a run: Ray's own handler ends the process without a word, ours is to be told."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from ctp.cluster.train import _fit


class Quiet:
    """Has a thread's fit, which may set no handler."""

    def fit(self) -> Any:
        return "done"


class Trainer:
    """Meets Ctrl-C as Ray Train does."""

    def fit(self) -> Any:
        def leave(number: int, frame: FrameType | None) -> None:
            sys.exit(0)

        signal.signal(signal.SIGINT, leave)
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_is_an_interrupt_and_the_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _fit(Trainer())  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGINT) == before


def test_off_the_main_thread_no_handler_is_touched() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_fit, Quiet()).result() == "done"  # type: ignore[arg-type]
