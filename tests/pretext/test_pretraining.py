"""A pretraining run in one process: what it writes, and that it resumes exactly."""

from __future__ import annotations

import json
import math
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ctp.data.shards import ShardRow, write_shard
from ctp.data.stream import Batch, SampleStream, load_here
from ctp.encoders.encoder import Encoder
from ctp.encoders.registry import build_encoder
from ctp.encoders.weights import load_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.task import CtpTask
from ctp.pretext.pretraining import TaskLearner, open_pretraining
from ctp.pretext.registry import TASKS
from ctp.storage import Storage
from ctp.training import trainer
from ctp.training.distributed import Worker
from ctp.training.metrics_log import MetricsLog
from ctp.training.run_folder import (
    create_or_resume,
    folder_of,
    newest_sample,
    read_metrics,
    with_absolute_paths,
)
from ctp.training.trainer import RunStoppedError, StopSignal
from ctp.training.trainer import train as train_spec
from ctp.video.config import ClipFormat

ONE = Worker()


class InterruptedRunError(Exception):
    """Stands for a lost machine."""


def stream(samples: SampleStream[Any], first_sample: int) -> Iterator[Batch[Any]]:
    return samples.batches(first_sample, ONE.rank, ONE.world_size)


def interrupted_stream(at_step: int):  # type: ignore[no-untyped-def]
    def open_stream(samples: SampleStream[Any], first_sample: int) -> Iterator[Batch[Any]]:
        for batch in stream(samples, first_sample):
            if batch.positions[0] == at_step * samples.total_batch:
                raise InterruptedRunError
            yield batch

    return open_stream


def train(config: PretrainConfig, open_stream: Any = stream, **options: Any) -> None:
    train_spec(open_pretraining(config), ONE, open_stream, **options)


def losses(config: PretrainConfig) -> list[tuple[int, float, float, float]]:
    rows = read_metrics(folder_of(config))
    return [(int(row["step"]), row["loss"], row["loss_center"], row["loss_size"]) for row in rows]


def weights(config: PretrainConfig) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(folder_of(config).join("encoder.safetensors").read_bytes())


def test_run_writes_its_folder(small_run: PretrainConfig) -> None:
    published: list[Mapping[str, Any]] = []
    assert create_or_resume(small_run) is False
    train(small_run, publish=published.append)
    folder = Path(small_run.storage) / "run"
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "encoder.safetensors",
    }  # fmt: skip
    assert [row["step"] for row in published] == [2, 3, 4, 6]
    rows = read_metrics(folder_of(small_run))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01] * 4 + [0.001] * 2)
    assert all(row["loss"] == pytest.approx(row["loss_center"] + row["loss_size"]) for row in rows)
    assert [row["step"] for row in rows if "iou" in row] == [3, 6]
    assert {"still_iou", "iou_visible", "iou_hidden", "iou_near", "iou_far"} <= rows[2].keys()
    assert rows[-1]["other_clip_share"] == 0
    clips = load_encoder(folder_of(small_run).uri).clip_format
    task = small_run.task
    assert clips == ClipFormat.from_training(task.sampling, task.augment)


class SlowLearner(TaskLearner[Any]):
    """Takes a second more for an evaluation."""

    def evaluate(self) -> dict[str, float]:
        time.sleep(1)
        return super().evaluate()


def test_the_start_and_evaluations_are_no_part_of_the_speed(small_run: PretrainConfig) -> None:
    def late_stream(samples: SampleStream[Any], first_sample: int) -> Iterator[Batch[Any]]:
        time.sleep(2)
        yield from stream(samples, first_sample)

    spec, began = open_pretraining(small_run), time.monotonic()
    train_spec(replace(spec, learner=SlowLearner), ONE, late_stream)
    whole_seconds = time.monotonic() - began
    rows = read_metrics(folder_of(small_run))
    assert [row["step"] for row in rows if row.get("start_seconds", 0) >= 2] == [2]
    assert [row["step"] for row in rows if row.get("evaluation_seconds", 0) >= 1] == [3, 6]
    clips = small_run.compute.total_batch
    timed = zip((row for row in rows if "wait_share" in row), (2, 1, 1, 2), strict=True)
    seconds = [steps * clips / row["clips_per_second"] for row, steps in timed]
    assert sum(seconds) < whole_seconds - 4
    assert rows[1]["wait_share"] * seconds[0] < 2, "the wait for the start does not count"


