"""Damaged videos: each is used or refused with a reason, whatever is damaged and in which format.

`CTP_FUZZ_FILES=10000 pytest -s tests/video/test_fuzz.py` tries more files and prints the figures.
The files are decoded by processes of their own, as in a job, since a file may end its decoder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]
Outcome = dict[str, Any]

NUM_FILES = int(os.environ.get("CTP_FUZZ_FILES", "500"))
NUM_PROCESSES = 2
MAX_SECONDS_PER_VIDEO = 10
MAX_ATTEMPTS = 3
"""The journal blames a video when it has ended two processes; the third one refuses it."""
WORKER = str(Path(__file__).with_name("fuzz_worker.py"))
RECORD_FOLDER = str(Path(__file__).parents[1] / "data")

GOPS = {"g": "8", "bf": "2"}
PREDICTED = {"g": "8"}
KINDS: dict[str, dict[str, Any]] = {
    "mp4": {"options": GOPS},
    "mp4, fragmented": {
        "options": GOPS,
        "format_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "mp4, H.265": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=8:bframes=2:log-level=none:pools=1"},
    },
    "mp4, index first, 10 bit": {
        "options": GOPS,
        "pix_fmt": "yuv420p10le",
        "format_options": {"movflags": "faststart"},
    },
    "mp4, rotated": {"codec": "mpeg4", "options": GOPS, "rotation": 90},
    "mov, ProRes": {"format": "mov", "codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "3gp": {"format": "3gp", "codec": "mpeg4", "options": PREDICTED},
    "mkv": {"format": "matroska", "options": GOPS},
    "mkv, FFV1": {"format": "matroska", "codec": "ffv1"},
    "webm, VP8": {"format": "webm", "codec": "libvpx", "options": PREDICTED},
    "webm, VP9": {
        "format": "webm",
        "codec": "libvpx-vp9",
        "options": PREDICTED | {"cpu-used": "8", "deadline": "realtime"},
    },
    "ivf": {"format": "ivf", "codec": "libvpx", "options": PREDICTED},
    "avi": {"format": "avi", "codec": "mpeg4", "options": GOPS},
    "avi, H.264": {"format": "avi", "options": GOPS},
    "avi, motion JPEG": {"format": "avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ts": {"format": "mpegts", "options": GOPS},
    "ts, MPEG-2": {"format": "mpegts", "codec": "mpeg2video", "options": GOPS},
    "mpg": {"format": "mpeg", "codec": "mpeg1video", "options": GOPS},
    "vob": {"format": "vob", "codec": "mpeg2video", "options": GOPS},
    "wmv": {"format": "asf", "codec": "wmv2", "options": PREDICTED},
    "flv": {"format": "flv", "options": GOPS},
    "flv, Sorenson": {"format": "flv", "codec": "flv1", "options": PREDICTED},
    "ogg": {"format": "ogg", "codec": "libvpx", "options": PREDICTED},
    "nut": {"format": "nut", "codec": "mpeg4", "options": GOPS},
    "mxf": {"format": "mxf", "codec": "mpeg2video", "options": PREDICTED},
    "gif": {"format": "gif", "codec": "gif", "pix_fmt": "rgb8"},
    "bare H.264": {"format": "h264", "options": GOPS},
    "bare H.265": {
        "format": "hevc",
        "codec": "libx265",
        "options": {"x265-params": "keyint=8:log-level=none:pools=1"},
    },
    "bare MPEG-4": {"format": "m4v", "codec": "mpeg4", "options": GOPS},
    "bare motion JPEG": {"format": "mjpeg", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "y4m": {"format": "yuv4mpegpipe", "codec": "wrapped_avframe"},
}


@pytest.fixture(scope="module")
def whole_files(
    tmp_path_factory: pytest.TempPathFactory,
    encode_video: Encode,
    paint_number: Callable[..., np.ndarray],
) -> Path:
    """A folder of videos of all kinds and of pictures."""
    folder = tmp_path_factory.mktemp("whole")
    for name, kind in KINDS.items():
        (folder / name).write_bytes(encode_video(20, **kind))
    for number, format in enumerate(("jpeg", "jpeg", "jpeg", "png", "gif", "webp", "tiff", "bmp")):
        buffer = BytesIO()
        Image.fromarray(paint_number(number)).save(buffer, format)
        # a decoder of pictures goes by the content, too
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
    return folder


def outcomes_of(folder: Path, losses_address: str, seeds: range) -> list[Outcome]:
    """Return the outcomes of damaged files; "failed" is one that ended its process otherwise."""
    outcomes: list[Outcome] = []
    attempts: Counter[int] = Counter()
    actor = uuid.uuid4().hex  # these processes replace each other
    while len(outcomes) < len(seeds):
        seed = seeds[len(outcomes)]
        attempts[seed] += 1
        arguments = (folder, losses_address, actor, MAX_SECONDS_PER_VIDEO, seed, seeds.stop)
        done = subprocess.run(
            [sys.executable, WORKER, *map(str, arguments)],
            capture_output=True, text=True, errors="replace", check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([RECORD_FOLDER, *sys.path])},
        )  # fmt: skip
        outcomes += map(json.loads, done.stdout.splitlines())
        seed = seeds[len(outcomes)] if len(outcomes) < len(seeds) else seed
        if len(outcomes) < len(seeds) and (done.returncode > 0 or attempts[seed] == MAX_ATTEMPTS):
            reason = done.stderr or f"exit status {done.returncode}"
            outcomes.append({"seed": seed, "outcome": "failed", "reason": reason})
    return outcomes


def test_each_damaged_file_is_used_or_refused_with_a_reason(
    whole_files: Path, losses_address: str
) -> None:
    step = -(-NUM_FILES // NUM_PROCESSES)
    parts = [range(start, min(start + step, NUM_FILES)) for start in range(0, NUM_FILES, step)]
    with ThreadPoolExecutor(NUM_PROCESSES) as pool:
        found = pool.map(partial(outcomes_of, whole_files, losses_address), parts)
        outcomes = [outcome for part in found for outcome in part]
    failed = [outcome for outcome in outcomes if outcome["outcome"] == "failed"]
    assert not failed, f"{len(failed)} failed, the first is {failed[0]}"
    assert [outcome["seed"] for outcome in outcomes] == list(range(NUM_FILES))
    refused = [outcome["reason"] for outcome in outcomes if outcome["outcome"] == "refused"]
    assert all(refused)
    blamed = sum("the process that decoded it" in reason for reason in refused)
    print(f"\n{NUM_FILES} files: {NUM_FILES - len(refused)} used, {len(refused)} refused, {blamed} "
          "of them for the end of a process")  # fmt: skip
    for reason, number in Counter(reason.split(":")[0] for reason in refused).most_common(25):
        print(f"{number:6} {reason}")
    # damage of both kinds: none of the outcomes is due to all files being whole, or none
    assert NUM_FILES / 10 < len(refused) < NUM_FILES * 9 / 10
