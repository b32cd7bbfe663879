"""How fast raw video is curated, by its size, beside PySceneDetect alone."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, detect

from ctp.bench.config import BenchConfig
from ctp.bench.timing import Figures, Timing
from ctp.build.transcode import VideoEncoder
from ctp.curation.config import CutsConfig
from ctp.curation.timeline import DECODER_OPTIONS, measure_video
from ctp.data.catalog import Catalog
from ctp.data.sources import open_catalog
from ctp.video.decode import VideoReader
from ctp.video.sequence import open_sequence

RATE = 25
MAX_SHOT_FRAMES = 100
MAX_REPEATS = 3
UNIT = "hours/h"


def measure_curation(config: BenchConfig) -> list[Figures]:
    """Measure the hours of video that a core measures, and encodes, in an hour.

    The video of each size shows the first frames of the videos of `config.data`, one after the
    other, as H.264.

    Returns:
        figures for each size. PySceneDetect finds cuts and nothing else.
    """
    catalog = open_catalog(config.data.uri)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw.mp4"
        sizes = [(round(height * 8 / 9) * 2, height) for height in config.curate.heights_px]
        return [_measure_size(config, catalog, path, size) for size in sizes]


def _measure_size(
    config: BenchConfig, catalog: Catalog, path: Path, size: tuple[int, int]
) -> Figures:
    num_frames = _write_video(path, catalog, size, round(config.curate.seconds * RATE))
    data = path.read_bytes()
    works: dict[str, Callable[[], object]] = {
        "measure": lambda: _measure(data),
        "encode": lambda: _encode(data, config),
        "detect": lambda: detect(str(path), AdaptiveDetector()),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(min(config.repeats, MAX_REPEATS)):
        for name, work in works.items():
            taken[name].append(_cpu_seconds(work))
    seconds = num_frames / RATE
    hours = {
        name: Timing(name, UNIT, tuple(seconds / each for each in times))
        for name, times in taken.items()
    }
    return {
        "size": f"{size[0]}×{size[1]}",
        "measure": hours["measure"],
        "encode": hours["encode"],
        "PySceneDetect": hours["detect"],
        "ratio": hours["measure"].ratio(hours["detect"]),
    }


def describe_curation(figures: Figures) -> str:
    """Return what curating costs at a size, in a sentence."""
    per_hour = sum(1 / figures[name].median for name in ("measure", "encode"))
    return (
        f"Curating an hour of {figures['size']} takes {60 * per_hour:.1f} minutes of a core: "
        f"{60 / figures['measure'].median:.1f} to measure it, and "
        f"{60 / figures['encode'].median:.1f} to encode all of it"
    )


def _measure(data: bytes) -> None:
    with open_sequence(io.BytesIO(data), codec_options=DECODER_OPTIONS) as sequence:
        measure_video(sequence.frames(), CutsConfig())


def _encode(data: bytes, config: BenchConfig) -> None:
    with (
        open_sequence(io.BytesIO(data)) as sequence,
        VideoEncoder(config.transcode, Fraction(1, RATE)) as encoder,
    ):
        for each in sequence.frames():
            encoder.add(each.number, each.frame, each.number)
        encoder.finish()


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of a piece of work, of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _write_video(path: Path, catalog: Catalog, size: tuple[int, int], num_frames: int) -> int:
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "21"}
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for picture in islice(_pictures(catalog, size), num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return num_frames


def _pictures(catalog: Catalog, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the first frames of each video, enlarged, without end."""
    for entry in cycle(catalog):
        with VideoReader(entry.read()) as reader:
            numbers = range(min(reader.num_frames, MAX_SHOT_FRAMES))
            for frame in reader.read(numbers, short_side_px=min(size[1], 240)):
                yield np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC))
