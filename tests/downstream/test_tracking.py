"""Fine-tuning to track: what is scored, what it starts from, whole runs in one process and two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctp.data.shards import ShardRow, write_shard
from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import (
    TRACKER,
    Tracking,
    build_tracker,
    follow,
    in_picture,
    load_head,
    settled,
)
from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes, load_encoder, read_state
from ctp.geometry import box_iou
from ctp.pretext.ctp.tracker import Tracker
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.claim import open_run, run_storage
from ctp.training.distributed import Worker
from ctp.training.maker import StreamMaker, local_stream
from ctp.training.trainer import CallHere, RunStoppedError, run

TINY = EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1))
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
            "sampling": {"num_frames": 4, "max_interval_frames": 2},
            "augment": {"frame_size_px": 32, "short_sides_px": (32, 40)},
            "test": {"short_side_px": 36},
            "schedule": {"unit": "steps", "length": 6, "decay_at": ()},
            "compute": {"total_batch": 4},
            "checkpoint": {"every_steps": 2},
            "test_every_steps": 3,
            "log_every_steps": 2,
        }
    )


def train(config: TrackConfig, breaks_at: int | None = None) -> None:
    open_run(config)

    def stream(maker: StreamMaker[Any], first_clip: int) -> Iterator[Mapping[str, Any]]:
        for number, batch in enumerate(local_stream(maker, first_clip, 0, 1)):
            if number == breaks_at:
                raise InterruptedError
            yield batch

    run(Tracking.of(config), Worker(), stream)


def losses(config: TrackConfig) -> list[float]:
    return [row["loss"] for row in run_folder.read_metrics(run_storage(config))]


def scores(config: TrackConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_storage(config).join(config.RESULT).read_bytes())
    return found


def weights(config: TrackConfig) -> dict[str, Tensor]:
    return read_state(run_storage(config).join(TRACKER).read_bytes(), "it")


def pretrained(config: TrackConfig, folder: Path, **changes: Any) -> Tracker:
    """A run folder as pretraining leaves one, and what it pretrained."""
    model = build_tracker(config.replace(seed=7))
    place = Storage.of(folder)
    place.join("encoder.safetensors").write_bytes(encoder_bytes(model.encoder, {}))
    stored = json.dumps({"sigma": config.sigma, **changes})
    store = CheckpointStore(place.join("checkpoints"), keep=1)
    store.save(TrainState(1, 4, model.state_dict(), {}, stored, ""))
    store.close()
    return model


class TestRun:
    def test_scores_every_frame_of_every_video(self, tracking: TrackConfig) -> None:
        train(tracking)
        job, found = Tracking.of(tracking), scores(tracking)
        model = build_tracker(tracking)
        model.load_state_dict(weights(tracking))
        model.eval()
        videos, _ = job.test.test_clips(range(3))
        per_clip, after, still_after = [], [], []
        for video in videos:
            predicted = torch.from_numpy(follow(model, video, tracking, CPU)).clamp(0, 32)
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
        assert found["still_ao"] == pytest.approx(np.mean(still_after), rel=1e-5)
        assert found["tested"] == len(found["videos"]) == 3
        assert found["frames"] + found["hidden"] + found["out_of_sight"] == 9 + 10 + 11
        assert found["trained_on"] == 4
        assert [each["frames"] for each in found["videos"].values()] == [
            video.counted.sum() for video in videos
        ]
        rows = run_folder.read_metrics(run_storage(tracking))
        assert [row["step"] for row in rows if "iou" in row] == [3, 6]
        assert rows[-1]["iou"] == found["iou"]
        assert all("loss_center" in row for row in rows)

    def test_goes_on_where_it_was_broken_off(self, tracking: TrackConfig, tmp_path: Path) -> None:
        whole = tracking.replace(storage=str(tmp_path / "whole"))
        train(whole)
        with pytest.raises(InterruptedError):
            train(tracking, breaks_at=5)
        train(tracking)
        assert losses(tracking) == losses(whole)
        assert scores(tracking) == scores(whole)
        for name, value in weights(whole).items():
            assert torch.equal(weights(tracking)[name], value), name

    @pytest.mark.slow
    def test_two_workers_learn_and_score_as_one(
        self, tracking: TrackConfig, tmp_path: Path, train_as_two: Callable[..., None]
    ) -> None:
        train(tracking)
        two = tracking.replace(storage=str(tmp_path / "two"), scaling={"num_workers": 2})
        open_run(two)
        train_as_two(Tracking, two)
        assert losses(two) == pytest.approx(losses(tracking), rel=1e-3)
        found, alone = scores(two), scores(tracking)
        assert list(found["videos"]) == list(alone["videos"])
        for name in ("tested", "clips", "frames", "still_iou", "still_ao"):
            assert found[name] == pytest.approx(alone[name]), name
        assert found["iou"] == pytest.approx(alone["iou"], abs=0.02)

    def test_it_learns_where_a_rectangle_goes(
        self, tracking: TrackConfig, tmp_path: Path, moving_rectangle: Callable[..., ShardRow]
    ) -> None:
        """All move to the right: it is enough to learn that."""
        for split in ("train", "val"):
            rows = [moving_rectangle(f"{i}", 8, start=(4, 10 + i, 20, 30), step=(3, 0))
                    for i in range(4)]  # fmt: skip
            write_shard(Storage.of(tmp_path / "right" / split).join("a.parquet"), rows)
        config = tracking.replace(
            data={"uri": str(tmp_path / "right/train"), "test_uri": str(tmp_path / "right/val")},
            sampling={"num_frames": 4, "max_interval_frames": 1},
            augment={**tracking.augment.model_dump(), "flip_prob": 0},
            optimizer={"name": "adamw", "learning_rate": 0.003},
            schedule={"unit": "steps", "length": 40, "decay_at": ()},
            test_every_steps=40,
        )
        train(config)
        found = scores(config)
        assert found["ao"] > found["still_ao"] + 0.1

    def test_a_video_that_cannot_be_read_is_told_beside_the_score(
        self, tracking: TrackConfig, moving_rectangle: Callable[..., ShardRow]
    ) -> None:
        row = moving_rectangle("bad", 9)
        gone = np.ones(9, np.int8)
        bad = [replace(row, data=b"this is text"), replace(row, id="gone", absence=gone)]
        write_shard(Storage.of(tracking.data.test_uri).join("bad.parquet"), bad)  # type: ignore[arg-type]
        config = tracking.replace(data={**tracking.data.model_dump(), "max_quarantined_share": 0.5})
        train(config)
        found = scores(config)
        assert found["tested"] == 3
        assert sorted(entry["video_id"] for entry in found["quarantined"]) == ["bad", "gone"]
        ledger = run_storage(config).join(run_folder.QUARANTINE).read_bytes()
        assert b'"bad"' in ledger
        assert b'"gone"' in ledger

    def test_nothing_is_tested_on_that_is_trained_on(self, tracking: TrackConfig) -> None:
        data = tracking.data
        config = tracking.replace(data={"uri": data.uri, "test_uri": data.uri})
        with pytest.raises(ValueError, match=r"both hold .*a\.parquet: what is tested on"):
            Tracking.of(config)


class TestStart:
    def test_frozen_stages_stay_as_they_came(self, tracking: TrackConfig, tmp_path: Path) -> None:
        model = pretrained(tracking, tmp_path / "pre")
        config = settled(tracking.replace(initial=str(tmp_path / "pre"), frozen_stages=3))
        train(config)
        learnt = weights(config)
        kept = ("encoder.stem", "encoder.layer1", "encoder.layer2")
        for name, value in model.state_dict().items():
            assert torch.equal(learnt[name], value) == name.startswith(kept), name
        assert scores(config)["frozen_stages"] == 3

    def test_an_encoder_file_tells_what_is_built_at_stride_8(
        self, tracking: TrackConfig, tmp_path: Path
    ) -> None:
        encoder = ResNet3d(TINY.replace(last_stage_spatial_stride=2, norm_eps=0.01))
        (tmp_path / "encoder.safetensors").write_bytes(encoder_bytes(encoder, {}))
        config = settled(tracking.replace(encoder=None, initial=str(tmp_path)))
        assert config.encoder == TINY.replace(norm_eps=0.01)
        task = Tracking.of(config).task(Worker(), CallHere)
        task.initialise()
        for name, value in encoder.state_dict().items():
            assert torch.equal(task.model.encoder.state_dict()[name], value), name

    def test_the_head_comes_along(self, tracking: TrackConfig, tmp_path: Path) -> None:
        model = pretrained(tracking, tmp_path / "pre")
        config = settled(tracking.replace(initial=str(tmp_path / "pre"), with_head=True))
        task = Tracking.of(config).task(Worker(), CallHere)
        task.initialise()
        for name, value in model.state_dict().items():
            assert torch.equal(task.model.state_dict()[name], value), name

    def test_without_it_the_head_is_new(self, tracking: TrackConfig, tmp_path: Path) -> None:
        model = pretrained(tracking, tmp_path / "pre")
        config = settled(tracking.replace(initial=str(tmp_path / "pre")))
        task = Tracking.of(config).task(Worker(), CallHere)
        task.initialise()
        assert not torch.equal(task.model.head.mlp[0].weight, model.head.mlp[0].weight)
        assert torch.equal(task.model.encoder.stem[0].weight, model.encoder.stem[0].weight)

    @pytest.mark.parametrize("initial", ["random", "encoder.pth", "no-run"])
    def test_no_head_to_be_had(self, tracking: TrackConfig, tmp_path: Path, initial: str) -> None:
        name = initial if initial == "random" else str(tmp_path / initial)
        if initial == "no-run":
            name = f"{name}/encoder.safetensors"
        with pytest.raises(ValueError, match="with_head: no checkpoint of a run belongs to"):
            load_head(build_tracker(tracking), tracking.replace(initial=name))

    def test_a_head_that_does_not_fit_is_refused_by_its_keys(
        self, tracking: TrackConfig, tmp_path: Path
    ) -> None:
        pretrained(tracking, tmp_path / "pre")
        changes = {"initial": str(tmp_path / "pre"), "with_head": True}
        wider = tracking.replace(**changes, head={"hidden_channels": 16})
        with pytest.raises(ValueError, match=r"does not fit: (.|\n)*mlp\.0\.weight"):
            settled(wider)
        with pytest.raises(ValueError, match=r"has a head with sigma \(0\.8, .*wanted one with"):
            settled(tracking.replace(**changes, sigma=(1, 1, 0.05, 0.05)))

    def test_a_run_without_a_head_is_told(self, tracking: TrackConfig, tmp_path: Path) -> None:
        pretrained(tracking, tmp_path / "pre")
        store = CheckpointStore(Storage.of(tmp_path / "pre" / "checkpoints"), keep=1)
        store.save(TrainState(2, 8, {"fc.weight": torch.zeros(1)}, {}, "{}", ""))
        store.close()
        with pytest.raises(ValueError, match="has no head; wanted one with sigma"):
            settled(tracking.replace(initial=str(tmp_path / "pre"), with_head=True))

    def test_weights_that_do_not_fit_stop_the_run(
        self, tracking: TrackConfig, tmp_path: Path
    ) -> None:
        wide = ResNet3d(TINY.replace(width=8))
        (tmp_path / "encoder.safetensors").write_bytes(encoder_bytes(wide, {}))
        with pytest.raises(RunStoppedError, match=r"stem\.0\.weight: \(8, 3, 3, 7, 7\)"):
            train(settled(tracking.replace(initial=str(tmp_path))))


def test_boxes_go_back_into_the_picture(tracking: TrackConfig) -> None:
    job = Tracking.of(tracking)
    (clips,), _ = job.test.test_clips([1])
    back = in_picture(clips.boxes, clips, 32)
    track = job.test.tracks[1]
    whole = (clips.boxes > 0).all(axis=-1) & (clips.boxes < 32).all(axis=-1)
    assert whole.sum() > 4
    np.testing.assert_allclose(back[whole], track.boxes[clips.frames][whole], atol=1e-3)


def test_the_finished_encoder_is_the_trackers(tracking: TrackConfig) -> None:
    train(tracking)
    encoder = ResNet3d(TINY)
    data = run_storage(tracking).join(run_folder.ENCODER).read_bytes()
    load_encoder(encoder, data, "it")
    for name, value in weights(tracking).items():
        if name.startswith("encoder."):
            assert torch.equal(encoder.state_dict()[name.removeprefix("encoder.")], value), name


def test_a_test_picture_smaller_than_the_clip_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test\.short_side_px 64 is less than augment\.frame"):
        TrackConfig.model_validate({"test": {"short_side_px": 64}})
    with pytest.raises(ValueError, match="frozen_stages"):
        TrackConfig.model_validate({"frozen_stages": 6})
