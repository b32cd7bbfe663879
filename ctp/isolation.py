"""A function in a process of its own, which may be lost.

Decoders crash, hang and eat memory on files that nobody vouched for. What is done with such a file
is done in a child; when it is lost, the parent learns on which item and goes on with a new one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Self

MAX_ITEM_CHARACTERS = 4000
"""A longer name is cut."""
MAX_LOSSES = 2
"""An item that took so many processes with it is best given up: one may have been chance."""
END_SECONDS = 5.0
"""How long a child may take to end when it is asked to."""
SMALLEST_MEMORY_BYTES = 1 << 20
HEADER = struct.Struct("@dq")  # when the item was begun (monotonic, 0: none), bytes of its name
BEGUN = struct.Struct("@d")
PAGE_BYTES = HEADER.size + 4 * MAX_ITEM_CHARACTERS
KILLERS = {signal.SIGKILL: ", out of memory perhaps", signal.SIGTERM: ""}
"""Signals that come from outside."""
BOOTSTRAP = "import sys; from ctp import isolation; isolation.serve(*map(int, sys.argv[1:]))"


class LostError(RuntimeError):
    """The process that did the work is gone.

    Attributes:
        item: what was being worked on, as `working_on` named it; "" if nothing.
        reason: what happened to the process, in one line.
    """

    def __init__(self, item: str, reason: str):
        of = f" that worked on {item!r}" if item else ""
        super().__init__(f"the process{of} {reason}")
        self.item, self.reason = item, reason

    def __reduce__(self) -> tuple[type[LostError], tuple[str, str]]:
        return type(self), (self.item, self.reason)


class Isolated:
    """A function in a child process, for use in a `with` statement.

    The child is started at the first call, and anew at the first call after it was lost. It ends
    with `close`, when this object is dropped, and when this process dies, however that happens.

    `call` is not thread-safe. The child's standard output and error are this process's.
    """

    def __init__(self, make: Callable[[], Callable[..., Any]], *, item_seconds: float):
        """Start nothing yet.

        Args:
            make: called once in each child, gives the function. Picklable: a function of a module,
                a `functools.partial` of one, or a frozen dataclass with `__call__`.
            item_seconds: how long an item may be worked on (see `working_on`). What is done
                outside of any item may take as long as it likes.
        """
        self._make = pickle.dumps(make, protocol=5)
        self._item_seconds = item_seconds
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, *args: Any) -> Any:
        """The function's result for `args`, both picklable. Arrays in it own their memory.

        Raises:
            LostError: the child died, or worked too long on an item; it is gone.
            BaseException: what the function raised, with the child's traceback as a note; the
                child lives on. A RuntimeError stands for an error that cannot be pickled.
        """
        make = b"" if self._child else self._make  # it may be large: only a new child needs it
        request = [make, *_pickled(args)]
        child = self._child or self._start()
        try:
            result, error, trace = child.ask(request, self._item_seconds)
        except BaseException:  # lost, or interrupted: its answer would be taken for the next one
            self.close()
            raise
        if error is None:
            return result
        error.add_note(f"In the child process:\n{trace}")
        raise error

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child = None
            self._end()

    def _start(self) -> _Child:
        self._child = _Child()
        self._end = weakref.finalize(self, self._child.end)
        return self._child


@contextmanager
def working_on(item: str) -> Iterator[None]:
    """Blame `item` if this process dies, or the time limit passes, inside the block.

    Costs a microsecond; does nothing in a process that no `Isolated` started. Not to be nested.
    """
    if _page is None:
        yield
        return
    _page.begin(item)
    try:
        yield
    finally:
        _page.finish()


class _Page:
    """What the child works on and since when, in memory that outlives it."""

    def __init__(self, file: int):
        os.ftruncate(file, PAGE_BYTES)
        self._bytes = mmap.mmap(file, PAGE_BYTES)

    def begin(self, item: str) -> None:
        name = item[:MAX_ITEM_CHARACTERS].encode("utf-8", "surrogatepass")
        self._bytes[HEADER.size : HEADER.size + len(name)] = name
        HEADER.pack_into(self._bytes, 0, 0, len(name))
        BEGUN.pack_into(self._bytes, 0, time.monotonic())  # last: from here on the name counts

    def finish(self) -> None:
        BEGUN.pack_into(self._bytes, 0, 0)

    def read(self) -> tuple[float, str]:
        """When the item was begun and its name; 0 and "" if there is none."""
        begun, length = HEADER.unpack_from(self._bytes)
        name = self._bytes[HEADER.size : HEADER.size + length]
        if not begun or BEGUN.unpack_from(self._bytes) != (begun,):
            return 0.0, ""
        return begun, name.decode("utf-8", "surrogatepass")

    def close(self) -> None:
        self._bytes.close()


Parts = list[bytes | memoryview]
"""A pickle, and after it the arrays that were left out of it."""


class _Line:
    """One end of the line between parent and child. What is said lies in memory that both see and
    that grows; only the sizes go through the socket, one message at a time."""

    def __init__(self, connection: int, memory: int):
        self._connection, self._file = Connection(connection), memory
        os.ftruncate(memory, max(os.fstat(memory).st_size, SMALLEST_MEMORY_BYTES))
        self._memory = mmap.mmap(memory, 0)

    def send(self, parts: Parts) -> None:
        sizes = [len(part) for part in parts]
        if sum(sizes) > len(self._memory):
            os.ftruncate(self._file, 1 << sum(sizes).bit_length())
        self._see(sum(sizes))
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            self._memory[start : start + size] = part
            start += size
        self._connection.send(sizes)

    def receive(self) -> list[bytearray]:
        """The parts, copied.

        Raises:
            EOFError, ConnectionError: the other end is gone.
        """
        sizes = self._connection.recv()
        self._see(sum(sizes))
        parts, start = [], 0
        with memoryview(self._memory) as whole:
            for size in sizes:
                parts.append(bytearray(whole[start : start + size]))
                start += size
        return parts

    def wait(self, seconds: float) -> bool:
        """Whether something can be received, or the other end is gone, within so long."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        self._connection.close()
        self._memory.close()
        os.close(self._file)

    def _see(self, size: int) -> None:
        if size > len(self._memory):
            self._memory.close()
            self._memory = mmap.mmap(self._file, 0)


