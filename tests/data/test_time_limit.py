"""A time limit ends the process, but does not count the time in which the storage is read."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from ctp.data.time_limit import paused, renew, time_limit


class ExpiredError(Exception):
    pass


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Without it, the alarm would end this process."""

    def expire(*_: object) -> None:
        raise ExpiredError

    before = signal.signal(signal.SIGALRM, expire)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_it_expires_and_ends_with_the_block() -> None:
    with pytest.raises(ExpiredError), time_limit(0.1):
        time.sleep(10)
    with time_limit(0.1):
        pass
    time.sleep(0.2)


def test_a_pause_is_not_counted_and_what_is_left_is() -> None:
    with time_limit(0.5):
        with paused(), paused():
            time.sleep(0.7)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left <= 0.5
        renew(0.1)
        with paused():
            time.sleep(0.2)
        with pytest.raises(ExpiredError):
            time.sleep(10)


def test_other_threads_and_threads_without_a_limit_change_nothing() -> None:
    def pause() -> None:
        with paused():
            time.sleep(10)

    other = threading.Thread(target=pause, daemon=True)
    with pytest.raises(ExpiredError), time_limit(0.2):
        _ = other.start(), time.sleep(10)
    with paused():
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
