"""The sources of a run and the clips of their videos, from their catalogue."""

from __future__ import annotations

import re

import pytest

from ctp.cli import CommandLine
from ctp.data.catalog import Catalog, VideoEntry
from ctp.data.passes import plan_sources
from ctp.data.plan import whole_weights
from ctp.data.sources import open_catalog
from ctp.pretext.config import PretrainConfig, PretrainVideosConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.recipes import PRETRAIN

SOURCES = ("s3://bucket/b", "s3://bucket/a")
LENGTHS = {"s3://bucket/a/1": 10, "s3://bucket/a/2": 100, "s3://bucket/b/1": 55}


def catalog(**lengths: int | None) -> Catalog:
    entries = [VideoEntry(name, name, num_frames=number) for name, number in lengths.items()]
    return Catalog.from_entries(entries)


def test_all_videos_are_one_source_without_a_mix() -> None:
    (source,) = plan_sources(catalog(**LENGTHS), SOURCES)
    assert (source.first_video, source.num_videos, source.counts) == (0, 3, None)
    (source,) = plan_sources(catalog(**LENGTHS), SOURCES, span_frames=10)
    assert source.counts is not None
    assert source.counts.ends.tolist() == [1, 11, 16]


def test_each_source_of_a_mix_has_its_own_videos_counts_and_weight() -> None:
    b, a = plan_sources(catalog(**LENGTHS), SOURCES, (0.5, 1.5), span_frames=10)
    assert (b.name, b.first_video, b.num_videos, b.weight) == ("s3://bucket/b", 2, 1, 1)
    assert (a.name, a.first_video, a.num_videos, a.weight) == ("s3://bucket/a", 0, 2, 3)
    assert b.counts is not None
    assert a.counts is not None
    assert (b.counts.ends.tolist(), a.counts.ends.tolist()) == ([5], [1, 11])


def test_generated_videos_have_known_lengths() -> None:
    (source,) = plan_sources(open_catalog("corpus:3"), "corpus:3", span_frames=10)
    assert source.counts is not None
    assert source.counts.ends.tolist() == [4, 8, 12]


def test_a_video_of_unknown_length_is_an_error_that_names_it() -> None:
    some = catalog(**LENGTHS | {"s3://bucket/b/loose.mp4": None})
    message = r"unknown for 1 of 4 videos, e\.g\. 's3://bucket/b/loose.mp4'\. .*build_shards"
    with pytest.raises(ValueError, match=message):
        plan_sources(some, SOURCES, span_frames=10)
    assert plan_sources(some, SOURCES)  # nothing needs it


def test_a_source_without_videos_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no video of 's3://bucket/c'"):
        plan_sources(catalog(**LENGTHS), (*SOURCES, "s3://bucket/c"), (1, 1, 1))


def test_a_source_within_another_one_is_an_error() -> None:
    some = catalog(**{"/v/a.mp4": 1, "/v/new/b.mp4": 1})
    with pytest.raises(ValueError, match="'/v/new/' is within '/v'"):
        plan_sources(some, ("/v", "/v/new"), (1, 1))


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ((3, 1, 2), r"each source of uri \(a, b\), e\.g\. 1,1, got 3, 1, 2"),
        ((1,), "got 1"),
        ((3, 0), "greater than 0"),
        ((3, -1), "greater than 0"),
        ((3, float("inf")), "finite"),
        ((3, 1e-6), "sum of at most 10000"),
    ],
)
def test_a_mix_that_fits_no_sources_is_refused(mix: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainVideosConfig(uri=("a", "b"), mix=mix)


@pytest.mark.parametrize("text", ["3,1", ".75,.25", "3, 1"])
def test_the_command_line_takes_weights_between_commas(text: str) -> None:
    _, config = CommandLine(PRETRAIN, "tiny", "").parse(["--data.uri=a,b", f"--data.mix={text}"])
    assert whole_weights(config.data.mix) == [3, 1]


def test_a_run_says_what_its_epoch_is(small_run: PretrainConfig) -> None:
    def numbers(**data: object) -> list[list[str]]:
        config = small_run.replace(data=data, schedule={"length": 2, "decay_at": ()})
        stream = open_pretraining(config).stream
        assert stream.total_steps == 2 * stream.epoch_clips // 4
        return [re.findall(r"\d+", line) for line in stream.describe_epoch().split("\n")]

    assert numbers(uri="corpus:20") == [["20", "20", "1"]]
    # 40 frames and clips of 4 consecutive ones
    assert numbers(uri="corpus:20", clips_per_video="by_duration") == [["200", "20", "10"]]
    uri = ("corpus:6", "corpus:6-16")
    assert numbers(uri=uri, mix=(3, 1)) == [
        ["16"],
        ["3", "4", "6", "2", "6", "6", "1"],  # 3 of 4 from corpus:6: 2 passes over 6 clips
        ["1", "4", "6", "16", "0", "4", "10", "10", "1"],  # 0.4 passes over 10 clips
    ]