class _Child:
    """The parent's side of a child process."""

    def __init__(self) -> None:
        page, memory = _shared_file(), _shared_file()
        ours, theirs = socket.socketpair()
        # nobody writes to this pipe: its end tells the child that the parent died
        alive, self._life = os.pipe()
        files = (theirs.fileno(), alive, page, memory)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOTSTRAP, *map(str, files)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                pass_fds=files,
                process_group=0,  # Ctrl-C is the parent's business
            )
        finally:
            theirs.close()
            os.close(alive)
        self._line, self._page = _Line(ours.detach(), memory), _Page(page)
        os.close(page)

    def ask(self, request: Parts, item_seconds: float) -> Any:
        try:
            self._line.send(request)
            self._wait(item_seconds)
            answer = self._line.receive()
        except (EOFError, ConnectionError) as error:
            raise LostError(self._page.read()[1], self._death()) from error
        return _made(answer)

    def _wait(self, item_seconds: float) -> None:
        while True:
            begun, item = self._page.read()
            # an item that begins now is not over time before that much has passed
            left = begun + item_seconds - time.monotonic() if begun else item_seconds
            if self._line.wait(max(left, 0)):
                return
            if left <= 0 and self._page.read() == (begun, item):
                raise LostError(item, f"took longer than {item_seconds:g} s")

    def _death(self) -> str:
        status = self._process.wait()
        if status >= 0:
            return f"ended with status {status}; what it printed may say why"
        cause = signal.Signals(-status)
        if cause in KILLERS:
            return f"was killed ({cause.name}){KILLERS[cause]}"
        return f"crashed ({cause.name})"

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._life)
        self._page.close()
        self._line.close()


_page: _Page | None = None
"""The page of this process, if it is a child."""


def serve(connection: int, alive: int, page: int, memory: int) -> None:
    """Be a child: answer requests until the parent is gone. The arguments are file descriptors."""
    global _page
    _die_at_end_of(alive)
    _page = _Page(page)
    with suppress(EOFError, ConnectionError):  # the parent is done
        _answer(_Line(connection, memory))


def _answer(line: _Line) -> NoReturn:
    function: Callable[..., Any] | None = None
    make = bytearray()
    while True:
        came, *request = line.receive()
        make = came or make
        try:
            if function is None:
                function = pickle.loads(make)()
                make = bytearray()
            answer = _pickled((function(*_made(request)), None, ""))
        except BaseException as error:
            trace = "".join(traceback.format_exception(error))
            answer = _pickled((None, _portable(error), trace))
        line.send(answer)


def _pickled(value: Any) -> Parts:
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [stream, *(buffer.raw() for buffer in buffers)]


def _made(parts: Sequence[bytearray]) -> Any:
    stream, *buffers = parts
    return pickle.loads(stream, buffers=buffers)


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when it is pickled and made again
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_at_end_of(pipe: int) -> None:
    """Have the kernel end this process when the pipe's other end is closed.

    It does so whatever this process does. PR_SET_PDEATHSIG would strike at the end of the
    parent's thread that started it.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it was closed before
        sys.exit(1)


def _shared_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ctp")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
