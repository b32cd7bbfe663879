"""Decodes damaged videos, one after the other, and prints what becomes of each. See test_fuzz.py.

Usage: fuzz_worker.py FOLDER KEY SECONDS FIRST STOP

FOLDER holds whole videos and pictures. File number n of the range FIRST to STOP is one of them,
damaged by a generator with seed n. Each is used as a training, an evaluation or a build uses it. A
line of JSON is printed for each: {"seed", "outcome": "used" or "refused", "reason"}. The process
may die of a video: the journal KEY then blames it.
"""

import json
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
import torch
from served_record import ServedRecord

from ctp.build.config import TranscodeConfig
from ctp.build.convert import convert
from ctp.build.layouts import FrameZip, Source
from ctp.data.catalog import VideoEntry
from ctp.data.journal import Journal
from ctp.data.reading import VideoOpener
from ctp.video.config import SamplingConfig
from ctp.video.encoded import EncodedVideo, VideoError
from ctp.video.limits import DecodingLimits
from ctp.video.planes import Crop, planes_size
from ctp.video.sampling import sample_frames

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 512
"""The start of a file, where most formats have their headers."""
MP4_TABLES = (b"stsz", b"stco", b"stsc", b"stts", b"ctts", b"stss", b"mdhd", b"elst", b"tkhd")
LIMITS = DecodingLimits(max_megapixels=4.0)
"""Small, so that sizes out of damaged headers take no long time."""
SIZE_PX = 32

Damage = Callable[[bytearray, random.Random], None]


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 32, 256))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(HEADER_BYTES, len(data)))] ^= 1 << rng.randrange(8)


def cut_end(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def cut_start(data: bytearray, rng: random.Random) -> None:
    del data[: rng.randrange(1, max(len(data) // 4, 2))]


def _range(data: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(data))
    return slice(start, start + rng.randrange(1, max(len(data) // 4, 2)))


def cut_out(data: bytearray, rng: random.Random) -> None:
    del data[_range(data, rng)]


def duplicate(data: bytearray, rng: random.Random) -> None:
    part = _range(data, rng)
    data[part.start : part.start] = data[part]


def set_to_zero(data: bytearray, rng: random.Random) -> None:
    part = _range(data, rng)
    data[part] = bytes(len(data[part]))


def scramble(data: bytearray, rng: random.Random) -> None:
    part = _range(data, rng)
    data[part] = rng.randbytes(len(data[part]))


def set_extreme(data: bytearray, rng: random.Random) -> None:
    """Set numbers of the headers to the least and the greatest values."""
    for _ in range(rng.randrange(1, 4)):
        number_bytes = rng.choice((1, 2, 4))
        value = rng.choice(EXTREMES) & (256**number_bytes - 1)
        at = rng.randrange(min(HEADER_BYTES, len(data)))
        data[at : at + number_bytes] = value.to_bytes(number_bytes, rng.choice(("big", "little")))


def set_extreme_in_table(data: bytearray, rng: random.Random) -> None:
    """Do so in a table of an MP4 file; in another format, anywhere."""
    found = data.find(rng.choice(MP4_TABLES))
    start = found + 4 if found >= 0 else rng.randrange(len(data))
    at = start + rng.randrange(40)
    data[at : at + 4] = rng.choice(EXTREMES).to_bytes(4, "big")


DAMAGES: tuple[Damage, ...] = (
    flip_bits, flip_header_bits, cut_end, cut_start, cut_out, duplicate, set_to_zero, scramble,
    set_extreme, set_extreme_in_table,
)  # fmt: skip


def make_file(videos: list[bytes], seed: int) -> bytes:
    """Return damaged video number `seed`."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(videos))
    if rng.random() < 0.1:  # the start of another format
        data[: rng.randrange(16, 2 * HEADER_BYTES)] = rng.choice(videos)[:HEADER_BYTES]
    else:
        for damage in rng.sample(DAMAGES, rng.choice((1, 1, 2))):
            if data:
                damage(data, rng)
    return bytes(data)


@dataclass(frozen=True)
class DamagedVideo(VideoEntry):
    """A video that is made when it is read."""

    data: bytes = b""

    def read(self) -> EncodedVideo:
        if not self.data:
            raise VideoError(self.id, self.uri, "is empty")
        return EncodedVideo(self.id, self.uri, self.data)


@dataclass(frozen=True)
class Whole:
    """Files to damage."""

    videos: list[bytes]
    pictures: list[bytes]

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read the files of a folder."""
        paths = sorted(folder.iterdir())
        parts = ([p for p in paths if (p.suffix == ".jpg") == is_picture] for is_picture in (0, 1))
        return cls(*([path.read_bytes() for path in part] for part in parts))


def build(source: Source, journal: Journal) -> None:
    """Convert a video or pictures to a row of a shard, as a build does."""
    coding = TranscodeConfig(short_side_px=SIZE_PX)
    row = convert(source, coding, journal, LIMITS)
    assert row.num_frames >= 1
    assert min(row.width, row.height) <= SIZE_PX


def use_pictures(whole: Whole, seed: int, journal: Journal) -> None:
    """Build a row from a ZIP of pictures of which one is damaged."""
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for number, picture in enumerate(whole.pictures[:3]):
                archive.writestr(f"{number}.jpg", picture)
            archive.writestr("3.jpg", make_file(whole.pictures, seed))
        file.flush()
        build(Source(str(seed), FrameZip(file.name, Fraction(10))), journal)


def use_video(whole: Whole, seed: int, journal: Journal) -> None:
    """Do what a job does with a video, and check what comes out."""
    entry = DamagedVideo(str(seed), f"/{seed}", data=make_file(whole.videos, seed))
    if seed % 8 == 1:
        build(Source(entry.id, entry), journal)
        return
    with VideoOpener(journal=journal, limits=LIMITS).open(entry) as reader:
        if seed % 8 == 2:
            number = reader.num_frames
            frames = reader.read([0, number // 2, number - 1], short_side_px=SIZE_PX)
            assert frames.shape[0] == 3
            assert reader.clock.rate > 0
        else:
            rng = np.random.default_rng(seed)
            wanted = sample_frames(SamplingConfig(num_frames=8), reader.num_frames, rng).tolist()
            planes = reader.read_square(wanted, Crop(0.8, 0.5, 0.5, False), SIZE_PX)
            assert planes.shape == (8, planes_size(SIZE_PX))


def main() -> None:
    """Print the outcome of each video."""
    folder, address, actor, seconds = (
        Path(sys.argv[1]),
        sys.argv[2],
        sys.argv[3],
        float(sys.argv[4]),
    )
    whole = Whole.from_folder(folder)
    torch.set_num_threads(1)
    journal = Journal(ServedRecord(address, actor), actor, seconds)
    with journal.task():
        for seed in range(int(sys.argv[5]), int(sys.argv[6])):
            outcome, reason = "used", ""
            try:
                (use_video if seed % 16 else use_pictures)(whole, seed, journal)
            except VideoError as error:
                outcome, reason = "refused", error.reason
            print(json.dumps({"seed": seed, "outcome": outcome, "reason": reason}), flush=True)


if __name__ == "__main__":
    main()