@pytest.fixture
def mixed_data(tmp_path: Path, encode_video: Callable[..., bytes]) -> dict[str, Any]:
    """Videos of one to seven clips, one of them text, and generated ones, in the ratio of 3 to 1:
    six steps are one and a half passes over the first."""
    lengths = {"short": 3, "medium": 9, "long": 30, "text": 8}
    rows = [
        ShardRow(name, b"text" if name == "text" else encode_video(number), number, 25.0, 64, 48)
        for name, number in lengths.items()
    ]
    write_shard(Storage.from_uri(tmp_path / "shards").join("a.parquet"), rows)
    uri = (str(tmp_path / "shards"), "corpus:8")
    return {"uri": uri, "mix": (3, 1), "clips_per_video": "by_duration"}


@pytest.mark.parametrize("is_mixed", [False, True])
def test_interrupted_and_resumed_equals_uninterrupted(
    small_run: PretrainConfig, mixed_data: dict[str, Any], tmp_path: Path, is_mixed: bool
) -> None:
    if is_mixed:
        small_run = small_run.replace(data=mixed_data)
    whole = small_run.replace(storage=str(tmp_path / "whole"))
    train(whole)
    with pytest.raises(InterruptedRunError):
        train(small_run, interrupted_stream(at_step=5))
    assert newest_sample(small_run) == 4 * 4
    assert create_or_resume(small_run) is True
    train(small_run)
    assert losses(small_run) == losses(whole)  # bit for bit
    first, second = weights(small_run), weights(whole)
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_resumed_run_has_the_weight_decay_of_its_config(small_run: PretrainConfig) -> None:
    with pytest.raises(InterruptedRunError):
        train(small_run, interrupted_stream(at_step=3))
    # as in a run that branches off
    spec = open_pretraining(small_run.replace(optimizer={"weight_decay": 0.5}))
    resumed = trainer.Trainer(spec, ONE, load_here, lambda row: None, StopSignal())
    resumed.resume()
    resumed.close()
    assert resumed.step == 2
    assert [group["weight_decay"] for group in resumed.optimizer.param_groups] == [0.5]


def test_rows_after_the_checkpoint_are_not_repeated(small_run: PretrainConfig) -> None:
    config = small_run.replace(log_every_steps=1)
    with pytest.raises(InterruptedRunError):
        train(config, interrupted_stream(at_step=5))
    assert [step for step, *_ in losses(config)] == [1, 2, 3, 4, 5]
    assert newest_sample(config) == 4 * 4
    train(config)
    assert [step for step, *_ in losses(config)] == [1, 2, 3, 4, 5, 6]


