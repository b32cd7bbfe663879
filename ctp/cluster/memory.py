"""How much memory a job may need, to print before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ctp.cluster.stream import BlockLayout, StreamSpec, worker_store_bytes
from ctp.data.catalog import Catalog
from ctp.data.reading import READ_AHEAD_BYTES
from ctp.training.trainer import TrainingSpec
from ctp.video.limits import DecodingLimits

PROCESS_BYTES, LIGHT_PROCESS_BYTES = 600 * 2**20, 200 * 2**20
"""Memory of an actor that does nothing, with and without torch; measured."""
GIB = 2**30


@dataclass(frozen=True)
class DecoderMemory:
    """The most memory of a process that decodes, in bytes.

    Attributes:
        limits: of decoding.
        videos: encoded videos that are open or read ahead.
        output: results that it holds before it passes them on.
        process: what it takes when it does nothing.
    """

    limits: DecodingLimits
    videos: int
    output: int = 0
    process: int = PROCESS_BYTES

    @classmethod
    def from_catalog(
        cls, limits: DecodingLimits, catalog: Catalog | None = None, output: int = 0
    ) -> DecoderMemory:
        """Create for the videos of a catalogue; sizes that it does not know are left out."""
        largest = catalog.largest_read() if catalog is not None else 0
        return cls(limits, max(READ_AHEAD_BYTES, largest), output)

    @classmethod
    def without_torch(cls, limits: DecodingLimits) -> DecoderMemory:
        """Create for a process that builds shards or curates, of videos of unknown sizes."""
        return cls(limits, READ_AHEAD_BYTES, process=LIGHT_PROCESS_BYTES)

    @property
    def total(self) -> int:
        """Return the sum."""
        return self.process + self.limits.memory_bytes + self.videos + self.output

    def describe(self) -> str:
        """Return how much it is, and what it depends on."""
        return (
            f"{self.process / GIB:.1f} to {self.total / GIB:.1f} GiB of memory, the most for "
            f"pictures of {self.limits.max_megapixels:g} megapixels"
        )


def stream_store_bytes(spec: TrainingSpec[Any]) -> int:
    """Return the most bytes that the samples of a run take of the cluster's object store."""
    stream = _described(spec)
    return max(each.num_workers * worker_store_bytes(stream, each) for each in _layouts(spec))


def _described(spec: TrainingSpec[Any]) -> StreamSpec:
    return StreamSpec.from_stream(spec.config, spec.stream)


def _layouts(spec: TrainingSpec[Any]) -> list[BlockLayout]:
    """Return the blocks of the fewest workers and of all; those of the first worker stand for the
    others'."""
    scaling = spec.config.scaling
    sizes = {scaling.fewest_workers, scaling.most_workers}
    return [BlockLayout.from_spec(_described(spec), 0, number) for number in sizes]


def describe_training_memory(spec: TrainingSpec[Any]) -> str:
    """Return a line on the memory that a training run needs besides its workers."""
    config, layouts, store = spec.config, _layouts(spec), stream_store_bytes(spec)
    scaling, train, evaluation = config.scaling, *spec.catalogs
    block = max(each.block_bytes(_described(spec)) for each in layouts)
    sizes = [each.num_workers for each in layouts]
    actors = max(each * scaling.actors_per_worker(each) for each in sizes)
    # a block is stacked from its samples
    actor = DecoderMemory.from_catalog(DecodingLimits(config.data.max_megapixels), train, 2 * block)
    # those of an evaluation are started besides the others, which wait
    num_readers = actors if len(evaluation) else 0
    total = (actors + num_readers) * actor.total + store
    return (
        f"memory besides the workers: at most {total / GIB:.1f} GiB (pictures of "
        f"{config.data.max_megapixels:g} megapixels), object store {store / 2**20:.0f} MiB"
    )
