"""Label videos with boxes that a kernelised correlation filter follows (Table 1, "KCF").

Henriques et al., "High-Speed Tracking with Kernelized Correlation Filters", TPAMI 2015, with the
features of Felzenszwalb et al., "Object Detection with Discriminatively Trained Part Based Models",
TPAMI 2010 (31 channels), and with a search over three scales as in its C++ version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ctp.data.journal import Journal, working_on
from ctp.data.shards import ShardRow
from ctp.first_box import MAX_ASPECT_RATIO, SIZE_PX, box_sides
from ctp.rng import generator
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.limits import DecodingLimits, limited_memory

Floats = NDArray[np.float64]

CELL_PX = 4
NUM_ORIENTATIONS = 9
WINDOW_PER_BOX = 2.5
"""Size of the search window over that of the box: a padding of 1.5."""
LONGER_SIDE_PX = 96
"""Longer side of the resampled window."""
TARGET_SIGMA = 0.1
"""Standard deviation of the Gaussian target response, in box sizes."""
KERNEL_SIGMA = 0.5
RIDGE = 1e-4
LEARNING_RATE = 0.02
SCALES = (1.0, 1 / 1.05, 1.05)
SCALE_PENALTY = 0.95
"""Factor on the response at a scale other than that of the previous frame."""
LEAST_RESPONSE = 0.3
"""A target with a lower peak is lost; random textures have a peak of about .15."""
NUM_TRACKS = 3
BOX_SIZE_SHARE = SIZE_PX[0] / 128, SIZE_PX[1] / 128
"""Least and greatest size of a first box over the shorter side of the picture: the game's 16 to 64
px (§3.3), in a video that is scaled to a shorter side of 128 px."""
LEAST_CONTRAST = 8.0
"""Least standard deviation of the grey values in a first box; flatter boxes show no motion."""
MAX_TRIES = 8
FRAMES_AT_ONCE = 64
"""Frames of a video that are decoded together, to bound the memory for long videos."""


class KcfTracker:
    """Follows one box from frame to frame."""

    def __init__(self, frame: NDArray[np.uint8], box: Floats):
        """Learn the content of a box.

        Args:
            frame: uint8 [h, w, 3].
            box: float64 [4], xyxy pixels of the frame.
        """
        self.center, self.size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        window = self.size * WINDOW_PER_BOX
        cells = np.round(window * LONGER_SIDE_PX / window.max() / CELL_PX).astype(int).clip(4)
        self._cells_wh = cells
        self._cosine = np.outer(np.hanning(cells[1] + 2)[1:-1], np.hanning(cells[0] + 2)[1:-1])
        sigma = TARGET_SIGMA * np.sqrt((cells / WINDOW_PER_BOX).prod())
        x, y = (np.minimum(np.arange(n), n - np.arange(n)) for n in cells)
        self._target = np.fft.rfft2(np.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2)))
        self._template = self._features(frame, 1.0)
        self._dual = self._train(self._template)

    def step(self, frame: NDArray[np.uint8]) -> tuple[Floats, float]:
        """Find the target in the next frame and learn how it looks now.

        Returns:
            the box, float64 [4] xyxy pixels, and the peak of the response: about 1 if the content
            has not changed.
        """
        best, peak, scale = np.zeros(2), -np.inf, 1.0
        for tried in SCALES:
            shift, found = self._detect(self._features(frame, tried))
            found *= 1.0 if tried == 1 else SCALE_PENALTY
            if found > peak:
                best, peak, scale = shift, found, tried
        # cells of the resampled window, in pixels of the frame
        self.center = self.center + best * self.size * scale * WINDOW_PER_BOX / self._cells_wh
        self.size = self.size * scale
        box = np.concatenate([self.center - self.size / 2, self.center + self.size / 2])
        if peak >= LEAST_RESPONSE:
            features = self._features(frame, 1.0)
            self._template += LEARNING_RATE * (features - self._template)
            self._dual += LEARNING_RATE * (self._train(features) - self._dual)
        return box, float(peak)

    def _features(self, frame: NDArray[np.uint8], scale: float) -> Floats:
        """Return features of the window, [31, h, w] cells, weighted by a cosine window."""
        # one cell more on each side: `fhog` leaves out the outermost cells
        pixels = (self._cells_wh + 2) * CELL_PX
        window = self.size * scale * WINDOW_PER_BOX * (self._cells_wh + 2) / self._cells_wh
        patch = _resample(frame, self.center, window, pixels)
        return fhog(patch) * self._cosine

    def _train(self, features: Floats) -> NDArray[np.complex128]:
        kernel = np.fft.rfft2(_kernel(features, features))
        dual: NDArray[np.complex128] = self._target / (kernel + RIDGE)
        return dual

    def _detect(self, features: Floats) -> tuple[Floats, float]:
        kernel = np.fft.rfft2(_kernel(features, self._template))
        response = np.fft.irfft2(kernel * self._dual, s=features.shape[1:])
        y, x = np.unravel_index(response.argmax(), response.shape)
        shift = np.array([_wrapped(response[y], int(x)), _wrapped(response[:, x], int(y))])
        return shift, float(response[y, x])


def label_with_kcf(
    frames: Iterable[NDArray[np.uint8]], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Follow random boxes through a video.

    First boxes are drawn by the rules of the game (§3.3); flat ones are skipped. In a frame that
    loses the target the weight is 0, and in the next frame a new box is drawn.

    Args:
        frames: the frames of the video, uint8 [h, w, 3], all of one size.
        rng: source of randomness.

    Returns:
        boxes float32 [K, N, 4], xyxy pixels, and weights float32 [K, N], 1 or 0; K = `NUM_TRACKS`.
    """
    trackers: list[KcfTracker | None] = [None] * NUM_TRACKS
    boxes, weights = [], []
    for frame in frames:
        row, trust = np.zeros((NUM_TRACKS, 4)), np.zeros(NUM_TRACKS)
        for k, tracker in enumerate(trackers):
            if tracker is None:
                box = _draw_box(frame, rng)
                if box is not None:
                    trackers[k], row[k], trust[k] = KcfTracker(frame, box), box, 1
                continue
            row[k], peak = tracker.step(frame)
            limits = np.array([frame.shape[1], frame.shape[0]])
            is_inside = ((tracker.center >= 0) & (tracker.center <= limits)).all()
            trust[k] = peak >= LEAST_RESPONSE and is_inside
            if not trust[k]:
                trackers[k] = None
        boxes.append(row)
        weights.append(trust)
    order = (np.stack(each, axis=1).astype(np.float32) for each in (boxes, weights))
    of_boxes, of_weights = order
    return of_boxes, of_weights


