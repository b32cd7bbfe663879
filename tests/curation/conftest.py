"""Raw videos with planted cuts, slides, credits, stills, darkness, black bars and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ctp.curation.pictures import find_bars
from ctp.data.sources import open_catalog
from ctp.video.decode import VideoReader

RATE = 25
SIZE = 240, 180
"""Width and height of a raw file."""
WORDS = ("people", "who", "walk", "and", "talk", "through", "rooms", "streets", "fields", "doors")
KINDS = (
    "clip",
    "clip",
    "clip",
    "clip",
    "slide",
    "clip",
    "clip",
    "credits",
    "clip",
    "still",
    "dark",
)
"""Kinds of the segments of a raw collection, by turns."""

Frames = NDArray[np.uint8]
"""RGB, [N, h, w, 3]."""


@dataclass(frozen=True)
class Planted:
    """A part of a raw file, and what it is.

    Attributes:
        file: name of the raw file.
        first, end: its frames in the file.
        kind: clip, slide, credits, still or dark.
        clip: name of the clip that it shows, or "".
        bar_px: height of the black bars above and below.
        is_copy: whether an earlier part shows the same clip.
        fades_in: whether it begins with a fade from black.
    """

    file: str
    first: int
    end: int
    kind: str
    clip: str = ""
    bar_px: int = 0
    is_copy: bool = False
    fades_in: bool = False


def make_collection(
    folder: Path, clips: Sequence[str | Path], *, per_file: int, copy_share: float, seed: int = 0
) -> list[Planted]:
    """Write raw files into a folder.

    Args:
        folder: where to.
        clips: the videos to show, each once; URI or path of a source.
        per_file: parts of a file.
        copy_share: share of the clips that are shown again in a later file, encoded otherwise.
        seed: of all that is random.

    Returns:
        what was planted, in the order of files and frames.
    """
    rng = np.random.default_rng(seed)
    parts = list(_draw_parts(clips, copy_share, rng))
    folder.mkdir(parents=True, exist_ok=True)
    planted = []
    for number in range(0, len(parts), per_file):
        name = f"raw{number // per_file:03d}.mp4"
        chosen = parts[number : number + per_file]
        planted += _write_file(
            folder / name, chosen, quality=18 + 5 * (number // per_file % 3), rng=rng
        )
    return planted


def _draw_parts(
    clips: Sequence[str | Path], copy_share: float, rng: np.random.Generator
) -> Iterator[Planted]:
    names = [str(clips[i]) for i in rng.permutation(len(clips))]
    copied = names[: round(copy_share * len(names))]
    left = [*names, *copied]  # so that copies are behind all clips
    shown: set[str] = set()
    number = 0
    while left:
        kind = KINDS[number % len(KINDS)]
        part = Planted("", 0, 0, kind, fades_in=rng.random() < 0.1)
        if kind == "clip":
            clip = left.pop(0)
            bar_px = int(rng.choice([0, 0, 16, 30]))
            part = replace(part, clip=clip, bar_px=bar_px, is_copy=clip in shown)
            shown.add(clip)
        yield part
        number += 1


def _write_file(
    path: Path, parts: Sequence[Planted], quality: int, rng: np.random.Generator
) -> list[Planted]:
    planted, number = [], 0
    with av.open(str(path), "w") as container:
        options = {"preset": "superfast", "crf": str(quality)}
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for part in parts:
            first = number
            for picture in _with_fade(_pictures(part, rng), part):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, number = number, number + 1
                container.mux(stream.encode(frame))
            planted.append(replace(part, file=path.name, first=first, end=number))
        container.mux(stream.encode(None))
    return planted


def _with_fade(frames: Frames, part: Planted) -> Iterator[Frames]:
    for number, frame in enumerate(frames):
        # five black pictures, then ten that become brighter
        share = min(max((number - 4) / 10, 0), 1) if part.fades_in else 1.0
        yield (frame * share).astype(np.uint8)


def _pictures(part: Planted, rng: np.random.Generator) -> Frames:
    length = int(rng.integers(50, 120))
    if part.kind == "slide":
        return np.repeat(_text(length, rng, dark=False)[None], length, 0)
    if part.kind == "credits":
        tall = _text(length, rng, dark=True, height=SIZE[1] + length)
        return np.stack([tall[i : i + SIZE[1]] for i in range(length)])
    if part.kind == "still":
        return np.repeat(_still(rng)[None], length, 0)
    if part.kind == "dark":
        return rng.integers(0, 9, (length, SIZE[1], SIZE[0], 3)).astype(np.uint8)
    return _clip(part)


def _clip(part: Planted) -> Frames:
    [entry] = open_catalog(part.clip)
    with VideoReader(entry.read()) as reader:
        frames = reader.read(range(reader.num_frames), short_side_px=SIZE[1])
    bars = [find_bars(picture.mean(-1).astype(np.uint8)) for picture in frames[::5]]
    # bars that the clip has itself were not planted
    top, bottom, left, right = (max(each[i] or 0 for each in bars) for i in range(4))
    frames = frames[:, top : frames.shape[1] - bottom, left : frames.shape[2] - right]
    height = SIZE[1] - 2 * part.bar_px
    scaled = [Image.fromarray(each).resize((SIZE[0], height)) for each in frames]
    edges = ((0, 0), (part.bar_px, part.bar_px), (0, 0), (0, 0))
    return np.pad(np.stack([np.asarray(each) for each in scaled]), edges)


def _text(length: int, rng: np.random.Generator, *, dark: bool, height: int = SIZE[1]) -> Frames:
    picture = Image.new("RGB", (SIZE[0], height), "black" if dark else "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(int(rng.integers(10, 15)))
    for y in range(8, height - 20, 20):
        line = " ".join(rng.choice(WORDS, 5))
        draw.text((12, y), line, "white" if dark else "black", font)
    return np.asarray(picture)


def _still(rng: np.random.Generator) -> Frames:
    rough = Image.fromarray(rng.integers(30, 255, (9, 12, 3)).astype(np.uint8))
    return np.asarray(rough.resize(SIZE, Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Agreement:
    """How well what was found agrees with what was planted."""

    precision: float
    recall: float


def agreement_of_cuts(planted: Sequence[Planted], found: Sequence[tuple[str, int]]) -> Agreement:
    """Compare cuts, (file, first frame of a shot); a fade counts anywhere in its pictures."""
    true = [
        (after.file, after.first, after.first + (15 if after.fades_in else 0))
        for before, after in pairwise(planted)
        if before.file == after.file
    ]
    hits = [any(f == file and a - 1 <= n <= b + 1 for f, a, b in true) for file, n in found]
    seen = [any(f == file and a - 1 <= n <= b + 1 for f, n in found) for file, a, b in true]
    return Agreement(_share(hits), _share(seen))


def _share(values: Sequence[bool]) -> float:
    return sum(values) / max(len(values), 1)


@pytest.fixture(scope="session")
def raw_collection() -> Callable[..., list[Planted]]:
    """`raw_collection(folder, clips, per_file=…, copy_share=…)`: what was planted in its files."""
    return make_collection
