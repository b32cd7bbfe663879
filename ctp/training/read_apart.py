"""Reading what a model is tested on in several processes, while it works on what they have read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from ctp.training.maker import StreamMaker
from ctp.training.trainer import OpenMaker

AT_ONCE = 4
"""Numbers in a call: few, for what comes back waits in memory."""


def read_apart(
    open_maker: OpenMaker,
    maker: StreamMaker[Any],
    name: str,
    numbers: Sequence[int],
    num_readers: int,
) -> Iterator[Any]:
    """What a maker's method makes of numbers, a few at a time, in order.

    Args:
        open_maker: opens each reader.
        maker: whose method.
        name: of the method.
        numbers: what it is called with.
        num_readers: how many read at the same time, each a call ahead.
    """
    calls = [numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE)]
    waiting: deque[Future[Any]] = deque()
    with ExitStack() as stack:
        readers = []
        for _ in range(min(num_readers, len(calls))):
            reader = stack.enter_context(open_maker(maker))
            # a thread of its own: a reader's calls must follow each other
            readers.append((stack.enter_context(ThreadPoolExecutor(1)), reader))
        for number, call in enumerate(calls):
            pool, reader = readers[number % len(readers)]
            waiting.append(pool.submit(reader.call, name, call))
            if len(waiting) > len(readers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
