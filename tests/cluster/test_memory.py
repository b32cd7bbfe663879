"""The memory that is printed before a job is that of its processes, for their options."""

from __future__ import annotations

import re

from ctp.cluster.memory import DecoderMemory, describe_training_memory
from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.reading import READ_AHEAD_BYTES
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.training.config import ScalingConfig
from ctp.video.limits import DecodingLimits


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(\d+(?:\.\d+)?) GiB", text)]


def test_a_decoder_needs_more_for_larger_pictures_and_larger_files() -> None:
    small, large = DecodingLimits(8.0), DecodingLimits(64.0)
    sizes = {"a.mp4": 5, "b.avi": 3 * READ_AHEAD_BYTES, "c.mp4": 4 * READ_AHEAD_BYTES}
    files = [VideoEntry(name, name, size=size) for name, size in sizes.items()]
    catalog = Catalog.from_entries(files)
    base = DecoderMemory.from_catalog(small)
    assert base.videos == READ_AHEAD_BYTES
    # only parts of the long MP4 file are read
    assert DecoderMemory.from_catalog(small, catalog).videos == 3 * READ_AHEAD_BYTES
    unknown = Catalog.from_entries([VideoEntry("a", "a.mp4")])  # as in a .txt list
    assert DecoderMemory.from_catalog(small, unknown) == base
    more = DecoderMemory.from_catalog(large).total - base.total
    assert more == large.memory_bytes - small.memory_bytes > 0


def test_a_training_counts_the_actors_that_draw_and_those_that_evaluate(
    small_run: PretrainConfig,
) -> None:
    def total(config: PretrainConfig) -> float:
        text = describe_training_memory(open_pretraining(config))
        assert f"{config.data.max_megapixels:g} megapixels" in text
        assert "object store" in text
        return numbers(text)[-1]

    two = small_run.replace(scaling=ScalingConfig(num_actors=2))
    assert total(two) > 1.9 * total(small_run)
    alone = small_run.replace(data=small_run.data.replace(heldout_share=0.0))
    assert 1.9 * total(alone) < total(small_run) < 2.1 * total(alone)
    small = small_run.replace(data=small_run.data.replace(max_megapixels=4.0))
    assert total(small) < total(small_run)
