"""Videos that crash or hang the decoder, in every kind of job on Ray.

No file is known that crashes the decoder of every version. Instead, all processes of a job start
with a `sitecustomize` that fails by signal, or hangs, when it is to open a marked file.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp.data.quarantine import QuarantinedVideo
from ctp.downstream.feature_folder import Counts, read_features

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FAULTS = """
import av, ctypes, os, shutil, signal, tempfile, time

av_open = av.open

def log(fault):
    with open(os.environ["FAULTS_LOG"], "a") as file:
        file.write(fault + "\\n")

def open_faulty(file, *args, **options):
    data = file.getvalue() if hasattr(file, "getvalue") else b""
    if data.endswith(b"crash"):
        log("crash")
        ctypes.string_at(0)  # in this thread, as a decoder does
    if data.endswith(b"hang!"):
        log("hang!")
        time.sleep(3600)
    if data.endswith(b"large"):  # the container is ended for lack of memory, with its files
        log("large")
        shutil.rmtree(os.path.join(tempfile.gettempdir(), f"ctp-journal-{os.getuid()}"))
        os.kill(os.getpid(), signal.SIGKILL)
    return av_open(file, *args, **options)

av.open = open_faulty
"""
LIMIT_SECONDS = 5.0
SMALL = Path(__file__).with_name("small.yaml")
ENCODER = {"architecture.width": 4, "encoder": "random", "features.pooling": "max"}
VIEWS = {"num_clips": 1, "num_frames": 4, "frame_size_px": 32, "short_side_px": 40}


@pytest.fixture(scope="module")
def videos(
    tmp_path_factory: pytest.TempPathFactory, encode_video: Callable[..., bytes]
) -> tuple[Path, Path]:
    """Folders of videos to train and to evaluate on; some end the process that opens them, and one
    is text."""
    root = tmp_path_factory.mktemp("videos")
    for folder, faults in (
        ("train", {3: b"crash", 6: b"hang!", 8: b"large"}),
        ("heldout", {1: b"crash"}),
    ):
        for number in range(9 if folder == "train" else 4):
            # av.open, which fails, is not called for every MP4 file
            data = encode_video(20, width=64 + 2 * number, height=48, format="matroska")
            marker = faults.get(number, b"")
            if marker:  # an element that players skip
                data += b"\xec" + bytes([0x80 | len(marker)]) + marker
            path = root / folder / f"class{number % 2}" / f"{number}.mkv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (root / "train" / "class0" / "text.mkv").write_text("this is text")
    return root / "train", root / "heldout"


@pytest.fixture
def run_job(tmp_path: Path, finish_job: Callable[..., str]) -> Callable[..., str]:
    (tmp_path / "sitecustomize.py").write_text(FAULTS)

    def run(job: str, options: dict[str, object]) -> str:
        return finish_job(
            job,
            [f"--{name}={value}" for name, value in options.items()],
            PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]),
            FAULTS_LOG=str(tmp_path / "faults.log"),
        )

    return run


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[], Counter[str]]:
    """How often each fault has ended a process."""
    return lambda: Counter((tmp_path / "faults.log").read_text().split())


def quarantined(ledger: Path) -> dict[str, str]:
    """File name of each quarantined video -> reason."""
    lines = ledger.read_text().splitlines()
    entries = [QuarantinedVideo(**json.loads(line)) for line in lines]
    return {Path(entry.uri).name: entry.reason for entry in entries}


CRASHED = "crashed (Segmentation fault), 2 times"
HUNG = f"took longer than {LIMIT_SECONDS:g} s, 2 times"
OUT_OF_MEMORY = "was killed, perhaps out of memory"
TEXT = "cannot be opened as a video"


def test_a_pretraining_quarantines_them(
    videos: tuple[Path, Path],
    run_job: Callable[..., str],
    faults: Callable[[], Counter[str]],
    tmp_path: Path,
) -> None:
    """Two evaluations share what they learn: the held-out video ends two processes, not four."""
    train, heldout = videos
    options = {
        "config": SMALL, "storage": tmp_path / "runs", "name": "run", "schedule.length": 8,
        "data.uri": train, "data.heldout_uri": heldout, "data.heldout_share": 0,
        "data.max_seconds_per_video": LIMIT_SECONDS, "data.max_quarantined_share": 0.5,
        # one actor: another one may try a video before it is known to have ended the first
        "evaluation.every_steps": 4, "scaling.num_workers": 1, "scaling.num_actors": 1,
    }  # fmt: skip
    printed = run_job("pretrain.py", options)
    assert "5 file(s) or video(s) could not be used" in printed
    folder = tmp_path / "runs" / "run"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert (folder / "encoder.safetensors").exists()
    found = quarantined(folder / "quarantine.jsonl")
    # the first is a held-out video
    assert found.keys() == {"1.mkv", "3.mkv", "6.mkv", "8.mkv", "text.mkv"}
    assert CRASHED in found["1.mkv"]
    assert CRASHED in found["3.mkv"]
    assert HUNG in found["6.mkv"]
    assert OUT_OF_MEMORY in found["8.mkv"]
    assert TEXT in found["text.mkv"]
    assert faults() == {"crash": 4, "hang!": 2, "large": 2}


def test_an_embedding_quarantines_them(
    videos: tuple[Path, Path],
    run_job: Callable[..., str],
    load_job: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command again finds all features."""
    options = ENCODER | {f"views.{name}": value for name, value in VIEWS.items()} | {
        "data.uri": videos[0], "data.max_seconds_per_video": LIMIT_SECONDS,
        "out": tmp_path / "features", "videos_per_part": 4,
    }  # fmt: skip
    printed = run_job("embed.py", options)
    assert "10 videos, 1 clips of each, encoder " in printed
    assert "10/10 videos" in printed
    assert "6 videos, 6 features, 4 quarantined" in printed
    assert "class0/text.mkv: " in printed
    found = quarantined(tmp_path / "features" / "_quarantine.jsonl")
    assert found.keys() == {"3.mkv", "6.mkv", "8.mkv", "text.mkv"}
    assert CRASHED in found["3.mkv"]
    assert HUNG in found["6.mkv"]
    assert OUT_OF_MEMORY in found["8.mkv"]
    assert TEXT in found["text.mkv"]
    manifest, features = read_features(str(tmp_path / "features"))
    assert len(features.ids) == 6
    assert manifest.counts == Counts(videos=6, clips=6, quarantined=4)
    # no cluster is started
    load_job("embed").main([f"--{name}={value}" for name, value in options.items()])
    assert "3 of them are done" in capsys.readouterr().out


def test_a_build_quarantines_them(
    videos: tuple[Path, Path], run_job: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    options = {"source": videos[0], "out": out, "num_shards": 2, "video_seconds": LIMIT_SECONDS}
    printed = run_job("build_shards.py", options)
    manifest = json.loads((out / "_manifest.json").read_text())
    assert manifest["videos"] == 6
    for reason in (CRASHED, HUNG, OUT_OF_MEMORY, TEXT):
        assert reason in printed
