"""Fine-tuning: the classifier, its scores, and whole runs by one worker and by two."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctp.data.stream import load_here
from ctp.downstream.classification import (
    Classifier,
    accuracy,
    classifier_bytes,
    dropout_mask,
    load_classifier,
    open_finetuning,
    resolve,
)
from ctp.downstream.config import FinetuneConfig
from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes, load_encoder
from ctp.training.run_folder import CLASSIFIER, QUARANTINE, folder_of, read_metrics
from ctp.video.augment import to_input
from ctp.video.planes import to_rgb

TINY = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1), spatial_stride=16)
Train = Callable[..., None]
ReadLosses = Callable[[FinetuneConfig], list[float]]
ReadScores = Callable[[FinetuneConfig], dict[str, Any]]


def trained(config: FinetuneConfig) -> tuple[Classifier, tuple[str, ...]]:
    """Return the classifier of a finished run and its classes."""
    return load_classifier(folder_of(config).join(CLASSIFIER).read_bytes(), CLASSIFIER)


def weights(config: FinetuneConfig) -> dict[str, Tensor]:
    return trained(config)[0].state_dict()


class TestClassifier:
    def test_is_a_linear_layer_on_the_average_of_the_features(self) -> None:
        model = Classifier(R3d(TINY), 3).eval()
        clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        features = model.encoder(clips).flatten(2).mean(dim=2)
        torch.testing.assert_close(model(clips), features @ model.fc.weight.T + model.fc.bias)
        keep = torch.zeros(2, 32)
        torch.testing.assert_close(model(clips, keep), model.fc.bias.expand(2, 3))

    def test_its_weights_are_drawn_as_the_authors(self) -> None:
        fc = Classifier(R3d(R3dConfig(width=64, blocks_per_stage=(1, 1, 1, 1))), 101).fc
        # 512 x 101 draws: the deviation of their deviation is 0.3%
        assert float(fc.weight.detach().std()) == pytest.approx(0.001, rel=0.02)
        assert abs(float(fc.weight.detach().mean())) < 2e-5
        assert not fc.bias.any()

    def test_a_frozen_encoder_does_not_learn(self) -> None:
        model = Classifier(R3d(TINY), 3, frozen=True).train()
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
        learning = [name for name, each in model.named_parameters() if each.grad is not None]
        assert learning == ["fc.weight", "fc.bias"]
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(value, before[name]), name

    @pytest.mark.parametrize("is_attentive", [False, True])
    def test_its_file_restores_it(self, is_attentive: bool) -> None:
        model = Classifier(R3d(TINY), 2, is_attentive=is_attentive).eval()
        again, classes = load_classifier(classifier_bytes(model, ["a", "b"]), "it")
        clips = torch.randn(1, 3, 4, 32, 32)
        assert classes == ("a", "b")
        assert torch.equal(again(clips), model(clips))

    def test_a_file_without_a_classifier_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"mine\.safetensors .*no classifier"):
            load_classifier(encoder_bytes(R3d(TINY), {}), "mine.safetensors")


def test_dropout_is_a_function_of_seed_and_position() -> None:
    mask = dropout_mask(0, range(200), 50, 0.2)
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.8)}
    assert (mask == 0).mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(dropout_mask(0, [7, 3], 50, 0.2), mask[[7, 3]])
    assert (dropout_mask(1, range(200), 50, 0.2) != mask).any()
    assert (dropout_mask(0, [0], 50, 0.0) == 1).all()


def test_scores_equal_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(40, 7)).astype(np.float32), rng.integers(7, size=40)
    ranked = np.argsort(-logits, axis=1)
    right = {f"top{k}": (ranked[:, :k] == label[:, None]).any(axis=1).mean() for k in (1, 5)}
    assert accuracy(torch.from_numpy(logits), torch.from_numpy(label)) == pytest.approx(right)


def test_three_classes_have_no_top5() -> None:
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 1])) == {"top1": pytest.approx(2 / 3)}


class TestRun:
    def test_tests_every_video_once_by_the_average_of_its_views(
        self, finetuning: FinetuneConfig, train_run: Train, read_scores: ReadScores
    ) -> None:
        spec = open_finetuning(finetuning)
        train_run(spec)
        found, (model, classes) = read_scores(finetuning), trained(finetuning)
        assert list(classes) == found["classes"]
        assert found["tested"] == len(spec.evaluation.catalog) == np.sum(found["confusion"])
        assert found["trained_on"] == len(spec.stream.catalog)
        right, counts = 0, np.zeros((len(classes), len(classes)), int)
        for loaded in load_here(spec.evaluation, range(found["tested"])):
            for planes, label in loaded.items:
                clips = to_input(to_rgb(torch.from_numpy(planes), 32))
                assert len(clips) == finetuning.clips_per_test_video
                with torch.no_grad():
                    answer = int(model(clips).mean(dim=0).argmax())
                right += answer == label
                counts[label, answer] += 1
        assert found["confusion"] == counts.tolist()
        assert found["top1"] == pytest.approx(right / found["tested"])
        assert model.encoder.clip_format == finetuning.clip_format
        rows = read_metrics(folder_of(finetuning))
        assert [row["step"] for row in rows if "top1" in row] == [4, 6]  # an epoch is 3.75 steps
        assert all("train_top1" in row for row in rows)

    def test_interrupted_and_resumed_equals_uninterrupted(
        self,
        finetuning: FinetuneConfig,
        tmp_path: Path,
        train_run: Train,
        read_losses: ReadLosses,
        read_scores: ReadScores,
    ) -> None:
        whole = finetuning.replace(storage=str(tmp_path / "whole"))
        train_run(open_finetuning(whole))
        with pytest.raises(InterruptedError):
            train_run(open_finetuning(finetuning), interrupt_at=5)
        train_run(open_finetuning(finetuning))
        assert read_losses(finetuning) == read_losses(whole)
        assert read_scores(finetuning) == read_scores(whole)
        for name, value in weights(whole).items():
            assert torch.equal(weights(finetuning)[name], value), name

    def test_two_workers_learn_and_score_as_one(
        self,
        finetuning: FinetuneConfig,
        tmp_path: Path,
        train_run: Train,
        train_as_two: Callable[..., None],
        read_losses: ReadLosses,
        read_scores: ReadScores,
    ) -> None:
        train_run(open_finetuning(finetuning))
        two = finetuning.replace(storage=str(tmp_path / "two"), scaling={"num_workers": 2})
        train_as_two(open_finetuning, two)
        assert read_losses(two) == pytest.approx(read_losses(finetuning), rel=1e-4)
        found = read_scores(two)
        assert found["tested"] == read_scores(finetuning)["tested"] == np.sum(found["confusion"])

    def test_a_test_video_that_cannot_be_read_is_reported_beside_the_score(
        self,
        finetuning: FinetuneConfig,
        video_folder: Callable[..., Path],
        tmp_path: Path,
        train_run: Train,
        read_scores: ReadScores,
    ) -> None:
        for number, path in enumerate(sorted(video_folder(good=6, bad=1).glob("*.mp4"))):
            part = "test" if path.stem in {"bad0", "good0", "good1"} else "train"
            place = tmp_path / part / "ab"[number % 2] / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        config = finetuning.replace(
            data={"uri": str(tmp_path / "train"), "test_uri": str(tmp_path / "test")}
        )
        train_run(open_finetuning(config))
        found = read_scores(config)
        assert found["tested"] == 2
        assert [Path(entry["video_id"]).name for entry in found["quarantined"]] == ["bad0.mp4"]
        assert b"bad0.mp4" in folder_of(config).join(QUARANTINE).read_bytes()

    @pytest.mark.parametrize("protocol", ["linear", "attentive"])
    def test_a_probe_does_not_change_the_encoder(
        self, protocol: str, finetuning: FinetuneConfig, tmp_path: Path, train_run: Train
    ) -> None:
        encoder = R3d(TINY.replace(spatial_stride=8))
        encoder.clip_format = finetuning.clip_format.replace(num_frames=12)
        file = tmp_path / "encoder.safetensors"
        file.write_bytes(encoder_bytes(encoder, {}))
        config = finetuning.replace(initial=str(file), protocol=protocol)
        train_run(open_finetuning(config))
        learnt = weights(config)
        for name, value in encoder.state_dict().items():
            assert torch.equal(learnt[f"encoder.{name}"], value), name
        # its record, too
        assert load_encoder(folder_of(config).uri).clip_format == encoder.clip_format
        probe = [name for name in learnt if not name.startswith("encoder.")]
        assert any(name.startswith("pooler.") for name in probe) == (protocol == "attentive")


def test_the_encoder_is_built_at_the_downstream_stride() -> None:
    config = FinetuneConfig.model_validate({"encoder": {"name": "r3d", "width": 8}})
    assert resolve(config).encoder == R3dConfig(width=8, spatial_stride=16)
    assert FinetuneConfig.model_validate_json(config.model_dump_json()) == config


def test_a_run_folder_means_its_encoder(tmp_path: Path) -> None:
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(encoder_bytes(R3d(TINY.replace(norm_eps=0.01, spatial_stride=8)), {}))
    config = resolve(FinetuneConfig(initial=str(tmp_path)))
    assert config.initial == str(file)
    assert config.encoder == TINY.replace(norm_eps=0.01)
