"""A long video that stays in its storage: only the bytes that a clip needs are read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from ctp.video.encoded import DecodingError, decoding_errors
from ctp.video.file_bytes import StoredBytes
from ctp.video.index_cache import Arrays, T, find_index
from ctp.video.mp4 import SampleTable, read_sample_table


@dataclass(frozen=True)
class _FoundTable:
    """A sample table, or None if the file has none that is read here."""

    table: SampleTable | None

    def to_arrays(self) -> Arrays:
        return self.table.to_arrays() if self.table else {"none": np.array(0)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        return cls(None if "none" in arrays else SampleTable.from_arrays(arrays))


@dataclass(frozen=True)
class StoredVideo:
    """An encoded video in a file that is read as needed.

    Attributes:
        id, uri, label, num_frames: see `EncodedVideo`.
        data: the encoded file.
        version: identifies the bytes, also for other processes.
        folder: on this machine, for what is found out about the video.
    """

    id: str
    uri: str
    data: StoredBytes
    version: str
    folder: Path
    label: str | None = None
    num_frames: int | None = None

    def find(self, kind: type[T], make: Callable[[], T], *, rules: str = "") -> T:
        """Return an index that was found before; call `make` if none was.

        Args:
            kind: of the index.
            make: reads the file.
            rules: version of what `make` depends on.

        Raises:
            StorageError: the file cannot be read, or has changed.
        """

        def make_from_one_version() -> T:
            index = make()
            self.data.check()
            return index

        key = (self.version, kind.__name__, rules)
        return find_index(key, kind, self.folder, make_from_one_version)

    @cached_property
    def table(self) -> SampleTable | None:
        """Return the file's sample table, or None.

        Raises:
            StorageError: the file cannot be read, or has changed.
        """
        with suppress(DecodingError), decoding_errors("has a damaged index"):
            return self.find(_FoundTable, lambda: _FoundTable(read_sample_table(self.data))).table
        return None
