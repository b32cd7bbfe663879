"""Several readers, one order."""

from __future__ import annotations

import threading
from typing import Any, Self

import pytest

from ctp.training.read_apart import AT_ONCE, read_apart


class Reader:
    """Doubles numbers, and notes by whom it was used."""

    def __init__(self, maker: Any):
        self.maker, self.threads, self.is_open = maker, set[int](), False
        maker.append(self)

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False

    def call(self, name: str, numbers: Any) -> list[int]:
        assert self.is_open
        self.threads.add(threading.get_ident())
        if 13 in numbers:
            raise OSError("13 cannot be read")
        return [getattr(number, name)(2) for number in numbers]


@pytest.mark.parametrize("num_readers", [1, 3, 50])
def test_all_numbers_once_in_order_each_reader_in_a_thread_of_its_own(num_readers: int) -> None:
    readers: list[Reader] = []
    numbers = range(100, 100 + 5 * AT_ONCE + 1)
    found = list(read_apart(Reader, readers, "__mul__", numbers, num_readers))  # type: ignore[arg-type]
    assert [value for part in found for value in part] == [2 * number for number in numbers]
    assert len(readers) == min(num_readers, 6)
    assert all(len(reader.threads) == 1 and not reader.is_open for reader in readers)


def test_nothing_to_read() -> None:
    assert list(read_apart(Reader, [], "__mul__", [], 2)) == []  # type: ignore[arg-type]


def test_an_error_comes_where_it_belongs_and_readers_are_closed() -> None:
    readers: list[Reader] = []
    parts = read_apart(Reader, readers, "__mul__", range(40), 2)  # type: ignore[arg-type]
    assert [next(parts)[-1] for _ in range(13 // AT_ONCE)] == [6, 14, 22]
    with pytest.raises(OSError, match="13 cannot be read"):
        next(parts)
    assert not any(reader.is_open for reader in readers)
