"""Work in a child process: what comes back, and what is said when the child is lost."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ctp.isolation import Isolated, LostError, working_on

HERE = Path(__file__).parent
CRASHES = [
    (signal.SIGSEGV, "crashed (SIGSEGV)"),
    (signal.SIGABRT, "crashed (SIGABRT)"),
    (signal.SIGKILL, "was killed (SIGKILL), out of memory perhaps"),
]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module tests/isolated_work.py, which children find by this process's sys.path."""
    monkeypatch.syspath_prepend(HERE)
    import isolated_work

    return isolated_work


@pytest.fixture
def isolated(work: ModuleType) -> Iterator[Isolated]:
    with Isolated(work.make, item_seconds=0.5) as isolated:
        yield isolated


def test_one_child_is_kept(isolated: Isolated) -> None:
    child = isolated.call("pid")
    assert child != os.getpid()
    assert isolated.call("pid") == child
    assert isolated.call("count") == 3


def test_the_child_imports_no_more_than_its_work(isolated: Isolated) -> None:
    assert "torch" not in isolated.call("own_modules")


@pytest.mark.parametrize(("number", "reason"), CRASHES)
def test_a_crash_is_blamed_on_the_item(number: int, reason: str, isolated: Isolated) -> None:
    with pytest.raises(LostError) as caught:
        isolated.call("die", "vidéo\udce9 1.mp4", number)
    assert (caught.value.item, caught.value.reason) == ("vidéo\udce9 1.mp4", reason)
    assert isolated.call("count") == 1  # a new child


def test_a_very_long_name_is_cut(isolated: Isolated) -> None:
    with pytest.raises(LostError) as caught:
        isolated.call("die", "ü" * 100_000, signal.SIGSEGV)
    assert caught.value.item == "ü" * 4000


def test_a_crash_outside_of_any_item_blames_nothing(isolated: Isolated) -> None:
    assert isolated.call("work", ["fine"], 0, 0) == "done"
    with pytest.raises(LostError, match="ended with status 3") as caught:
        isolated.call("leave")
    assert caught.value.item == ""


def test_a_child_lost_between_calls(isolated: Isolated) -> None:
    os.kill(isolated.call("pid"), signal.SIGKILL)
    with pytest.raises(LostError, match=r"was killed \(SIGKILL\)"):
        isolated.call("count")
    assert isolated.call("count") == 1


def test_after_an_interrupt_no_answer_is_taken_for_another(isolated: Isolated) -> None:
    # a shell's background job ignores SIGINT, and so would this process
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            isolated.call("interrupt_parent")
    finally:
        signal.signal(signal.SIGINT, before)
    assert isolated.call("count") == 1  # a new child


def test_a_hang_is_blamed_on_the_item(isolated: Isolated) -> None:
    with pytest.raises(LostError) as caught:
        isolated.call("work", ["a", "b"], 600, 0)
    assert (caught.value.item, caught.value.reason) == ("a", "took longer than 0.5 s")
    assert isolated.call("count") == 1


@pytest.mark.slow
def test_time_counts_for_each_item_and_in_items_only(work: ModuleType) -> None:
    with Isolated(work.make, item_seconds=2) as isolated:
        assert isolated.call("work", ["a", "b", "c"], 0.8, 0) == "done"
        assert isolated.call("work", ["a"], 0, 2.5) == "done"


def test_exceptions_cross_and_the_child_lives_on(isolated: Isolated) -> None:
    with pytest.raises(KeyError, match="'item'") as caught:
        isolated.call("fail_at", "item")
    assert any("fail_at" in note for note in caught.value.__notes__)
    with pytest.raises(RuntimeError, match="OddError: one, two"):
        isolated.call("odd_error")
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        isolated.call("lambda_")
    with pytest.raises(SystemExit):
        isolated.call("stop")
    assert isolated.call("count") == 5


def test_the_terminals_ctrl_c_does_not_reach_the_child(isolated: Isolated) -> None:
    child = isolated.call("pid")
    assert os.getpgid(child) == child


def test_a_function_that_cannot_be_made(work: ModuleType) -> None:
    with Isolated(work.refuse, item_seconds=1) as isolated:
        for _ in range(2):
            with pytest.raises(ValueError, match="there is no function"):
                isolated.call()


def test_arrays_come_back_equal_and_own_their_memory(work: ModuleType, isolated: Isolated) -> None:
    small = isolated.call("arrays", 1000)
    big = isolated.call("arrays", 3_000_000)  # the memory between them grows
    again = isolated.call("arrays", 1000)
    for came, size in ((small, 1000), (big, 3_000_000), (again, 1000)):
        np.testing.assert_equal(came, work.arrays(size))
    big["long"][:] = 7  # writable, and nobody else's
    isolated.call("arrays", 3_000_000)
    assert (big["long"] == 7).all()
    np.testing.assert_equal(big["strided"], work.arrays(3_000_000)["strided"])


def test_arguments_are_as_large_as_they_like(isolated: Isolated) -> None:
    sent = (bytes(range(256)) * 20_000, np.arange(400_000), ["a", None])
    np.testing.assert_equal(isolated.call("same", sent), sent)


def test_two_at_once(work: ModuleType, isolated: Isolated) -> None:
    with Isolated(work.make, item_seconds=5) as other:
        assert isolated.call("pid") != other.call("pid")
        with pytest.raises(LostError):
            isolated.call("die", "x", signal.SIGSEGV)
        assert other.call("count") == 2


def test_the_child_outlives_the_thread_that_started_it(isolated: Isolated) -> None:
    thread = threading.Thread(target=isolated.call, args=("pid",))
    thread.start()
    thread.join()
    assert isolated.call("count") == 2


def test_close_and_start_anew(isolated: Isolated) -> None:
    child = isolated.call("pid")
    isolated.close()
    assert not Path(f"/proc/{child}").exists()
    assert isolated.call("count") == 1


def test_what_is_dropped_ends(work: ModuleType) -> None:
    child = Isolated(work.make, item_seconds=1).call("pid")
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("what", ["pid", "work", "spin"])
def test_the_child_dies_with_its_parent(what: str, number: int) -> None:
    command = [sys.executable, HERE / "isolated_work.py", what]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(number)
        parent.communicate(timeout=60)  # returns when parent and child have closed their output


def test_errors_cross_processes() -> None:
    there = pickle.loads(pickle.dumps(LostError("a", "crashed (SIGSEGV)")))
    assert (there.item, there.reason) == ("a", "crashed (SIGSEGV)")
    assert str(there) == "the process that worked on 'a' crashed (SIGSEGV)"


def test_naming_an_item_elsewhere_does_nothing() -> None:
    with working_on("x"):
        pass
