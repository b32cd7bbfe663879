"""Making clips in a process that may be lost: a video that crashes or hangs the decoder costs
itself, not the actor or the training worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from ctp.isolation import MAX_LOSSES, Isolated, LostError
from ctp.shared_file import SharedFile
from ctp.training.sealed import SealedMaker

if TYPE_CHECKING:
    from ctp.training.maker import Batch, StreamMaker

SHARED_BYTES = 8 * 2**20
"""A catalogue of fewer is copied into each child."""


class IsolatedMaker:
    """Makes clips as a `StreamMaker` does, in a child process; for use in a `with` statement.

    A large catalogue is in the memory of this machine once, however many such children it has.
    """

    def __init__(self, maker: SealedMaker):
        """Take a maker whose seal the child breaks."""
        self._shared: SharedFile | None = None
        catalog = maker.catalog
        if catalog.columns.nbytes >= SHARED_BYTES:
            self._shared = SharedFile(f"ctp-catalog-{catalog.digest()}", catalog.save)
            maker = replace(maker, catalog=catalog.mapped(self._shared.path))
        seconds = maker.config.data.max_seconds_per_video
        self._isolated = Isolated(_Worker(maker), item_seconds=seconds)
        self._losses: Counter[str] = Counter()
        self._bad: dict[str, str] = {}

    @classmethod
    def of(cls, maker: StreamMaker[Any]) -> Self:
        """Take a maker of this process."""
        return cls(SealedMaker.of(maker))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def batch(self, positions: Sequence[int]) -> Batch:
        """`StreamMaker.batch`."""
        made: Batch = self.call("batch", positions)
        return made

    def close(self) -> None:
        """End the process."""
        self._isolated.close()
        if self._shared is not None:
            self._shared.close()

    def call(self, name: str, numbers: Sequence[int]) -> Any:
        """Call a method of the maker, (numbers, bad videos) -> result, until it is not lost on the
        way.

        Raises:
            LostError: the process was lost, again, while it worked on no video.
        """
        between = 0  # losses long ago say nothing of this one
        while True:
            try:
                return self._isolated.call(name, numbers, self._bad)
            except LostError as lost:
                if lost.item:
                    self._blame(lost)
                    continue
                between += 1
                if between == MAX_LOSSES:
                    raise

    def _blame(self, lost: LostError) -> None:
        self._losses[lost.item] += 1
        if self._losses[lost.item] >= MAX_LOSSES:
            self._bad[lost.item] = f"the process that decoded it {lost.reason}, twice"


@dataclass(frozen=True)
class _Worker:
    """What makes the child's function."""

    maker: SealedMaker

    def __call__(self) -> Callable[..., Any]:
        import torch  # here: the parent needs none

        torch.set_num_threads(1)  # such processes are what there are many of
        maker = self.maker.open()

        def work(name: str, numbers: Sequence[int], bad: dict[str, str]) -> Any:
            return getattr(maker, name)(numbers, bad)

        return work
