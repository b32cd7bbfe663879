"""`jobs/report.py` and `jobs/gradcam.py` on runs that are really trained, if only for six steps."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from ctp.downstream.classification import open_finetuning
from ctp.downstream.config import FinetuneConfig
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.score import format_share
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.run_folder import create_or_resume, folder_of
from ctp.training.trainer import TrainingSpec

Train = Callable[[TrainingSpec[Any]], Storage]


@pytest.fixture
def trained(train_alone: Callable[[TrainingSpec[Any]], None]) -> Train:
    """`trained(spec)`: the folder of a run after its end."""

    def train(spec: TrainingSpec[Any]) -> Storage:
        create_or_resume(spec.config)
        train_alone(spec)
        return folder_of(spec.config)

    return train


def test_runs_on_one_page(
    trained: Train,
    small_run: PretrainConfig,
    finetuning: FinetuneConfig,
    load_job: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretrained = trained(open_pretraining(small_run))
    finetuned = trained(open_finetuning(finetuning))
    initial = pretrained.join(run_folder.ENCODER).uri
    further = trained(open_finetuning(finetuning.replace(name="further", initial=initial)))
    broken = finetuning.replace(name="broken")
    create_or_resume(broken)
    runs = ",".join(folder.uri for folder in (pretrained, finetuned, further, folder_of(broken)))
    load_job("report").main(["--runs", runs, "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "report.html").read_text()
    path = tmp_path / "page" / "report.html"
    assert capsys.readouterr().out.splitlines()[-2:] == [
        str(path), f"next: python -m webbrowser {path}"
    ]  # fmt: skip
    cells = [re.findall("<td[^>]*>([^<]*)", line) for line in page.splitlines()]
    rows = run_folder.read_metrics(pretrained)
    iou = small_run.score.describe_value(next(r for r in reversed(rows) if "iou" in r))
    assert " ± " in iou
    source = "run/metrics.jsonl, step 6"
    assert ["ours", "tracking IoU of 6 clips", iou, source] in cells
    top1 = [row["top1"] for row in run_folder.read_metrics(finetuned) if "top1" in row][-1]
    tested = json.loads(finetuned.join("scores.json").read_bytes())["tested"]
    value = format_share(top1, tested)
    assert ["ours", f"top-1 of {tested} videos", value, "ft/scores.json"] in cells
    assert next(row[3] for row in cells if row[1:2] == ["finetune"]) == "chance 10.0%"
    # the page can be sent to others, who have none of these folders
    assert str(tmp_path) not in page
    assert "not finished, at step 0" in page
    assert "sampling, number of frames: 4 here, 16 in the paper" in page
    assert "paper, " not in page, "the paper has no number for the corpus"
    for title in ("Accuracy by initial weights", "Training and test curves by initial weights"):
        assert f"<h2>{title}" in page
    assert "<th>pretrained<td>run/encoder.safetensors" in page


def test_a_papers_data_set_has_the_papers_numbers_beside_it(
    trained: Train, finetuning: FinetuneConfig, load_job: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = trained(open_finetuning(finetuning))
    place = folder.join("config.yaml")
    place.write_bytes(place.read_bytes().replace(b"corpus:24", b"s3://b/ucf101/train"))
    load_job("report").main(["--runs", folder.uri, "--out", str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    cells = [re.findall("<td[^>]*>([^<]*)", line) for line in page.splitlines()]
    (row,) = [r for r in cells if r[:1] == ["paper, CtP, Kinetics-400"] and r[-1][:7] == "Table 3"]
    assert row[2:] == ["86.2%", "Table 3, R3D-18"]


def test_where_a_classifier_looks(
    trained: Train,
    finetuning: FinetuneConfig,
    load_job: Callable[[str], Any],
    encode_video: Callable[..., bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [
        trained(open_finetuning(finetuning.replace(name=name))) for name in ("first", "second")
    ]
    job, out = load_job("gradcam"), tmp_path / "maps"
    runs = ",".join(folder.uri for folder in folders)
    job.main(["--runs", runs, "--num_videos", "2", "--out", str(out)])
    with Image.open(io.BytesIO((out / "gradcam.png").read_bytes())) as picture:
        assert picture.width > 4 * 160
        assert picture.width * 9 == picture.height * 16
    with av.open(str(out / "gradcam.mp4")) as video:
        assert next(video.decode(video=0)).width > 0
    assert "warning" not in capsys.readouterr().out
    (tmp_path / "videos" / "flight").mkdir(parents=True)
    (tmp_path / "videos" / "flight" / "a.mp4").write_bytes(encode_video(20))
    job.main(["--runs", folders[0].uri, "--uri", str(tmp_path / "videos"), "--out", str(out)])
    warning = "warning: 1 of 1 videos are of classes that the runs do not know: 'flight'"
    assert warning in capsys.readouterr().out
    for options, message in (
        ([], "--runs is missing"),
        (["--runs", str(tmp_path / "nothing")], "no run .*nothing"),
        (["--runs", folders[0].uri, "--target", "flight"], "no class 'flight'; expected one of "),
        (["--runs", folders[0].uri, "--uri", "nothing"], "^error: uri: there is no 'nothing'"),
    ):
        with pytest.raises(SystemExit, match=message):
            job.main([*options, "--out", str(tmp_path / "failed")])
    assert not (tmp_path / "failed").exists()
