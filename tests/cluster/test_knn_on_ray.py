"""A run from Python, and kNN scores beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import ctp
from ctp.cluster.knn import knn_features
from ctp.cluster.local import schedulable_cpus
from ctp.data.stream import load_here
from ctp.downstream.config import LabeledVideosConfig
from ctp.downstream.knn import knn_score
from ctp.downstream.labels import open_labeled
from ctp.pretext.config import PretrainConfig
from ctp.storage import Storage
from ctp.training.run_folder import read_config

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


def test_a_run_from_python_whose_snapshots_are_scored_at_epoch_ends(
    small_run: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    # 30 videos to train on, 4 clips a step: epochs end within steps 8 and 15, the run with 17
    config = small_run.replace(
        recipe="tiny",
        data={"uri": "corpus:40", "heldout_share": 0.25},
        schedule={"unit": "steps", "length": 17, "decay_at": ()},
        evaluation={"num_clips": 6, "every_steps": 17},
        knn={"uri": "corpus:24", "every_epochs": 1},
        scaling={"cpus_per_worker": 0.25, "num_workers": "auto", "num_actors": "auto"},
    )
    folder = Path(config.storage) / config.name
    damaged = folder / "snapshots" / "00000001.safetensors"  # of an earlier start, say
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(safetensors.torch.save({"conv": torch.zeros(1)}))
    run = ctp.pretrain(**config.model_dump())
    assert run.folder == str(folder)
    assert run.metrics[-1]["step"] == 17
    assert 0 <= run.scores["iou"] <= 1
    stored = read_config(Storage.from_uri(run.folder), PretrainConfig).scaling
    assert (stored.num_workers, stored.num_actors) == (1, schedulable_cpus() - 1)
    ours, theirs = run.load_encoder().state_dict(), ctp.load_encoder(run.folder).state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    rows = [json.loads(line) for line in (folder / "knn.jsonl").read_text().splitlines()]
    assert [(row["step"], row["clips"]) for row in rows] == [(8, 32), (15, 60), (17, 68)]
    assert list(damaged.parent.iterdir()) == [damaged]
    out = capsys.readouterr().out
    assert "kNN accuracy after step 17" in out
    assert "step 1 has no kNN score: " in out

    labeled = open_labeled(LabeledVideosConfig(uri="corpus:24", test_share=0.25), config.seed)
    encoder = (folder / "encoder.safetensors").read_bytes()
    expected = knn_score(encoder, knn_features(config), labeled, 5, load_here)
    assert expected["knn_tested"] == len(labeled.test)
    assert {name: rows[-1][name] for name in expected} == expected