def with_teacher(
    row: ShardRow, uri: str, journal: Journal | None, limits: DecodingLimits
) -> ShardRow:
    """Return a row of a shard with the boxes from `label_with_kcf`.

    Args:
        row: a video without boxes. Its id is the seed of the first boxes.
        uri: location of the video, for errors.
        journal: the journal of this process; it blames the video if the process ends.
        limits: the limits of decoding.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    video = EncodedVideo(row.id, uri, row.data)
    with (
        working_on(journal, row.id, uri),
        limited_memory(limits.memory_bytes),
        VideoReader(video, limits) as reader,
    ):
        boxes, weights = label_with_kcf(
            _frames(reader, min(row.width, row.height)), generator(0, "kcf", row.id)
        )
    return replace(row, boxes=boxes.reshape(-1, 4), weights=weights.ravel())


def _frames(reader: VideoReader, short_side_px: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, reader.num_frames, FRAMES_AT_ONCE):
        numbers = range(start, min(start + FRAMES_AT_ONCE, reader.num_frames))
        yield from reader.read(numbers, short_side_px=short_side_px)


def fhog(picture: Floats) -> Floats:
    """Return the histograms of oriented gradients of all cells but the outermost ones.

    Args:
        picture: float [h · CELL_PX, w · CELL_PX, 3].

    Returns:
        float64 [31, h - 2, w - 2]: 18 signed and 9 unsigned orientations, and 4 textures.
    """
    height, width = (side // CELL_PX for side in picture.shape[:2])
    dy, dx = (np.gradient(picture, axis=axis) for axis in (0, 1))
    strength = dx**2 + dy**2
    channel = strength.argmax(axis=2)[..., None]
    dy, dx, strength = (np.take_along_axis(a, channel, 2)[..., 0] for a in (dy, dx, strength))
    bins = 2 * NUM_ORIENTATIONS
    angle = np.round(np.arctan2(dy, dx) / (2 * np.pi) * bins).astype(int) % bins
    histogram = _vote(np.sqrt(strength), angle, height, width)
    unsigned = histogram[:NUM_ORIENTATIONS] + histogram[NUM_ORIENTATIONS:]
    energy = (unsigned**2).sum(axis=0)
    block = energy[:-1, :-1] + energy[1:, :-1] + energy[:-1, 1:] + energy[1:, 1:]
    inner = (slice(None), slice(1, -1), slice(1, -1))
    signed, unsigned = histogram[inner], unsigned[inner]
    total: Floats = np.zeros((3 * NUM_ORIENTATIONS, height - 2, width - 2))
    textures = []
    for y, x in product((0, 1), (0, 1)):  # the four blocks that contain a cell
        norm = 1 / np.sqrt(block[y : y + height - 2, x : x + width - 2] + 1e-4)
        clipped = np.minimum(np.concatenate([signed, unsigned]) * norm, 0.2)
        total += clipped / 2
        textures.append(clipped[:bins].sum(axis=0) * 0.2357)
    return np.concatenate([total, np.stack(textures)])


def _vote(strength: Floats, angle: NDArray[np.int64], height: int, width: int) -> Floats:
    """Add up gradients in the four nearest cells, [18, height, width]."""
    # one more cell on each side takes the votes that fall outside
    found = np.zeros((2 * NUM_ORIENTATIONS, height + 2, width + 2))
    sides = [(np.arange(n * CELL_PX) + 0.5) / CELL_PX + 0.5 for n in (height, width)]
    first = [side.astype(int) for side in sides]
    rest = [side - start for side, start in zip(sides, first, strict=True)]
    for down, right in product((0, 1), (0, 1)):
        row, column = np.meshgrid(first[0] + down, first[1] + right, indexing="ij")
        share = np.outer(*(r if d else 1 - r for r, d in zip(rest, (down, right), strict=True)))
        place = np.ravel_multi_index((angle, row, column), found.shape)
        votes = np.bincount(place.ravel(), (strength * share).ravel(), minlength=found.size)
        found += votes.reshape(found.shape)
    return found[:, 1:-1, 1:-1]


def _kernel(x: Floats, z: Floats) -> Floats:
    """Return the Gaussian kernel of all cyclic shifts of x with z, both [C, h, w]: [h, w]."""
    products = np.fft.rfft2(x) * np.fft.rfft2(z).conj()
    cross = np.fft.irfft2(products.sum(axis=0), s=x.shape[1:])
    distance = np.maximum((x**2).sum() + (z**2).sum() - 2 * cross, 0)
    kernel: Floats = np.exp(-distance / (KERNEL_SIGMA**2 * x.size))
    return kernel


def _wrapped(line: Floats, place: int) -> float:
    """Return the place of a peak to a fraction of a cell, as a shift in [-n/2, n/2]."""
    number = len(line)
    left, peak, right = line[place - 1], line[place], line[(place + 1) % number]
    curve = 2 * peak - left - right
    exact = place + (0.5 * (right - left) / curve if curve > 0 else 0.0)
    return exact - number if exact > number / 2 else exact


def _resample(
    frame: NDArray[np.uint8], center: Floats, window: Floats, pixels: NDArray[np.int64]
) -> Floats:
    """Cut a window, replicating the frame's border, and resample it to `pixels` (w, h)."""
    x, y = (
        (c + ((np.arange(n) + 0.5) / n - 0.5) * side) * 2 / length - 1
        for c, side, n, length in zip(center, window, pixels, frame.shape[1::-1], strict=True)
    )
    grid = np.stack(np.meshgrid(x, y), axis=-1)[None].astype(np.float32)
    source = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    found = F.grid_sample(
        source, torch.from_numpy(grid), padding_mode="border", align_corners=False
    )
    patch: Floats = found[0].permute(1, 2, 0).double().numpy()
    return patch


def _draw_box(frame: NDArray[np.uint8], rng: np.random.Generator) -> Floats | None:
    """Draw a first box whose content is not flat, float64 [4] xyxy; None if none was found."""
    limits = np.array(frame.shape[1::-1])
    for _ in range(MAX_TRIES):
        size = rng.uniform(*BOX_SIZE_SHARE) * limits.min()
        sides = box_sides(size, rng.uniform(-1, 1) * np.log(MAX_ASPECT_RATIO), limits)
        corner = rng.random(2) * (limits - sides)
        box = np.concatenate([corner, corner + sides])
        x1, y1, x2, y2 = box.astype(int)
        if frame[y1 : y2 + 1, x1 : x2 + 1].mean(axis=2).std() >= LEAST_CONTRAST:
            return box
    return None
