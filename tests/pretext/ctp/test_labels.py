"""Label sources of Catch-the-Patch (Table 1): what is tracked and has to be predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.data.shards import ShardRow, write_shard
from ctp.data.sources import open_catalog
from ctp.data.stream import SampleStream, stack
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.config import CtpConfig
from ctp.pretext.ctp.cycle import label_by_cycle
from ctp.pretext.ctp.task import CtpTask, GameSample
from ctp.pretext.heldout import HeldoutSamples
from ctp.pretext.pretraining import open_pretraining
from ctp.storage import Storage
from ctp.training.run_folder import folder_of, read_metrics
from ctp.video.config import SamplingConfig
from ctp.video.planes import to_rgb

CONSECUTIVE = SamplingConfig(num_frames=4, interval_frames=(1, 1))
SIGMA = torch.tensor((0.8, 0.8, 0.04, 0.04))


class MovesByBrightness(nn.Module):
    """Predicts that each box moves to the right by as many pixels as its frame is bright."""

    def forward(self, clips: Tensor, queries: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not self.training
        offsets = torch.zeros(len(clips), queries.shape[1], clips.shape[2], 4)
        offsets[..., 0] = clips.mean(dim=(1, 3, 4))[:, None] / SIGMA[0]
        return offsets


def task_of(config: PretrainConfig, **options: Any) -> CtpTask:
    task = config.task
    assert isinstance(task, CtpConfig)
    return CtpTask(task.replace(**options))


def samples_of(task: CtpTask, uri: str, number: int) -> list[GameSample]:
    samples = SampleStream(task, open_catalog(uri), 3, 4, number // 4)
    drawn = samples.draw_many(range(number))
    assert not [each.error for each in drawn if each.error]
    return [each.sample for each in drawn]


def test_cycle_labels_are_the_backward_path_in_forward_order() -> None:
    model = MovesByBrightness()
    # the last frame is where backward tracking starts, and there nothing has moved yet
    moved = torch.tensor([9.0, 5.0, 2.0, 0.0])
    clips = moved[None, None, :, None, None].expand(1, 3, 4, 32, 32)
    boxes, weights = label_by_cycle(model, clips, torch.tensor([[[4.0, 6, 12, 16]]]), SIGMA)
    expected = torch.tensor([4.0, 6, 12, 16]) + moved[:, None] * torch.tensor([1.0, 0, 1, 0])
    torch.testing.assert_close(boxes[0, 0], expected)
    assert (weights == 1).all()
    assert model.training


@pytest.mark.parametrize(
    "offsets",
    [
        pytest.param((1000.0, 0, 0, 0), id="leaves the picture"),
        pytest.param((0.0, 0, 200, 0), id="is wider than the picture"),
        pytest.param((0.0, 0, 0, -200), id="is less than a pixel high"),
        pytest.param((0.0, 0, 1e6, 1e6), id="is infinite"),
        pytest.param((0.0, 0, float("nan"), 0), id="is no number"),
    ],
)
def test_a_path_with_a_box_that_cannot_be_tracked_does_not_count(
    offsets: tuple[float, ...],
) -> None:
    class MovesOneBox(nn.Module):
        def forward(self, clips: Tensor, queries: Tensor) -> Tensor:
            found = torch.zeros(len(clips), queries.shape[1], clips.shape[2], 4)
            found[:, 0, 2] = torch.tensor(offsets)
            return found

    queries = torch.tensor([[[4.0, 6, 12, 16], [1.0, 1, 9, 9]]])
    boxes, weights = label_by_cycle(MovesOneBox(), torch.zeros(1, 3, 4, 20, 30), queries, SIGMA)
    assert weights.tolist() == [[[0.0] * 4, [1.0] * 4]]
    torch.testing.assert_close(boxes, queries[:, :, None].expand(boxes.shape))


def test_a_share_of_the_clips_is_the_ordinary_game_and_the_others_have_no_patches(
    small_run: PretrainConfig,
) -> None:
    plain = samples_of(task_of(small_run), "corpus:8", 80)
    cycle = samples_of(task_of(small_run, labels="cycle"), "corpus:8", 80)
    number = sum(bool(sample.is_labelled) for sample in cycle)
    assert 10 <= number <= 30  # a quarter of 80, to 2.6 standard deviations
    for ours, theirs in zip(cycle, plain, strict=True):
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.planes, theirs.planes)
        assert ours.visible.any() == ours.is_labelled
        assert theirs.is_labelled


def test_heldout_clips_are_the_game_whatever_the_labels(
    small_run: PretrainConfig,
) -> None:
    catalog = open_catalog("corpus:4")
    tasks = task_of(small_run), task_of(small_run, labels="cycle")
    sets = [HeldoutSamples(catalog, 0, task).load_many(range(8)).items for task in tasks]
    for ours, theirs in zip(*map(stack, sets), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_loss_pulls_towards_the_models_own_path(small_run: PretrainConfig) -> None:
    task = task_of(small_run, labels="cycle", preset_share=0.0)
    samples = stack(samples_of(task, "corpus:4", 4))
    batch = GameSample(*map(torch.from_numpy, samples))

    class StaysStill(nn.Module):
        def forward(self, clips: Tensor, queries: Tensor) -> Tensor:
            return torch.zeros(len(clips), queries.shape[1], clips.shape[2], 4)

    # a box that stays backwards stays forwards, whatever the game's boxes do
    assert task.loss(StaysStill(), batch).total.item() == 0
    assert task_of(small_run).loss(StaysStill(), batch).total.item() > 0


def test_two_workers_train_on_cycle_labels_as_one(
    small_run: PretrainConfig, train_alone: Callable[..., None], train_as_two: Callable[..., None]
) -> None:
    config = small_run.replace(task=small_run.task.replace(labels="cycle"), log_every_steps=1)
    two = config.replace(name="two", scaling={"num_workers": 2})
    train_alone(open_pretraining(config))
    train_as_two(open_pretraining, two)
    ours, theirs = (
        [row["loss"] for row in read_metrics(folder_of(each))] for each in (two, config)
    )
    assert ours == pytest.approx(theirs, rel=1e-4)


# ---- annotated ----------------------------------------------------------------------------------


def write_videos(folder: Path, rows: Sequence[ShardRow]) -> str:
    write_shard(Storage.from_uri(folder).join("a.parquet"), rows)
    return str(folder)


def bounds_of(picture: NDArray[np.uint8]) -> list[int]:
    """Return the xyxy box of the bright pixels of a picture."""
    y, x = np.nonzero(picture[..., 1] > 125)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_boxes_of_a_shard_lie_around_the_object_of_each_frame(
    small_run: PretrainConfig, tmp_path: Path, moving_rectangle: Callable[..., ShardRow]
) -> None:
    uri = write_videos(tmp_path, [moving_rectangle(f"v{i}", step=(1, i % 2)) for i in range(4)])
    for sample in samples_of(task_of(small_run, labels="annotated"), uri, 16):
        assert not sample.visible.any()
        assert sample.weights[0, 0] == 1
        assert (sample.weights[1] == 0).all()  # K = 2, and there is one object
        frames = to_rgb(torch.from_numpy(sample.planes), 32).numpy()
        for picture, box, weight in zip(frames, sample.boxes[0], sample.weights[0], strict=True):
            if weight:
                np.testing.assert_allclose(bounds_of(picture), box, atol=1.6)


def test_several_objects_and_absent_frames_have_weights(
    small_run: PretrainConfig, tmp_path: Path, moving_rectangle: Callable[..., ShardRow]
) -> None:
    row = moving_rectangle("v", 20, step=(0, 0))
    assert row.boxes is not None
    absent = np.zeros((20, 4), np.float32)
    two = np.concatenate([np.where(np.arange(20)[:, None] % 2, absent, row.boxes), row.boxes])
    uri = write_videos(tmp_path, [dataclasses.replace(row, boxes=two)])
    task = task_of(small_run, labels="annotated", sampling=CONSECUTIVE)
    seen = [sample.weights.sum(axis=1).tolist() for sample in samples_of(task, uri, 24)]
    # from an even frame on both objects, one of them in two of four frames; else one object
    assert {tuple(sorted(each)) for each in seen} == {(2.0, 4.0), (0.0, 4.0)}


def test_a_frame_without_trust_ends_a_track(
    small_run: PretrainConfig, tmp_path: Path, moving_rectangle: Callable[..., ShardRow]
) -> None:
    row = moving_rectangle("v", 5, step=(0, 0))
    weights = np.array([1, 1, 0, 1, 0], np.float32)
    uri = write_videos(tmp_path, [dataclasses.replace(row, weights=weights)])
    task = task_of(small_run, labels="annotated", sampling=CONSECUTIVE)
    found = {tuple(s.weights[0].tolist()) for s in samples_of(task, uri, 24)}
    assert found == {(1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)}


def test_videos_without_boxes_are_quarantined(
    small_run: PretrainConfig, tmp_path: Path, moving_rectangle: Callable[..., ShardRow]
) -> None:
    rows = [moving_rectangle(f"v{i}", 8) for i in range(2)]
    rows[1] = dataclasses.replace(rows[1], boxes=None)
    stream = SampleStream(
        task_of(small_run, labels="annotated"), open_catalog(write_videos(tmp_path, rows)), 0, 2, 2
    )
    drawn = stream.draw_many(range(4))
    assert {each.video_id for each in drawn} == {"v0"}
    lost = [entry for each in drawn for entry in each.quarantined]
    assert {entry.video_id for entry in lost} == {"v1"}
    assert "has no boxes" in lost[0].reason


def test_a_run_trains_on_annotated_videos_and_is_scored_on_the_game(
    small_run: PretrainConfig, annotated_videos: Path, train_alone: Callable[..., None]
) -> None:
    data = {"uri": str(annotated_videos / "train"), "heldout_uri": "corpus:4"}
    task = small_run.task.replace(labels="annotated", num_patches=1)
    config = small_run.replace(task=task, data=data)
    train_alone(open_pretraining(config))
    rows = read_metrics(folder_of(config))
    assert rows[-1]["heldout_clips"] == 6
    assert {"iou", "still_iou"} <= rows[-1].keys()
