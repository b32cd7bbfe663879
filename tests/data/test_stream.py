"""The stream of a run: a sample is a pure function of its position, and bad videos are replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctp.data.catalog import Catalog
from ctp.data.plan import Plan
from ctp.data.quarantine import QuarantineLimitError
from ctp.data.sources import open_catalog
from ctp.data.stream import Drawn, SampleStream, array_field, stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.task import GameSample
from ctp.pretext.heldout import HeldoutSamples
from ctp.pretext.pretraining import open_pretraining
from ctp.storage import StorageError

Stream = SampleStream[GameSample]


def equal(first: Drawn[Any], second: Drawn[Any]) -> bool:
    return first.video_id == second.video_id and all(
        map(np.array_equal, first.sample, second.sample)
    )


@pytest.fixture
def stream(small_run: PretrainConfig) -> Stream:
    return open_pretraining(small_run).stream


def test_a_sample_does_not_depend_on_those_drawn_before(stream: Stream) -> None:
    forwards = [stream.draw(position) for position in range(24)]
    backwards = [stream.draw(position) for position in reversed(range(24))]
    assert all(map(equal, forwards, reversed(backwards)))


def test_drawing_many_equals_drawing_each(stream: Stream) -> None:
    many = stream.draw_many(range(3, 9))
    assert all(map(equal, many, (stream.draw(position) for position in range(3, 9))))


def test_samples_have_the_declared_dtypes_and_shapes(stream: Stream) -> None:
    fields, sample = stream.drawer.fields(), stream.draw(0).sample
    for declared, array in zip(fields, sample, strict=True):
        assert (array.dtype, array.shape) == (declared.dtype, declared.shape)


def test_sample_bytes_bound_the_arrays(stream: Stream) -> None:
    arrays = sum(array.nbytes for array in stream.draw(0).sample)
    assert arrays < stream.sample_bytes < arrays + 2**15


def test_declared_fields_take_no_memory() -> None:
    field = array_field(np.float32, 1000, 1000, 1000)
    assert (field.dtype, field.shape, field.strides) == (np.float32, (1000,) * 3, (0, 0, 0))


def test_stacking_adds_a_first_dimension(stream: Stream) -> None:
    samples = [stream.draw(position).sample for position in range(3)]
    stacked = stack(samples)
    assert isinstance(stacked, GameSample)
    assert stacked.boxes.shape == (3, 2, 4, 4)
    np.testing.assert_array_equal(stacked.planes[1], samples[1].planes)


def test_each_epoch_has_every_training_video_once_and_no_heldout_one(
    small_run: PretrainConfig,
) -> None:
    spec = open_pretraining(small_run)
    train, heldout = ({entry.id for entry in catalog} for catalog in spec.catalogs)
    assert heldout
    assert not heldout & train
    for epoch in range(2):
        positions = range(epoch * len(train), (epoch + 1) * len(train))
        assert sorted(spec.stream.draw(p).video_id for p in positions) == sorted(train)


def test_other_videos_can_be_held_out(small_run: PretrainConfig, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    data = {"uri": "corpus:5", "heldout_uri": str(tmp_path), "heldout_share": 0.5}
    train, heldout = open_pretraining(small_run.replace(data=data)).catalogs
    assert len(train) == 5
    assert [entry.id for entry in heldout] == ["a.mp4", "b.mp4"]


def test_samples_of_a_video_differ_between_epochs_and_seeds(small_run: PretrainConfig) -> None:
    catalog = open_pretraining(small_run).stream.catalog[:1]
    samples = []
    for seed in range(2):
        drawer = open_pretraining(small_run).stream.drawer
        stream = SampleStream(drawer, catalog, seed, total_batch=2, total_steps=2)
        samples += [stream.draw(position) for position in range(2)]
    assert len({drawn.video_id for drawn in samples}) == 1
    assert len({drawn.sample.planes.tobytes() for drawn in samples}) == 4


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("first", [0, 8])
def test_a_step_has_the_same_samples_for_any_number_of_workers(
    stream: Stream, world_size: int, first: int
) -> None:
    shares = [stream.batches(first, rank, world_size) for rank in range(world_size)]
    for step, batches in enumerate(zip(*shares, strict=True)):
        positions = np.concatenate([batch.positions for batch in batches])
        assert positions.tolist() == list(range(first + 4 * step, first + 4 * step + 4))
    assert first + 4 * (step + 1) == stream.total_samples


def test_the_curriculum_goes_from_other_clips_to_the_own_one(stream: Stream) -> None:
    drawn = [stream.draw(p).sample.has_patch_sources for p in range(stream.total_samples)]
    assert all(drawn[:7])  # up to 30% of 24 samples
    assert not any(drawn[17:])  # from 70% on
    assert 0 < sum(drawn[7:17]) < 10


class TestBadVideos:
    @pytest.fixture
    def folder(self, video_folder: Callable[..., Path]) -> Path:
        """Six good videos and two that are text."""
        return video_folder(good=6, bad=2)

    def stream(self, config: PretrainConfig, folder: Path) -> Stream:
        return open_pretraining(config.replace(data={"uri": str(folder)})).stream

    def test_the_next_good_video_of_the_epoch_replaces_a_bad_one(
        self, small_run: PretrainConfig, folder: Path
    ) -> None:
        stream = self.stream(small_run, folder)
        plan, quarantined = Plan(small_run.seed, 8), set()
        for position in range(16):
            drawn = stream.draw(position)
            planned = [stream.catalog[c.video].id for c in plan.candidates(position)]
            assert drawn.video_id == next(name for name in planned if name.startswith("good"))
            quarantined |= {entry.video_id for entry in drawn.quarantined}
        assert quarantined == {"bad0.mp4", "bad1.mp4"}

    def test_a_replacement_is_a_sample_of_its_own(
        self, small_run: PretrainConfig, folder: Path
    ) -> None:
        stream = self.stream(small_run, folder)
        samples = [stream.draw(position).sample for position in range(8)]  # an epoch
        assert len({sample.planes.tobytes() for sample in samples}) == 8

    def test_only_bad_videos_are_an_error_that_names_them(
        self, small_run: PretrainConfig, video_folder: Callable[..., Path]
    ) -> None:
        stream = self.stream(small_run, video_folder(bad=4))
        with pytest.raises(QuarantineLimitError, match=r"bad\d.mp4: cannot be") as caught:
            stream.draw(0)
        assert len(caught.value.quarantined) == 4

    def test_a_placeholder_replaces_a_sample_that_cannot_be_drawn(
        self, small_run: PretrainConfig, video_folder: Callable[..., Path]
    ) -> None:
        stream = self.stream(small_run, video_folder(bad=4))
        (drawn,) = stream.draw_many([0])
        assert drawn.error
        assert len(drawn.quarantined) == 4
        for declared, array in zip(stream.drawer.fields(), drawn.sample, strict=True):
            assert (array.dtype, array.shape) == (declared.dtype, declared.shape)
            assert not array.any()

    def test_a_failing_storage_blames_no_video(
        self, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(entry: object) -> None:
            raise StorageError("no route to host")

        monkeypatch.setattr("ctp.data.catalog.VideoEntry.read", fail)
        (drawn,) = stream.draw_many([0])
        assert (drawn.error, drawn.quarantined) == ("no route to host", [])

    def test_heldout_samples_are_not_replaced(
        self, small_run: PretrainConfig, folder: Path
    ) -> None:
        drawer = open_pretraining(small_run).stream.drawer
        heldout = HeldoutSamples(open_catalog(str(folder)), small_run.seed, drawer)
        loaded = heldout.load_many(range(8))
        assert len(loaded.items) == 6
        assert {entry.video_id for entry in loaded.quarantined} == {"bad0.mp4", "bad1.mp4"}
        assert all(r.reason and r.uri.startswith(str(folder)) for r in loaded.quarantined)

    def test_a_video_of_one_frame_is_quarantined(
        self, small_run: PretrainConfig, tmp_path: Path, encode_video: Callable[..., bytes]
    ) -> None:
        (tmp_path / "one.mp4").write_bytes(encode_video(1))
        (tmp_path / "two.mp4").write_bytes(encode_video(2))
        task = small_run.task.replace(curriculum=None)
        stream = self.stream(small_run.replace(task=task), tmp_path)
        drawn = [stream.draw(position) for position in range(2)]
        assert {each.video_id for each in drawn} == {"two.mp4"}
        (reason,) = {entry.reason for each in drawn for entry in each.quarantined}
        assert "1 frame(s)" in reason


def test_one_video_is_its_own_patch_source(small_run: PretrainConfig) -> None:
    stream = open_pretraining(small_run).stream
    alone = SampleStream(stream.drawer, Catalog.from_entries([stream.catalog[0]]), 0, 4, 1)
    assert alone.draw(0).sample.has_patch_sources
