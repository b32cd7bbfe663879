"""kNN scores beside a run, through the job as its user starts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ctp.cluster.knn import knn_features
from ctp.data.stream import load_here
from ctp.downstream.config import LabeledVideosConfig
from ctp.downstream.knn import knn_score
from ctp.downstream.labels import open_labeled
from ctp.pretext.config import PretrainConfig

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


def test_snapshots_are_scored_at_epoch_ends_and_damaged_ones_are_kept(
    small_run: PretrainConfig,
    load_job: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # 30 videos to train on, 4 clips a step: epochs end within steps 8 and 15, the run with 17
    config = small_run.replace(
        data={"uri": "corpus:40", "heldout_share": 0.25},
        schedule={"unit": "steps", "length": 17, "decay_at": ()},
        knn={"uri": "corpus:24", "every_epochs": 1},
        scaling={"cpus_per_worker": 0.25},
    )
    folder = Path(config.storage) / config.name
    damaged = folder / "snapshots" / "00000001.safetensors"  # of an earlier start, say
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(safetensors.torch.save({"conv": torch.zeros(1)}))
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json())  # JSON is YAML
    load_job("pretrain").main(["--config", str(file)])
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
