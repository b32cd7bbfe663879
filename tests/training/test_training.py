"""Schedules, steps, metrics, checkpoints, the run folder's log."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ctp.pretext.ctp.metrics import TrackingTally
from ctp.storage import Storage, StorageError
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.config import OptimizerConfig
from ctp.training.metrics_log import MetricsLog
from ctp.training.run_folder import read_metrics
from ctp.training.schedule import ScheduleConfig, learning_rate_factor, total_steps
from ctp.training.step import Loss, build_optimizer, train_step


class TestSchedule:
    def test_epochs_become_a_fixed_number_of_steps(self) -> None:
        schedule = ScheduleConfig(unit="epochs", length=3, decay_at=(1, 2))
        assert total_steps(schedule, num_videos=10, total_batch=4) == 7  # 30 clips, 2 left over

    def test_the_rate_falls_where_an_epoch_begins(self) -> None:
        schedule = ScheduleConfig(unit="epochs", length=3, decay_at=(1, 2))
        factors = [learning_rate_factor(schedule, step, 8, 4) for step in range(6)]
        assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])

    def test_steps_and_warm_up(self) -> None:
        schedule = ScheduleConfig(unit="steps", length=6, decay_at=(5,), warmup_steps=4)
        factors = [learning_rate_factor(schedule, step, 8, 4) for step in range(6)]
        assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.1])

    def test_cosine(self) -> None:
        schedule = ScheduleConfig(unit="steps", length=4, decay="cosine", decay_at=())
        factors = [learning_rate_factor(schedule, step, 8, 4) for step in range(5)]
        assert factors == pytest.approx([(1 + math.cos(math.pi * s / 4)) / 2 for s in range(5)])

    def test_a_decay_after_the_end_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"decay_at \(300,\) must lie before .* 300 epochs"):
            ScheduleConfig(length=300, decay_at=(300,))


class TestStep:
    def step(self, config: OptimizerConfig, gradient: float) -> tuple[nn.Parameter, Tensor]:
        weight = nn.Parameter(torch.tensor([1.0]))
        module = nn.Module()
        module.weight = weight
        optimizer = build_optimizer(config, module)

        def loss() -> Loss:
            total = gradient * weight.sum()
            return Loss(total, {"half": total / 2})

        told = train_step(loss, [weight], optimizer, config.max_gradient_norm, 0.1)
        assert list(told) == ["loss", "half", "gradient_norm"]
        assert told["half"].item() == gradient / 2
        assert told["gradient_norm"].item() == pytest.approx(gradient)
        return weight, told["loss"]

    def test_sgd_by_hand(self) -> None:
        config = OptimizerConfig(momentum=0, weight_decay=0.5)
        weight, loss = self.step(config, gradient=2.0)
        assert weight.item() == pytest.approx(1 - 0.1 * (2 + 0.5 * 1))
        assert loss.item() == 2
        assert not loss.requires_grad

    def test_what_is_frozen_stays(self) -> None:
        module = nn.Linear(2, 2)
        module.bias.requires_grad_(False)
        (group,) = build_optimizer(OptimizerConfig(), module).param_groups
        assert [id(each) for each in group["params"]] == [id(module.weight)]

    def test_the_gradient_is_clipped(self) -> None:
        config = OptimizerConfig(momentum=0, weight_decay=0, max_gradient_norm=40)
        weight, _ = self.step(config, gradient=1000.0)
        assert weight.item() == pytest.approx(1 - 0.1 * 40, rel=1e-5)


class TestTrackingTally:
    def test_a_case_by_hand(self) -> None:
        """One box, four frames, moving right by its width: a still box overlaps in frame 0."""
        boxes = torch.tensor([[[[i * 10.0, 0, i * 10 + 10, 10] for i in range(4)]]])
        predicted = boxes.clone()
        predicted[0, 0, 3] += torch.tensor([5.0, 0, 5, 0])  # half off: IoU 1/3
        visible = torch.tensor([[[True, True, False, False]]])
        tally = TrackingTally()
        tally.add(predicted, boxes, visible)
        assert tally.result() == pytest.approx(
            {
                "iou": (3 + 1 / 3) / 4, "still_iou": 1 / 4,
                "iou_visible": 1, "still_iou_visible": 1 / 2,
                "iou_hidden": 2 / 3, "still_iou_hidden": 0,
                "iou_near": 1, "still_iou_near": 0,
                "iou_far": 2 / 3, "still_iou_far": 0,
            },
            abs=1e-6,
        )  # fmt: skip

    def test_tallies_of_shares_add_up(self) -> None:
        generator = torch.Generator().manual_seed(0)
        boxes = torch.rand(6, 2, 5, 4, generator=generator).cumsum(dim=-1) * 20
        predicted = boxes + torch.rand(boxes.shape, generator=generator)
        visible = torch.rand(6, 2, 5, generator=generator) < 0.8
        whole, parts = TrackingTally(), [TrackingTally(), TrackingTally()]
        whole.add(predicted, boxes, visible)
        parts[0].add(predicted[:1], boxes[:1], visible[:1])
        parts[1].add(predicted[1:], boxes[1:], visible[1:])
        torch.testing.assert_close(parts[0].sums + parts[1].sums, whole.sums)

    def test_a_group_without_boxes_has_no_entry(self) -> None:
        tally = TrackingTally()
        boxes = torch.tensor([[[[0.0, 0, 1, 1]] * 4]])
        tally.add(boxes, boxes, torch.ones(1, 1, 4, dtype=torch.bool))
        assert "iou_hidden" not in tally.result()
        assert TrackingTally().result() == {}


def state(step: int) -> TrainState:
    return TrainState(
        step=step, clips=step * 4, model={"w": torch.full((3,), float(step))},
        optimizer={"param_groups": [{"lr": 0.1}], "state": {}}, config="{}", catalog="abc",
    )  # fmt: skip


class TestCheckpoints:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Storage:
        return Storage.of(tmp_path / "checkpoints")

    def test_the_newest_few_are_kept_and_read_back(self, folder: Storage) -> None:
        store = CheckpointStore(folder, keep=2)
        assert store.newest() is None
        for step in (5, 10, 100, 1000):
            store.save(state(step))
        store.close()
        assert folder.list_folders() == ["step-000000100", "step-000001000"]
        newest = store.newest()
        assert newest == "step-000001000"
        back = store.load(newest)
        assert back.step == 1000
        assert back.clips == 4000
        assert torch.equal(back.model["w"], torch.full((3,), 1000.0))

    def test_a_save_is_of_the_moment_it_was_asked_for(self, folder: Storage) -> None:
        store = CheckpointStore(folder, keep=2)
        kept = state(1)
        store.save(kept)
        kept.model["w"].zero_()
        store.close()
        assert torch.equal(store.load("step-000000001").model["w"], torch.ones(3))

    def test_one_cut_short_is_not_the_newest(self, folder: Storage) -> None:
        store = CheckpointStore(folder, keep=3)
        store.save(state(1))
        store.close()
        folder.join("step-000000002", "state.pt").write_bytes(b"half of it")
        assert store.newest() == "step-000000001"

    def test_a_damaged_one_is_said(self, folder: Storage) -> None:
        store = CheckpointStore(folder, keep=3)
        store.save(state(1))
        store.close()
        folder.join("step-000000001", "state.pt").write_bytes(b"something else")
        with pytest.raises(StorageError, match=r"step-000000001 is damaged: its checksum differs"):
            store.load("step-000000001")

    def test_half_written_ones_do_not_push_out_the_whole_one(self, folder: Storage) -> None:
        store = CheckpointStore(folder, keep=1)
        store.save(state(100))
        store.wait()
        folder.join("step-000000200", "state.pt").write_bytes(b"killed while writing")
        store.save(state(150))
        store.close()
        assert store.newest() == "step-000000150"
        assert folder.list_folders() == ["step-000000150"]

    def test_what_must_come_before_is_there_before_it_is_whole(self, folder: Storage) -> None:
        store, seen = CheckpointStore(folder, keep=1), []
        store.save(state(1), before=lambda: seen.append(store.newest()))
        store.close()
        assert seen == [None]

    def test_a_write_that_fails_once_is_tried_again(self, folder: Storage) -> None:
        store = CheckpointStore(folder, keep=1, retry_seconds=(0.01,))
        failures = [OSError("a passing fault")]

        def fail_once() -> None:
            if failures:
                raise failures.pop()

        store.save(state(1), before=fail_once)
        store.close()
        assert store.newest() == "step-000000001"

    def test_a_failed_save_is_said_at_the_next(self, folder: Storage) -> None:
        folder.join("step-000000001").write_bytes(b"a file in the way")
        store = CheckpointStore(folder, keep=3, retry_seconds=())
        store.save(state(1))
        with pytest.raises(StorageError, match="cannot write"):
            store.save(state(2))
        store.close()


class TestMetricsLog:
    def test_rows_after_the_step_gone_back_to_are_dropped(self, tmp_path: Path) -> None:
        folder = Storage.of(tmp_path)
        first = MetricsLog(folder, 0)
        first.write([{"step": step, "loss": float(step)} for step in (1, 2, 3)])
        first.close()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')  # killed while it wrote
        second = MetricsLog(folder, 2)
        second.write([{"step": 3, "loss": 30.0}])
        second.close()
        assert [row["loss"] for row in read_metrics(folder)] == [1, 2, 30]

    def test_tensorboard_gets_the_numbers(self, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        log = MetricsLog(Storage.of(tmp_path), 0)
        log.write([{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}])
        log.close()
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 2.5), (2, 1.5)]
