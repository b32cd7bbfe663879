"""`jobs/report.py` and `jobs/gradcam.py` on runs that are really trained, if only for six steps."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from ctp.downstream.classification import Finetuning
from ctp.downstream.config import FinetuneConfig
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretrain import Pretraining
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.claim import open_run, run_storage
from ctp.training.distributed import Worker
from ctp.training.maker import local_stream
from ctp.training.trainer import run


def trained(job: Any) -> Storage:
    """The folder of a run, after it is done."""
    open_run(job.config)
    run(job, Worker(), lambda maker, first_clip: local_stream(maker, first_clip, 0, 1))
    return run_storage(job.config)


def test_runs_on_one_page(
    small_run: PretrainConfig,
    finetuning: FinetuneConfig,
    load_job: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretrained = trained(Pretraining.of(small_run))
    finetuned = trained(Finetuning.of(finetuning))
    initial = pretrained.join(run_folder.ENCODER).uri
    further = trained(Finetuning.of(finetuning.replace(name="further", initial=initial)))
    broken = finetuning.replace(name="broken")
    open_run(broken)
    runs = ",".join(folder.uri for folder in (pretrained, finetuned, further, run_storage(broken)))
    load_job("report").main(["--runs", runs, "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "report.html").read_text()
    assert capsys.readouterr().out.strip().endswith("report.html")
    rows = run_folder.read_metrics(pretrained)
    iou = next(row["iou"] for row in reversed(rows) if "iou" in row)
    source = f"{pretrained.join('metrics.jsonl').uri}, step 6"
    assert f"{100 * iou:.1f}<td class=faint>{source}" in page
    top1 = [row["top1"] for row in run_folder.read_metrics(finetuned) if "top1" in row][-1]
    assert f"{100 * top1:.1f}<td class=faint>{finetuned.join('scores.json').uri}" in page
    assert "not finished: at step 0" in page
    assert "sampling.num_frames: 16 in the paper&#x27;s recipe, 4 here" in page
    assert "65.0" not in page  # the paper has no number for the corpus
    for title in ("Accuracy by initial weights", "Training and test curves by initial weights"):
        assert f"<h2>{title}" in page
    assert f"<th>pretrained<td>{initial}" in page


def test_a_papers_data_set_has_the_papers_numbers_beside_it(
    finetuning: FinetuneConfig, load_job: Callable[[str], Any], tmp_path: Path
) -> None:
    folder = trained(Finetuning.of(finetuning))
    place = folder.join("config.yaml")
    place.write_bytes(place.read_bytes().replace(b"corpus:24", b"s3://b/ucf101/train"))
    options = ["--runs", folder.uri, "--format", "markdown", "--out", str(tmp_path / "page")]
    load_job("report").main(options)
    text = (tmp_path / "page" / "report.md").read_text()
    assert "| paper, CtP, Kinetics-400 |" in text
    assert re.search(r"\| 86\.2 \| Table 3, R3D-18 \|", text)


def test_where_a_classifier_looks(
    finetuning: FinetuneConfig,
    load_job: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [
        trained(Finetuning.of(finetuning.replace(name=name, seed=seed, data=finetuning.data)))
        for name, seed in (("first", 0), ("second", 0))
    ]
    job, out = load_job("gradcam"), tmp_path / "maps"
    runs = ",".join(folder.uri for folder in folders)
    job.main(["--runs", runs, "--num_videos", "2", "--out", str(out)])
    with Image.open(io.BytesIO((out / "gradcam.png").read_bytes())) as picture:
        assert picture.width > 4 * 160
    with av.open(str(out / "gradcam.mp4")) as video:
        assert next(video.decode(video=0)).width > 0
    capsys.readouterr()
    for options, message in (
        ([], "--runs is missing"),
        (["--runs", str(tmp_path / "nothing")], "is no run folder"),
        (["--runs", folders[0].uri, "--target", "flight"], "no class 'flight'; there are "),
    ):
        with pytest.raises(SystemExit, match=message):
            job.main([*options, "--out", str(out)])
