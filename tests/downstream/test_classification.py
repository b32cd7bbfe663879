"""Fine-tuning: the classifier, how it is tested, and whole runs in one process and in two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctp.downstream.classification import (
    Classifier,
    Finetuning,
    Scores,
    classifier_bytes,
    dropout_mask,
    load_classifier,
)
from ctp.downstream.config import ClassifierHeadConfig, FinetuneConfig, LabeledDataConfig
from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes
from ctp.training import run_folder
from ctp.training.claim import open_run, run_storage
from ctp.training.distributed import Worker
from ctp.training.maker import StreamMaker, local_stream
from ctp.training.trainer import run

TINY = EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1), last_stage_spatial_stride=2)
CPU = torch.device("cpu")


def train(config: FinetuneConfig, breaks_at: int | None = None) -> None:
    open_run(config)

    def stream(maker: StreamMaker[Any], first_clip: int) -> Iterator[Mapping[str, Any]]:
        for number, batch in enumerate(local_stream(maker, first_clip, 0, 1)):
            if number == breaks_at:
                raise InterruptedError
            yield batch

    run(Finetuning.of(config), Worker(), stream)


def losses(config: FinetuneConfig) -> list[float]:
    return [row["loss"] for row in run_folder.read_metrics(run_storage(config))]


def scores(config: FinetuneConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_storage(config).join(config.RESULT).read_bytes())
    return found


def weights(config: FinetuneConfig) -> dict[str, Tensor]:
    data = run_storage(config).join(run_folder.CLASSIFIER).read_bytes()
    return load_classifier(data, "it")[0].state_dict()


class TestClassifier:
    def test_is_a_linear_layer_on_the_average(self) -> None:
        model = Classifier(ResNet3d(TINY), 3).eval()
        clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        features = model.encoder(clips).flatten(2).mean(dim=2)
        torch.testing.assert_close(model(clips), features @ model.fc.weight.T + model.fc.bias)
        keep = torch.zeros(2, 32)
        torch.testing.assert_close(model(clips, keep), model.fc.bias.expand(2, 3))

    def test_a_frozen_encoder_stays(self) -> None:
        model = Classifier(ResNet3d(TINY), 3, frozen=True).train()
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
        assert [name for name, each in model.named_parameters() if each.grad is not None] == [
            "fc.weight",
            "fc.bias",
        ]
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_comes_back_from_its_file(self) -> None:
        model = Classifier(ResNet3d(TINY), 2).eval()
        again, classes = load_classifier(classifier_bytes(model, ["a", "b"]), "it")
        clips = torch.randn(1, 3, 4, 32, 32)
        assert classes == ("a", "b")
        assert torch.equal(again(clips), model(clips))
        with pytest.raises(ValueError, match=r"it holds no classifier; wanted a classifier.safete"):
            load_classifier(encoder_bytes(model.encoder, {}), "it")


def test_dropout_is_a_function_of_seed_and_position() -> None:
    mask = dropout_mask(0, range(200), 50, 0.2)
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.8)}
    assert (mask == 0).mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(dropout_mask(0, [7, 3], 50, 0.2), mask[[7, 3]])
    assert (dropout_mask(1, range(200), 50, 0.2) != mask).any()
    assert (dropout_mask(0, [0], 50, 0.0) == 1).all()


def test_scores_equal_numpys() -> None:
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(40, 7)).astype(np.float32), rng.integers(7, size=40)
    found = Scores(7, CPU)
    for start in range(0, 40, 8):
        part = slice(start, start + 8)
        found.add(torch.from_numpy(logits[part]), torch.from_numpy(label[part]))
    ranked = np.argsort(-logits, axis=1)
    right = {f"top{k}": (ranked[:, :k] == label[:, None]).any(axis=1).mean() for k in (1, 5)}
    assert found.accuracy() == pytest.approx(right)
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (label, ranked[:, 0]), 1)
    assert found.confusion() == confusion.tolist()
    assert Scores(3, CPU).top_k == (1,)


class TestRun:
    def test_tests_every_video_once_by_the_average_of_its_views(
        self, finetuning: FinetuneConfig
    ) -> None:
        train(finetuning)
        job, found = Finetuning.of(finetuning), scores(finetuning)
        data = run_storage(finetuning).join(run_folder.CLASSIFIER).read_bytes()
        model, classes = load_classifier(data, "it")
        assert list(classes) == found["classes"]
        assert found["tested"] == len(job.test.catalog) == np.sum(found["confusion"])
        assert found["trained_on"] == len(job.train.catalog)
        task = job.task(Worker(), None)  # type: ignore[arg-type]
        task.model.load_state_dict(model.state_dict())
        task.model.eval()
        videos, _ = job.test.views(range(len(job.test.catalog)))
        taken = [int(task._logits(video).argmax()) for video in videos]
        right = sum(guess == video.label for guess, video in zip(taken, videos, strict=True))
        assert found["top1"] == pytest.approx(right / len(videos))
        rows = run_folder.read_metrics(run_storage(finetuning))
        assert [row["step"] for row in rows if "top1" in row] == [4, 6]  # an epoch is 3.75 steps
        assert all("train_top1" in row for row in rows)

    def test_goes_on_where_it_was_broken_off(
        self, finetuning: FinetuneConfig, tmp_path: Path
    ) -> None:
        whole = finetuning.replace(storage=str(tmp_path / "whole"))
        train(whole)
        with pytest.raises(InterruptedError):
            train(finetuning, breaks_at=5)
        train(finetuning)
        assert losses(finetuning) == losses(whole)
        assert scores(finetuning) == scores(whole)
        for name, value in weights(whole).items():
            assert torch.equal(weights(finetuning)[name], value), name

    def test_two_workers_learn_and_score_as_one(
        self, finetuning: FinetuneConfig, tmp_path: Path, train_as_two: Callable[..., None]
    ) -> None:
        train(finetuning)
        two = finetuning.replace(storage=str(tmp_path / "two"), scaling={"num_workers": 2})
        open_run(two)
        train_as_two(Finetuning, two)
        assert losses(two) == pytest.approx(losses(finetuning), rel=1e-4)
        assert scores(two)["tested"] == scores(finetuning)["tested"]
        assert np.sum(scores(two)["confusion"]) == scores(two)["tested"]

    def test_a_video_that_cannot_be_read_is_told_beside_the_score(
        self, finetuning: FinetuneConfig, video_folder: Any, tmp_path: Path
    ) -> None:
        source = video_folder(good=6, bad=1)
        for number, path in enumerate(sorted(source.glob("*.mp4"))):
            place = tmp_path / "all" / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place / path.name)
        listed = tmp_path / "test.txt"
        names = sorted(path.relative_to(tmp_path / "all") for path in place.parent.rglob("*.mp4"))
        tested = [name for name in names if "bad" in name.name or name.stem in {"good0", "good1"}]
        listed.write_text("\n".join(map(str, tested)))
        data = LabeledDataConfig(uri=str(tmp_path / "all"), test_list=str(listed))
        config = finetuning.replace(data=data)
        train(config)
        found = scores(config)
        assert found["tested"] == 2
        assert [Path(entry["video_id"]).name for entry in found["quarantined"]] == ["bad0.mp4"]
        ledger = run_storage(config).join(run_folder.QUARANTINE).read_bytes()
        assert b"bad0.mp4" in ledger

    def test_a_linear_probe_leaves_the_encoder_as_it_came(
        self, finetuning: FinetuneConfig, tmp_path: Path
    ) -> None:
        encoder = ResNet3d(TINY.replace(last_stage_spatial_stride=1))
        given = tmp_path / "encoder.safetensors"
        given.write_bytes(encoder_bytes(encoder, {}))
        head = ClassifierHeadConfig(frozen_encoder=True)
        train(finetuning.replace(initial=str(given), head=head))
        learnt = weights(finetuning)
        for name, value in encoder.state_dict().items():
            assert torch.equal(learnt[f"encoder.{name}"], value), name


def test_an_encoder_that_is_described_in_part_has_the_downstream_stride() -> None:
    config = FinetuneConfig.model_validate({"encoder": {"width": 8}})
    assert config.encoder is not None
    assert config.encoder.last_stage_spatial_stride == 2
    assert FinetuneConfig.model_validate_json(config.model_dump_json()) == config
