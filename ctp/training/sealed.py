"""A maker of clips under seal, for processes that pass it on or ask how long its stream is.

What makes clips imports torch, which costs a process 0.3 GB of memory of its own and seconds at
its start. Only who breaks the seal pays for it.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctp.data.catalog import Catalog
from ctp.training.config import RunConfig

if TYPE_CHECKING:
    from ctp.training.maker import StreamMaker


@dataclass(frozen=True)
class SealedMaker:
    """A `StreamMaker` that can be sent anywhere.

    Attributes:
        config, catalog, total_clips, clip_bytes: the maker's.
        rest: the maker without its catalogue, pickled.
    """

    config: RunConfig
    catalog: Catalog
    total_clips: int
    clip_bytes: int
    rest: bytes

    @classmethod
    def of(cls, maker: StreamMaker[Any]) -> SealedMaker:
        """Seal a maker."""
        rest = pickle.dumps(replace(maker, catalog=Catalog.of(())), protocol=5)
        return cls(maker.config, maker.catalog, maker.total_clips, maker.clip_bytes, rest)

    def open(self) -> StreamMaker[Any]:
        """The maker."""
        maker: StreamMaker[Any] = replace(pickle.loads(self.rest), catalog=self.catalog)
        return maker
