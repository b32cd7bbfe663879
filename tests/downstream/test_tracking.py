"""Fine-tuning to track: its scores, its initial weights, and whole runs by one worker and two."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctp.data.shards import ShardRow, write_shard
from ctp.data.stream import load_here
from ctp.downstream.track_clips import VideoClips
from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import (
    TRACKER,
    TrackingLearner,
    build_tracker,
    in_picture,
    load_head,
    open_tracking,
    predict,
    resolve,
)
from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes, load_state, read_state
from ctp.geometry import box_iou
from ctp.pretext.ctp.tracker import Tracker
from ctp.storage import Storage
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.distributed import Worker
from ctp.training.run_folder import ENCODER, QUARANTINE, folder_of, read_metrics
from ctp.training.trainer import RunStoppedError

Rectangle = Callable[..., ShardRow]
Train = Callable[..., None]
ReadLosses = Callable[[TrackConfig], list[float]]
ReadScores = Callable[[TrackConfig], dict[str, Any]]
TINY = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))
CPU = torch.device("cpu")


@pytest.fixture
def tracking(tmp_path: Path, annotated_videos: Path) -> TrackConfig:
    """Six steps of four clips over four videos; three to test on."""
    return TrackConfig.model_validate(
        {
            "name": "track",
            "storage": str(tmp_path / "runs"),
            "data": {
                "uri": str(annotated_videos / "train"),
                "test_uri": str(annotated_videos / "val"),
            },
            "encoder": TINY,
            "head": {"hidden_channels": 8},
            "sampling": {"num_frames": 4, "interval_frames": (1, 2)},
            "augment": {"frame_size_px": 32, "short_sides_px": (32, 40)},
            "schedule": {"unit": "steps", "length": 6, "decay_at": ()},
            "compute": {"total_batch": 4},
            "checkpoint": {"every_steps": 2},
            "test_every_steps": 3,
            "log_every_steps": 2,
        }
    )


def weights(config: TrackConfig) -> dict[str, Tensor]:
    return read_state(folder_of(config).join(TRACKER).read_bytes(), TRACKER)


def all_clips(config: TrackConfig) -> list[VideoClips]:
    """Return the clips of all test videos."""
    videos = open_tracking(config).evaluation
    return [clips for some in load_here(videos, range(len(videos.catalog))) for clips in some.items]


def initialized(config: TrackConfig) -> Tracker:
    """Return the model of a new run with its initial weights."""
    learner = TrackingLearner(open_tracking(config), Worker(), load_here)
    learner.initialize()
    return learner.model


def save_checkpoint(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    store = CheckpointStore(Storage.from_uri(folder / "checkpoints"))
    step = 2 if store.newest() else 1
    store.save(TrainState(step, state, {}, json.dumps(config), ""))
    store.close()


@pytest.fixture
def pretraining(tracking: TrackConfig, tmp_path: Path) -> Path:
    """The folder of a pretraining run, with its encoder and a checkpoint of the whole model."""
    folder, model = tmp_path / "pretraining", build_tracker(tracking.replace(seed=7))
    place = Storage.from_uri(folder / ENCODER)
    place.write_bytes(encoder_bytes(model.encoder, {}))
    save_checkpoint(folder, model.state_dict(), {"task": {"sigma": tracking.sigma}})
    return folder


@pytest.fixture
def pretrained(tracking: TrackConfig) -> Tracker:
    """The model of `pretraining`."""
    return build_tracker(tracking.replace(seed=7))


class TestRun:
    def test_scores_every_frame_of_every_video(
        self, tracking: TrackConfig, train_run: Train, read_scores: ReadScores
    ) -> None:
        train_run(open_tracking(tracking))
        found = read_scores(tracking)
        model = build_tracker(tracking)
        model.load_state_dict(weights(tracking))
        model.eval()
        videos = all_clips(tracking)
        per_clip, after, still_after = [], [], []
        for video in videos:
            predicted = torch.from_numpy(predict(model, video, tracking, CPU)).clamp(0, 32)
            boxes = torch.from_numpy(video.boxes)
            iou = box_iou(predicted, boxes).numpy()
            still = box_iou(boxes[:, :1], boxes).numpy()
            for clip, stays, counted in zip(iou, still, video.counted, strict=True):
                if counted[1:].any():
                    per_clip.append(clip[counted].mean())
                    after += clip[1:][counted[1:]].tolist()
                    still_after += stays[1:][counted[1:]].tolist()
        assert found["iou"] == pytest.approx(np.mean(per_clip), rel=1e-5)
        assert found["ao"] == pytest.approx(np.mean(after), rel=1e-5)
        assert found["sr50"] == pytest.approx(np.mean(np.array(after) > 0.5), rel=1e-5)
        assert found["sr75"] == pytest.approx(np.mean(np.array(after) > 0.75), rel=1e-5)
        assert found["still_ao"] == pytest.approx(np.mean(still_after), rel=1e-5)
        assert found["tested"] == len(found["videos"]) == 3
        assert found["frames"] + found["hidden"] + found["out_of_sight"] == 9 + 10 + 11
        assert found["trained_on"] == 4
        assert [each["frames"] for each in found["videos"].values()] == [
            video.counted.sum() for video in videos
        ]
        rows = read_metrics(folder_of(tracking))
        assert [row["step"] for row in rows if "iou" in row] == [3, 6]
        assert rows[-1]["iou"] == found["iou"]
        assert all("loss_center" in row for row in rows)

    def test_the_encoder_file_has_the_weights_of_the_tracker(
        self, tracking: TrackConfig, train_run: Train
    ) -> None:
        train_run(open_tracking(tracking))
        encoder = R3d(TINY)
        data = folder_of(tracking).join(ENCODER).read_bytes()
        load_state(encoder, read_state(data, ENCODER), ENCODER)
        for name, value in encoder.state_dict().items():
            assert torch.equal(weights(tracking)[f"encoder.{name}"], value), name

    def test_interrupted_and_resumed_equals_uninterrupted(
        self,
        tracking: TrackConfig,
        tmp_path: Path,
        train_run: Train,
        read_losses: ReadLosses,
        read_scores: ReadScores,
    ) -> None:
        whole = tracking.replace(storage=str(tmp_path / "whole"))
        train_run(open_tracking(whole))
        with pytest.raises(InterruptedError):
            train_run(open_tracking(tracking), interrupt_at=5)
        train_run(open_tracking(tracking))
        assert read_losses(tracking) == read_losses(whole)
        assert read_scores(tracking) == read_scores(whole)
        for name, value in weights(whole).items():
            assert torch.equal(weights(tracking)[name], value), name

    @pytest.mark.slow
    def test_two_workers_learn_and_score_as_one(
        self,
        tracking: TrackConfig,
        tmp_path: Path,
        train_run: Train,
        train_as_two: Callable[..., None],
        read_losses: ReadLosses,
        read_scores: ReadScores,
    ) -> None:
        train_run(open_tracking(tracking))
        two = tracking.replace(storage=str(tmp_path / "two"), scaling={"num_workers": 2})
        train_as_two(open_tracking, two)
        assert read_losses(two) == pytest.approx(read_losses(tracking), rel=1e-3)
        found, alone = read_scores(two), read_scores(tracking)
        assert list(found["videos"]) == list(alone["videos"])
        for name in ("tested", "clips", "frames", "still_iou", "still_ao"):
            assert found[name] == pytest.approx(alone[name]), name
        assert found["iou"] == pytest.approx(alone["iou"], abs=0.02)

    def test_learns_where_a_rectangle_moves(
        self,
        tracking: TrackConfig,
        tmp_path: Path,
        moving_rectangle: Rectangle,
        train_run: Train,
        read_scores: ReadScores,
    ) -> None:
        """All move to the right, which is all that must be learnt."""
        for split in ("train", "val"):
            rows = [moving_rectangle(f"{i}", 8, start=(4, 10 + i, 20, 30), step=(3, 0))
                    for i in range(4)]  # fmt: skip
            write_shard(Storage.from_uri(tmp_path / "right" / split).join("a.parquet"), rows)
        config = tracking.replace(
            data={"uri": str(tmp_path / "right/train"), "test_uri": str(tmp_path / "right/val")},
            sampling={"num_frames": 4, "interval_frames": (1, 1)},
            augment={**tracking.augment.model_dump(), "flip_prob": 0},
            optimizer={"name": "adamw", "learning_rate": 0.003},
            schedule={"unit": "steps", "length": 40, "decay_at": ()},
            test_every_steps=40,
        )
        train_run(open_tracking(config))
        found = read_scores(config)
        assert found["ao"] > found["still_ao"] + 0.1

    def test_a_test_video_that_cannot_be_used_is_reported_beside_the_score(
        self,
        tracking: TrackConfig,
        moving_rectangle: Rectangle,
        train_run: Train,
        read_scores: ReadScores,
    ) -> None:
        row = moving_rectangle("bad", 9)
        absent = replace(row, id="gone", absence=np.ones(9, np.int8))
        place = Storage.from_uri(str(tracking.data.test_uri)).join("bad.parquet")
        write_shard(place, [replace(row, data=b"this is text"), absent])
        config = tracking.replace(data={**tracking.data.model_dump(), "max_quarantined_share": 0.5})
        train_run(open_tracking(config))
        found = read_scores(config)
        assert found["tested"] == 3
        assert sorted(entry["video_id"] for entry in found["quarantined"]) == ["bad", "gone"]
        ledger = folder_of(config).join(QUARANTINE).read_bytes()
        assert b'"bad"' in ledger
        assert b'"gone"' in ledger

    def test_videos_to_train_on_must_not_be_tested_on(self, tracking: TrackConfig) -> None:
        uri = tracking.data.uri
        with pytest.raises(ValueError, match=r"\(data\.test_uri\) .*\(data\.uri\).*a\.parquet"):
            open_tracking(tracking.replace(data={"uri": uri, "test_uri": uri}))


class TestInitialWeights:
    def test_frozen_stages_keep_their_weights(
        self,
        tracking: TrackConfig,
        pretraining: Path,
        pretrained: Tracker,
        train_run: Train,
        read_scores: ReadScores,
    ) -> None:
        config = resolve(tracking.replace(initial=str(pretraining), frozen_stages=3))
        train_run(open_tracking(config))
        learnt = weights(config)
        kept = ("encoder.stem", "encoder.layer1", "encoder.layer2")
        for name, value in pretrained.state_dict().items():
            assert torch.equal(learnt[name], value) == name.startswith(kept), name
        assert read_scores(config)["frozen_stages"] == 3

    def test_the_encoder_of_a_file_is_built_at_stride_8(
        self, tracking: TrackConfig, tmp_path: Path
    ) -> None:
        encoder = R3d(TINY.replace(spatial_stride=16, norm_eps=0.01))
        (tmp_path / ENCODER).write_bytes(encoder_bytes(encoder, {}))
        config = resolve(tracking.replace(encoder=None, initial=str(tmp_path)))
        assert config.encoder == TINY.replace(norm_eps=0.01)
        loaded = initialized(config).encoder.state_dict()
        for name, value in encoder.state_dict().items():
            assert torch.equal(loaded[name], value), name

    def test_with_head_loads_the_whole_model(
        self, tracking: TrackConfig, pretraining: Path, pretrained: Tracker
    ) -> None:
        config = resolve(tracking.replace(initial=str(pretraining), with_head=True))
        loaded = initialized(config).state_dict()
        for name, value in pretrained.state_dict().items():
            assert torch.equal(loaded[name], value), name

    def test_otherwise_the_head_is_new(
        self, tracking: TrackConfig, pretraining: Path, pretrained: Tracker
    ) -> None:
        model = initialized(resolve(tracking.replace(initial=str(pretraining))))
        assert not torch.equal(model.head.mlp[0].weight, pretrained.head.mlp[0].weight)
        assert torch.equal(model.encoder.stem[0].weight, pretrained.encoder.stem[0].weight)

    @pytest.mark.parametrize("initial", ["random", "{folder}/encoder.pth", "{folder}/" + ENCODER])
    def test_initial_weights_without_a_run_have_no_head(
        self, tracking: TrackConfig, tmp_path: Path, initial: str
    ) -> None:
        config = tracking.replace(initial=initial.format(folder=tmp_path))
        with pytest.raises(ValueError, match=f"with_head: .*{config.initial}"):
            load_head(build_tracker(tracking), config)

    def test_a_head_of_other_sizes_is_refused_by_its_keys(
        self, tracking: TrackConfig, pretraining: Path
    ) -> None:
        options = {"initial": str(pretraining), "with_head": True}
        with pytest.raises(ValueError, match=r"with_head: (.|\n)*mlp\.0\.weight"):
            resolve(tracking.replace(**options, head={"hidden_channels": 16}))

    def test_a_head_keeps_the_scales_of_its_targets(
        self, tracking: TrackConfig, pretraining: Path, pretrained: Tracker
    ) -> None:
        state = pretrained.state_dict()
        save_checkpoint(pretraining, state, {"task": {"sigma": (1, 1, 0.05, 0.05)}})
        config = resolve(tracking.replace(initial=str(pretraining), with_head=True))
        assert config.sigma == (1, 1, 0.05, 0.05)
        assert initialized(config).sigma.tolist() == pytest.approx([1, 1, 0.05, 0.05])

    def test_a_run_of_another_task_has_no_head(
        self, tracking: TrackConfig, pretraining: Path
    ) -> None:
        save_checkpoint(pretraining, {"fc.weight": torch.zeros(1)}, {})
        with pytest.raises(ValueError, match=r"with_head: .*no head"):
            resolve(tracking.replace(initial=str(pretraining), with_head=True))

    def test_weights_that_do_not_fit_stop_the_run(
        self, tracking: TrackConfig, tmp_path: Path, train_run: Train
    ) -> None:
        wide = R3d(TINY.replace(width=8))
        (tmp_path / ENCODER).write_bytes(encoder_bytes(wide, {}))
        config = resolve(tracking.replace(initial=str(tmp_path)))
        with pytest.raises(RunStoppedError, match=r"stem\.0\.weight.*\(8, 3, 3, 7, 7\)"):
            train_run(open_tracking(config))


def test_boxes_of_clips_are_converted_back_to_the_video(tracking: TrackConfig) -> None:
    clips = all_clips(tracking)[1]
    back = in_picture(clips.boxes, clips, 32)
    whole = (clips.boxes > 0).all(axis=-1) & (clips.boxes < 32).all(axis=-1)
    assert whole.sum() > 4
    np.testing.assert_allclose(back[whole], clips.track.boxes[clips.frames][whole], atol=1e-3)


def test_more_frozen_stages_than_the_encoder_has_are_refused(tracking: TrackConfig) -> None:
    with pytest.raises(ValueError, match=r"6 frozen stages.*R3d has 5: stem, .*layer4"):
        resolve(tracking.replace(frozen_stages=6))
