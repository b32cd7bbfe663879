"""Read the log of a run while the run writes it."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctp.storage import Storage

TAIL_BYTES = 512
"""How much of what was read is compared with the file, to notice that it was written anew."""


class GrowingLog:
    """The entries of a log of JSON lines, of which only new lines are read.

    Attributes:
        place: the file. It need not exist.
        newest: the last value of each entry.
        version: changes whenever the file does.
        written_seconds: Unix time of its last change by the storage's clock, None if unknown.
    """

    def __init__(self, place: Storage):
        self.place = place
        self._clear()

    def _clear(self) -> None:
        self.newest: dict[str, Any] = {}
        self.written_seconds: float | None = None
        self._columns: dict[str, tuple[array[int], array[float]]] = {}
        self.version: object = None
        self._offset, self._tail = 0, b""

    def refresh(self) -> bool:
        """Read what is new.

        Returns:
            whether the file has changed.

        Raises:
            StorageError: it cannot be read.
        """
        size, changed_ns = version = self.place.version()
        if version == self.version:
            return False
        if size is None:
            self._clear()
        else:
            self._read(size)
        self.version = version
        self.written_seconds = None if changed_ns is None else changed_ns / 1e9
        return True

    def _read(self, size: int) -> None:
        data = b""
        if self._offset and size >= self._offset:
            data = self.place.read_bytes(self._offset - len(self._tail))
        # a resumed run removes the lines after its checkpoint, and the file may be longer again
        if not self._offset or not data.startswith(self._tail):
            self._clear()
            data = self.place.read_bytes()
        lines = data[len(self._tail) : data.rfind(b"\n") + 1]
        for line in lines.splitlines():
            self._add(json.loads(line))
        self._offset += len(lines)
        self._tail = (self._tail + lines)[-TAIL_BYTES:]

    def _add(self, row: Mapping[str, Any]) -> None:
        self.newest.update(row)
        for name, value in row.items():
            if isinstance(value, int | float):
                steps, values = self._columns.setdefault(name, (array("q"), array("d")))
                steps.append(row["step"])
                values.append(value)

    def series(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the steps at which an entry was logged, and its values."""
        steps, values = self._columns.get(name, (array("q"), array("d")))
        return np.array(steps, np.int64), np.array(values, np.float64)

    def row(self, name: str) -> dict[str, float]:
        """Return the numbers of the last line that has an entry, empty if there is none."""
        if name not in self._columns:
            return {}
        step = self._columns[name][0][-1]
        found = {}
        for key, (steps, values) in self._columns.items():
            index = bisect_left(steps, step)
            if index < len(steps) and steps[index] == step:
                found[key] = values[index]
        return found
