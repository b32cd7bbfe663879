"""Compare a clip of a long file that is read whole with one that is read in parts."""

from __future__ import annotations

import io
import math
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Any

import av

from ctp.bench.config import BenchConfig
from ctp.bench.ingest import temporary_folder, usable_videos
from ctp.bench.timing import Case, Figures, measure
from ctp.data.catalog import LONG_BYTES, VideoEntry
from ctp.data.reading import VideoOpener
from ctp.rng import generator
from ctp.storage import BYTES_READ
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import Crop

WIDTH, HEIGHT, FRAMES_PER_SECOND = 320, 240, 25
BITS_PER_SECOND = 480_000
SHOT_FRAMES = 1500
"""Frames that are encoded; the file repeats them."""
NUM_FRAMES, INTERVAL_FRAMES, SIZE_PX = 16, 4, 112
MIB = 2**20

Open = Callable[[VideoEntry], AbstractContextManager[VideoReader]]


def measure_long(config: BenchConfig) -> list[Figures]:
    """Measure clips of one long MP4 file, which is made of the videos of `data.uri`.

    Raises:
        ValueError: no video can be used, or the file is too short to be read in parts.
    """
    data = make_film(usable_videos(config.data.uri), config.long.minutes)
    if len(data) < LONG_BYTES:
        raise ValueError(
            f"long.minutes: {config.long.minutes:g} minutes take {len(data) / MIB:.1f} MiB. "
            f"Files of less than {LONG_BYTES / MIB:.0f} MiB are read whole; choose more minutes"
        )
    with temporary_folder(config.store) as folder:
        file = folder.join("film.mp4")
        file.write_bytes(data)
        entry = VideoEntry("film", file.uri, size=len(data))
        ways: dict[str, Open] = {
            "read whole": lambda entry: VideoReader(entry.read()),
            "read in parts": lambda entry: VideoOpener().open(entry),
        }
        firsts = [_first_ms(entry, open_video) for open_video in ways.values()]
        cases = [
            Case(name, _Clips(entry, open_video, config.clips_per_repeat), config.clips_per_repeat)
            for name, open_video in ways.items()
        ]
        timings = measure(cases, config.repeats)
        costs = [_cost(entry, open_video) for open_video in ways.values()]
    whole = timings[0]
    return [
        {
            "way": timing.name,
            "ms": timing,
            "× read whole": timing.ratio(whole),
            "MiB read": num_bytes / MIB,
            "memory, MiB": memory_bytes / MIB,
            "first, ms": first_ms,
            "file, MiB": len(data) / MIB,
        }
        for timing, first_ms, (num_bytes, memory_bytes) in zip(timings, firsts, costs, strict=True)
    ]


def describe_long(figures: Sequence[Figures]) -> str:
    """Return a sentence on what reading in parts saves."""
    whole, parts = figures
    return (
        f"A clip of an MP4 file of {parts['file, MiB']:,.0f} MiB takes {parts['ms'].median:.1f} ms "
        f"and reads {parts['MiB read']:.2f} MiB; read whole, it takes {whole['ms'].median:.1f} ms."
    )


def make_film(videos: Sequence[EncodedVideo], minutes: float) -> bytes:
    """Return an MP4 file of H.264 that repeats the pictures of videos."""
    shot = io.BytesIO()
    with av.open(shot, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.bit_rate = WIDTH, HEIGHT, BITS_PER_SECOND
        encoder = _Encoder(container, stream)
        for video in videos:
            with VideoReader(video) as reader:
                reader.decode(range(min(reader.num_frames, encoder.left)), encoder.add)
        container.mux(stream.encode(None))
    return _repeated(shot.getvalue(), encoder.count, round(minutes * 60 * FRAMES_PER_SECOND))


class _Encoder:
    def __init__(self, container: Any, stream: Any):
        self._container, self._stream, self.count = container, stream, 0

    @property
    def left(self) -> int:
        """Return how many frames may still be added."""
        return SHOT_FRAMES - self.count

    def add(self, _: int, frame: av.VideoFrame) -> None:
        """Encode a frame."""
        scaled = frame.reformat(WIDTH, HEIGHT, "yuv420p")
        scaled.pts, scaled.time_base = self.count, Fraction(1, FRAMES_PER_SECOND)
        self._container.mux(self._stream.encode(scaled))
        self.count += 1


def _repeated(shot: bytes, shot_frames: int, num_frames: int) -> bytes:
    """Return a file with the packets of `shot` again and again."""
    film = io.BytesIO()
    with av.open(io.BytesIO(shot), "r") as source, av.open(film, "w", format="mp4") as container:
        [old] = source.streams.video
        assert old.time_base is not None
        duration = int(shot_frames / FRAMES_PER_SECOND / old.time_base)
        packets: list[Any] = [packet for packet in source.demux(old) if packet.size]
        stream = container.add_stream_from_template(old)
        for number in range(math.ceil(num_frames / shot_frames)):
            for of_shot in packets:
                packet = av.Packet(bytes(of_shot))
                packet.pts = of_shot.pts + number * duration
                packet.dts = of_shot.dts + number * duration
                packet.time_base, packet.is_keyframe = old.time_base, of_shot.is_keyframe
                packet.stream = stream
                container.mux(packet)
    return film.getvalue()


class _Clips:
    """Reads random clips of a video, the same for each way of opening it."""

    def __init__(self, entry: VideoEntry, open_video: Open, count: int):
        self._entry, self._open, self._count = entry, open_video, count

    def __call__(self, repeat: int) -> None:
        for number in range(self._count):
            _read_clip(self._entry, self._open, repeat, number)


def _read_clip(entry: VideoEntry, open_video: Open, repeat: int, number: int) -> None:
    with open_video(entry) as reader:
        rng = generator(0, "long", repeat, number)
        first = int(rng.integers(reader.num_frames - NUM_FRAMES * INTERVAL_FRAMES))
        frames = range(first, first + NUM_FRAMES * INTERVAL_FRAMES, INTERVAL_FRAMES)
        reader.read_square(frames, Crop(1, x=0.5, y=0.5, flip=False), SIZE_PX)


def _first_ms(entry: VideoEntry, open_video: Open) -> float:
    began = time.perf_counter()
    _read_clip(entry, open_video, 0, 0)
    return 1e3 * (time.perf_counter() - began)


def _cost(entry: VideoEntry, open_video: Open) -> tuple[int, int]:
    """Return the bytes that a clip reads, and the most memory that Python and NumPy use for it."""
    tracemalloc.start()
    try:
        BYTES_READ.take()
        _read_clip(entry, open_video, 0, 0)
        return BYTES_READ.take(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