def test_quarantined_videos_are_in_the_ledger_once(
    small_run: PretrainConfig, video_folder: Any
) -> None:
    data = {
        "uri": str(video_folder(good=6, bad=1)),
        "heldout_share": 0.3,
        "max_quarantined_share": 0.2,
    }
    config = small_run.replace(data=data)
    train(config)
    lines = folder_of(config).join("quarantine.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == ["bad0.mp4"]
    assert read_metrics(folder_of(config))[-1]["quarantined"] == 1


def test_too_many_bad_videos_stop_the_run(small_run: PretrainConfig, video_folder: Any) -> None:
    data = {
        "uri": str(video_folder(good=6, bad=6)),
        "heldout_share": 0.2,
        "max_quarantined_share": 0.4,
    }
    with pytest.raises(RunStoppedError, match=r"max_quarantined_share = 0.4 allows .*bad"):
        train(small_run.replace(data=data))


def test_a_loss_that_is_not_finite_stops_the_run_before_an_evaluation(
    small_run: PretrainConfig,
) -> None:
    wild = small_run.replace(optimizer={"learning_rate": 1e30}, checkpoint={"every_steps": None})
    with pytest.raises(RunStoppedError, match=r"step \d+: .*finite.*learning_rate") as caught:
        train(wild)
    assert caught.value.is_final
    rows = read_metrics(folder_of(wild))
    first = next(r["step"] for r in rows if not math.isfinite(r["loss"] + r["gradient_norm"]))
    assert str(caught.value).startswith(f"step {first}:")
    assert first < len(rows) == wild.evaluation.every_steps


def test_failing_storage_stops_the_run_and_keeps_the_last_checkpoint(
    small_run: PretrainConfig,
) -> None:
    def fill_up(row: Mapping[str, Any]) -> None:
        # from step 3 on a file stands where the next checkpoint's folder has to be
        checkpoints = Path(small_run.storage) / "run" / "checkpoints"
        if row["step"] == 3:
            (checkpoints / "step-000000004").write_text("in the way")

    with pytest.raises(RunStoppedError, match=r"cannot write .*step-000000004"):
        train(small_run, publish=fill_up)
    assert newest_sample(small_run) == 2 * 4


def test_other_videos_under_the_same_name_are_refused(small_run: PretrainConfig) -> None:
    with pytest.raises(InterruptedRunError):
        train(small_run, interrupted_stream(at_step=3))
    other = small_run.replace(data={"uri": "corpus:30", "heldout_share": 0.25})
    with pytest.raises(RunStoppedError, match=r"was started with other videos"):
        train(other)


def test_videos_that_are_trained_on_are_not_held_out(small_run: PretrainConfig) -> None:
    data = {"uri": "corpus:20", "heldout_uri": ("corpus:18-24", "corpus:30-32")}
    with pytest.raises(ValueError, match=r"2 of 8 .*\(data\.heldout_uri\) .*'corpus:18-24/"):
        open_pretraining(small_run.replace(data=data))
    spec = open_pretraining(small_run.replace(data={**data, "heldout_uri": "corpus:20-24"}))
    assert [len(each) for each in spec.catalogs] == [20, 4]
    twice = {"uri": ("corpus:20", "corpus:10"), "heldout_share": 0.5}
    with pytest.raises(ValueError, match=r"\(data\.heldout_share\) are also training videos"):
        open_pretraining(small_run.replace(data=twice))


class TestCreateOrResume:
    @pytest.fixture
    def begun(self, small_run: PretrainConfig) -> PretrainConfig:
        """A run that was interrupted after its first checkpoint."""
        create_or_resume(small_run)
        with pytest.raises(InterruptedRunError):
            train(small_run, interrupted_stream(at_step=3))
        return small_run

    def test_another_config_is_refused_by_name(self, begun: PretrainConfig) -> None:
        other = begun.replace(seed=5, task=begun.task.replace(num_patches=3))
        with pytest.raises(ValueError, match=r"(?s)seed was 0, is 5.*task.num_patches was 2, is 3"):
            create_or_resume(other)

    def test_resources_may_change(self, begun: PretrainConfig) -> None:
        other = begun.replace(
            log_every_steps=7,
            scaling={"num_workers": 2, "num_actors": 5},
            data=begun.data.replace(max_quarantined_share=0.9),
        )
        assert create_or_resume(other) is True

    def test_a_name_without_a_checkpoint_is_free(self, small_run: PretrainConfig) -> None:
        assert create_or_resume(small_run) is False
        assert create_or_resume(small_run.replace(seed=5)) is False

    def test_a_finished_run_is_not_overwritten(self, small_run: PretrainConfig) -> None:
        train(small_run)
        with pytest.raises(ValueError, match="'run' is finished"):
            create_or_resume(small_run)

    def test_storage_that_cannot_be_written_is_an_error(self, small_run: PretrainConfig) -> None:
        with pytest.raises(OSError, match=r"cannot write /proc/run"):
            create_or_resume(small_run.replace(storage="/proc"))


def test_local_paths_become_absolute(
    small_run: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uris = ("videos/**/*.mp4", "s3://bucket/videos", "corpus:4", "/else/where")
    data = {"uri": uris, "heldout_uri": "test"}
    config = with_absolute_paths(small_run.replace(storage="here", data=data))
    assert config.storage == str(tmp_path / "here")
    assert config.data.uri == (
        f"{tmp_path}/videos/**/*.mp4", "s3://bucket/videos", "corpus:4", "/else/where",
    )  # fmt: skip
    assert config.data.heldout_uri == str(tmp_path / "test")
    assert with_absolute_paths(config) == config


@pytest.mark.slow
def test_a_run_folder_in_an_object_store(small_run: PretrainConfig, s3_bucket: str) -> None:
    config = small_run.replace(storage=f"{s3_bucket}/runs", log_every_steps=1)
    create_or_resume(config)
    with pytest.raises(InterruptedRunError):
        train(config, interrupted_stream(at_step=5))
    assert newest_sample(config) == 4 * 4
    train(config)
    assert [step for step, *_ in losses(config)] == [1, 2, 3, 4, 5, 6]
    names = {info.path.partition("/")[0] for info in folder_of(config).list_files()}
    assert names == {
        "config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "encoder.safetensors",
    }  # fmt: skip
    assert weights(config)


def on_s3(config: PretrainConfig, bucket: str, encode_video: Any) -> PretrainConfig:
    """The run on eight videos of a bucket."""
    for number in range(8):
        place = Storage.from_uri(f"{bucket}/videos/{number}.mp4")
        place.write_bytes(encode_video(12, width=64 + 2 * number, height=48))
    return config.replace(
        data={"uri": f"{bucket}/videos", "heldout_share": 0.25, "max_quarantined_share": 0.4}
    )


def stream_with_event(at_step: int, event: Callable[[], object]):  # type: ignore[no-untyped-def]
    def open_stream(samples: SampleStream[Any], first_sample: int) -> Iterator[Batch[Any]]:
        for batch in stream(samples, first_sample):
            yield batch
            if batch.positions[0] == at_step * samples.total_batch:
                event()

    return open_stream


def test_credentials_that_expire_stop_the_run_and_blame_no_video(
    small_run: PretrainConfig, faulty_s3: Any, encode_video: Any, tmp_path: Path
) -> None:
    config = on_s3(small_run, faulty_s3.bucket, encode_video)
    whole = config.replace(storage=str(tmp_path / "whole"))
    train(whole)
    expire = partial(faulty_s3.fail, {"kind": "refused", "value": "ExpiredToken"})
    with pytest.raises(RunStoppedError, match="Renew the credentials"):
        train(config, stream_with_event(3, expire))
    faulty_s3.fail()  # they were renewed
    train(config)
    assert losses(config) == losses(whole)
    assert not folder_of(config).join("quarantine.jsonl").exists()


def test_objects_that_vanish_and_change_are_quarantined(
    small_run: PretrainConfig, s3_bucket: str, encode_video: Any
) -> None:
    config = on_s3(small_run, s3_bucket, encode_video)
    spec = open_pretraining(config)
    vanishing, changing = (Storage.from_uri(spec.stream.catalog[i].uri) for i in (0, 1))

    def change() -> None:
        vanishing.filesystem.delete_file(vanishing.path)
        changing.write_bytes(encode_video(20, width=80))

    train_spec(spec, ONE, stream_with_event(0, change))
    lines = folder_of(config).join("quarantine.jsonl").read_bytes().splitlines()
    reasons = {entry["uri"]: entry["reason"] for entry in map(json.loads, lines)}
    assert reasons.keys() == {vanishing.uri, changing.uri}
    assert "cannot be read" in reasons[vanishing.uri]
    assert "has changed since it was catalogued" in reasons[changing.uri]
    assert len(losses(config)) == 6


def test_files_that_cannot_be_catalogued_are_in_the_ledger(
    small_run: PretrainConfig, tmp_path: Path, encode_video: Any
) -> None:
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(encode_video(12))
    (tmp_path / "shard.parquet").write_bytes(b"PAR1 and no more")
    train(small_run.replace(data={"uri": str(tmp_path)}, evaluation={"num_clips": 0}))
    [line] = folder_of(small_run).join("quarantine.jsonl").read_bytes().splitlines()
    assert json.loads(line)["video_id"] == "shard.parquet"


@pytest.mark.parametrize(
    ("compute", "tolerance"),
    [
        ({"precision": "bf16"}, 0.06),  # 8 bits, through a dozen layers
        ({"precision": "tf32"}, 1e-3),
        pytest.param({"compile": True}, 1e-3, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_other_precisions_give_nearly_the_same_loss_and_gradient(
    small_run: PretrainConfig,
    tmp_path: Path,
    compute: dict[str, Any],
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a head whose predictions follow the encoder, which the usual small start hides."""

    class WideHeadTask(CtpTask):
        def build(self, encoder: Encoder) -> torch.nn.Module:
            model = super().build(encoder)
            generator = torch.Generator().manual_seed(0)
            for name, parameter in model.get_submodule("head.mlp").named_parameters():
                if name.endswith("weight"):
                    parameter.data.normal_(std=0.3, generator=generator)
            return model

    monkeypatch.setitem(TASKS, "ctp", WideHeadTask)
    # also where torch has a fault, which this small encoder does not meet
    monkeypatch.setattr("ctp.training.trainer.precision_fault", lambda *_: None)
    plain = small_run.replace(
        schedule={"unit": "steps", "length": 1, "decay_at": ()},
        compute={"total_batch": 16},  # one clip's rounding says little
    )
    ways = {
        "plain": plain,
        "other": plain.replace(compute={"total_batch": 16, **compute}),
        "another encoder": plain.replace(encoder=plain.encoder.replace(norm_eps=1.0)),
    }
    came = {}
    for name, config in ways.items():
        config = config.replace(storage=str(tmp_path / name))
        train(config)
        [row] = read_metrics(folder_of(config))
        came[name] = np.array([row["loss"], row["gradient_norm"]])
    assert came["other"] == pytest.approx(came["plain"], rel=tolerance)
    assert (abs(came["another encoder"] / came["plain"] - 1) > tolerance).all()


def test_all_videos_bad_stops_the_run_and_lists_them(
    small_run: PretrainConfig, video_folder: Any
) -> None:
    data = {"uri": str(video_folder(bad=4)), "max_quarantined_share": 1.0}
    config = small_run.replace(data=data)
    with pytest.raises(RunStoppedError, match=r"4 videos were tried") as caught:
        train(config)
    assert caught.value.is_final
    lines = folder_of(config).join("quarantine.jsonl").read_bytes().splitlines()
    assert len(lines) == 4
    assert newest_sample(config) == 0


def test_repaired_videos_do_not_stop_the_run_again(
    small_run: PretrainConfig, video_folder: Any, encode_video: Any
) -> None:
    videos = video_folder(bad=8)
    config = small_run.replace(data={"uri": str(videos), "max_quarantined_share": 0.3})
    with pytest.raises(RunStoppedError):
        train(config)
    for i in range(8):
        (videos / f"bad{i}.mp4").write_bytes(encode_video(12, width=64, height=48))
    train(config)
    assert len(folder_of(config).join("quarantine.jsonl").read_bytes().splitlines()) == 8


def test_a_log_that_cannot_be_written_stops_the_run(
    small_run: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: MetricsLog, rows: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsLog, "write", full)
    with pytest.raises(RunStoppedError, match="No space left on device"):
        train(small_run)


def test_a_damaged_checkpoint_stops_the_run(small_run: PretrainConfig) -> None:
    with pytest.raises(InterruptedRunError):
        train(small_run, interrupted_stream(at_step=3))
    state = folder_of(small_run).join("checkpoints", "step-000000002", "state.pt")
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(RunStoppedError, match=r"step-000000002 is damaged"):
        train(small_run)


def test_a_run_killed_before_its_export_exports_later(small_run: PretrainConfig) -> None:
    train(small_run)
    before = weights(small_run)
    (Path(small_run.storage) / "run" / "encoder.safetensors").unlink()
    train(small_run)
    assert all(torch.equal(before[name], value) for name, value in weights(small_run).items())


class TestInitialEncoder:
    def test_a_new_run_starts_from_it(self, small_run: PretrainConfig, tmp_path: Path) -> None:
        train(small_run)
        uri = folder_of(small_run).join("encoder.safetensors").uri
        frozen = small_run.replace(
            storage=str(tmp_path / "next"), initial_encoder=uri, seed=1,
            optimizer={"learning_rate": 1e-30},
        )  # fmt: skip
        train(frozen)
        ours, theirs = weights(frozen), weights(small_run)
        learnt = [name for name in theirs if name.endswith("weight")]
        assert all(torch.equal(ours[name], theirs[name]) for name in learnt)

    def test_an_encoder_that_does_not_fit_is_an_error(self, small_run: PretrainConfig) -> None:
        train(small_run)
        uri = folder_of(small_run).join("encoder.safetensors").uri
        wide = small_run.replace(
            name="wide", initial_encoder=uri, encoder=small_run.encoder.replace(width=8)
        )
        with pytest.raises(RunStoppedError, match=r"(?s)does not fit .* width 8,.*stem.0.weight"):
            train(wide)

    def test_a_checkpoint_of_the_authors_is_taken_with_its_epsilon(
        self, small_run: PretrainConfig, tmp_path: Path
    ) -> None:
        uri = str(tmp_path / "epoch_300.pth")
        encoder = build_encoder(small_run.encoder)
        state = {f"backbone.{name}": value for name, value in encoder.state_dict().items()}
        theirs = {name.replace(".stem.0.", ".stem.conv."): value for name, value in state.items()}
        torch.save({"state_dict": theirs}, uri)
        config = small_run.replace(
            initial_encoder=uri,
            encoder=small_run.encoder.replace(norm_eps=1e-5),
            optimizer={"learning_rate": 1e-30},
        )
        train(config)
        # in the run's config, so that a resumed run has it, too
        assert open_pretraining(config).config == config.replace(encoder=small_run.encoder)
        assert load_encoder(folder_of(config).uri).config == small_run.encoder
        learnt = weights(config)
        for name, value in encoder.named_parameters():
            if name.endswith("weight"):
                assert torch.equal(learnt[name], value), name

    def test_what_is_no_file_of_weights_is_refused(self, small_run: PretrainConfig) -> None:
        with pytest.raises(ValueError, match=r"initial_encoder 'kinetics400'; expected .*\.pth"):
            small_run.replace(initial_encoder="kinetics400")


class SaveFromSecondLogLine(StopSignal):
    def __init__(self) -> None:
        self.asked, self.steps = 0, list[int]()

    def should_save(self) -> bool:
        self.asked += 1
        return self.asked > 1

    def saved(self, step: int) -> None:
        self.steps.append(step)


def test_a_save_request_is_met_at_the_next_log_line(
    small_run: PretrainConfig,
) -> None:
    config = small_run.replace(
        log_every_steps=2, evaluation={"num_clips": 0}, checkpoint={"every_steps": None}
    )
    signal = SaveFromSecondLogLine()
    with pytest.raises(InterruptedRunError):
        train(config, interrupted_stream(at_step=5), stop_signal=signal)
    assert signal.steps == [4]
    assert newest_sample(config) == 4 * 4


class StopAtSecondLogLine(StopSignal):
    def __init__(self) -> None:
        self.asked = 0

    def reason_to_stop(self) -> str | None:
        self.asked += 1
        return "it fell behind" if self.asked == 2 else None


def test_a_stop_request_is_met_at_the_next_log_line(
    small_run: PretrainConfig,
) -> None:
    config = small_run.replace(log_every_steps=2, evaluation={"num_clips": 0})
    with pytest.raises(RunStoppedError, match="it fell behind"):
        train(config, interrupted_stream(at_step=6), stop_signal=StopAtSecondLogLine())
    assert [row["step"] for row in read_metrics(folder_of(config))] == [1, 2, 3, 4]


def test_snapshots_for_the_knn_score_are_written_at_epoch_ends(small_run: PretrainConfig) -> None:
    # 15 videos, 4 clips a step: the first epoch ends in step 4, the run at 6
    config = small_run.replace(knn={"uri": "corpus:20", "every_epochs": 1})
    train(config)
    snapshots = folder_of(config).join("snapshots")
    names = [info.path for info in snapshots.list_files()]
    assert names == ["00000004.safetensors", "00000006.safetensors"]
    last = safetensors.torch.load(snapshots.join(names[-1]).read_bytes())
    assert all(torch.equal(value, weights(config)[name]) for name, value in last.items())


def test_actors_draw_samples_without_models(
    small_run: PretrainConfig, run_python: Callable[..., str], tmp_path: Path
) -> None:
    """torchvision takes a second and 0.2 GB in each actor."""
    spec = open_pretraining(small_run)
    drawers = [spec.stream.drawer, *(TASKS[name](TASKS[name].Config()) for name in TASKS)]
    (tmp_path / "drawers").write_bytes(pickle.dumps([spec.evaluation, *drawers]))
    script = (
        "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')); "
        "print([name for name in ('torchvision', 'torchmetrics') if name in sys.modules])"
    )
    assert run_python("-c", script, str(tmp_path / "drawers")).strip() == "[]"


def test_a_mixed_run_shows_videos_in_proportion_to_their_lengths(
    small_run: PretrainConfig, mixed_data: dict[str, Any]
) -> None:
    stream = open_pretraining(small_run.replace(data=mixed_data)).stream
    assert stream.epoch_clips == (1 + 2 + 7 + 2) + 8 * 10
    positions = range(16)  # a pass over the shards
    planned = [stream.catalog[stream.plan.clip(position).video].id for position in positions]
    drawn = [stream.draw(position) for position in positions]
    counts = Counter(Path(name).name for name in planned if "shards" in name)
    assert counts == {"short": 1, "medium": 2, "long": 7, "text": 2}
    for name, each in zip(planned, drawn, strict=True):
        is_text = name.endswith("text")
        assert (each.video_id != name) == is_text
        assert ("shards" in each.video_id) == ("shards" in name)  # also of a replacement
    assert len({each.sample.planes.tobytes() for each in drawn}) == 16  # no clip twice


def test_other_lengths_under_the_same_name_are_refused(
    small_run: PretrainConfig, mixed_data: dict[str, Any], encode_video: Callable[..., bytes]
) -> None:
    config = small_run.replace(data=mixed_data)
    with pytest.raises(InterruptedRunError):
        train(config, interrupted_stream(at_step=3))
    place = Storage.from_uri(mixed_data["uri"][0]).join("a.parquet")
    names = ("short", "medium", "long", "text")
    write_shard(place, [ShardRow(name, encode_video(9), 9, 25.0, 64, 48) for name in names])
    with pytest.raises(RunStoppedError, match=r"videos of other lengths"):
        train(config)


def test_a_share_of_the_training_set_leaves_the_held_out_videos(small_run: PretrainConfig) -> None:
    half = small_run.replace(data=small_run.data.replace(share=0.5))
    few, many = (open_pretraining(config) for config in (half, small_run))
    assert few.evaluation.catalog == many.evaluation.catalog
    few_ids, ids = ({entry.id for entry in spec.stream.catalog} for spec in (few, many))
    assert len(few_ids) == round(len(ids) / 2)
    assert few_ids < ids
    assert open_pretraining(half).stream.catalog == few.stream.catalog


def log_lines(config: PretrainConfig) -> list[float]:
    rows = read_metrics(folder_of(config))
    return [row["step"] for row in rows if "clips_per_second" in row]


def test_log_lines_come_by_time(small_run: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow steps get a line each; before fast ones come at most four times as many as before."""
    schedule = {"unit": "steps", "length": 24, "decay_at": ()}
    config = small_run.replace(
        log_every_steps=None,
        schedule=schedule,
        evaluation={"num_clips": 0},
        checkpoint={"every_steps": None},
    )
    monkeypatch.setattr(trainer, "FIRST_STEPS", 1)
    monkeypatch.setattr(trainer, "LOG_SECONDS", 1e-9)
    train(config.replace(name="slow"))
    assert log_lines(config.replace(name="slow")) == list(range(1, 25))
    monkeypatch.setattr(trainer, "LOG_SECONDS", 1e9)
    train(config.replace(name="fast"))
    assert log_lines(config.replace(name="fast")) == [1, 5, 21, 24]


@pytest.mark.parametrize(
    ("steps", "taken", "expected"), [(10, 1.0, 50), (10, 20.0, 2), (1, 60.0, 1), (10, 0.0, 400)]
)
def test_a_log_line_comes_after_the_steps_of_its_time(
    steps: int, taken: float, expected: int
) -> None:
    assert trainer.steps_in(5.0, steps, taken, before=100) == expected
