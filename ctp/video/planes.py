"""Convert decoded frames to the square frames of a clip.

A decoder returns planes of luma (Y) and, at half the size, chroma (U, V). They are cropped first,
so that only the pixels of the clip are resized. They become RGB on the device, because planes have
half the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctp.video.config import AugmentConfig, ViewsConfig
from ctp.video.encoded import SIZE_CHANGES, decoding_errors
from ctp.video.orientation import display_matrix, upright

if TYPE_CHECKING:  # a training step converts planes on machines without PyAV
    import av
    from av.video.reformatter import VideoReformatter

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Y [h, w], U and V [ceil(h / 2), ceil(w / 2)]."""

STRETCHED_ASPECT_RATIO = 4 / 3
"""Longer by shorter side of a picture that does not keep its aspect ratio."""
PLAIN_FORMAT = "yuv420p"
OTHER_MATRICES = frozenset({1, 4, 7, 8, 9, 10})
"""FFmpeg's numbers of colour matrices other than BT.601: BT.709, FCC, SMPTE 240M, …"""
FULL_RANGE = 2
"""FFmpeg's number of the colour range 0-255; video usually has 16-235."""
MAX_FAST_CHANNELS = 4
"""torch resizes images with more channels in a slower way."""
MAX_CHUNK_BYTES = 64 * 2**20
"""Cut frames that are kept in the size of the video; more are resized in several steps."""
FRACTION_BITS = 5
"""Colours are added in units of 1/32 level, which fit into 16 bits."""
BT601 = ((0.0, 1.402), (-0.344136, -0.714136), (1.772, 0.0))
"""Contributions of U and V, in [-0.5, 0.5], to red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class Crop:
    """The part of a picture that becomes a square, relative to the picture's size.

    Attributes:
        share: its length along the picture's shorter side divided by this side, in (0, 1].
        x, y: position, from 0 (left or upper edge) to 1 (right or lower edge).
        flip: whether it is mirrored horizontally.
        long_share: the same as `share` along the longer side, which is the width if both sides are
            equal; None for a part that is square already.
    """

    share: float
    x: float
    y: float
    flip: bool
    long_share: float | None = None

    def window(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (left, top, width, height) in a picture, in even numbers of pixels."""
        short, long = sorted((width, height))
        least = most = _even(short * self.share)
        if self.long_share is not None:
            most = _even(long * self.long_share)
        cut_width, cut_height = (least, most) if height > width else (most, least)
        left = round((width - cut_width) // 2 * self.x)
        top = round((height - cut_height) // 2 * self.y)
        return 2 * left, 2 * top, cut_width, cut_height


def scaled_crop(
    config: AugmentConfig | ViewsConfig, short_side_px: int, x: float, y: float, flip: bool
) -> Crop:
    """Return the crop of `frame_size_px` pixels of a picture that is scaled first.

    Args:
        config: size of the crop, and whether the picture keeps its aspect ratio.
        short_side_px: shorter side of the scaled picture.
        x, y, flip: see `Crop`.
    """
    size, long_share = config.frame_size_px, None
    if not config.keeps_aspect_ratio:
        # the authors' sizes: 149, 171 and 192 for 112, 128 and 144
        long_share = size / round(STRETCHED_ASPECT_RATIO * short_side_px)
    return Crop(size / short_side_px, x, y, flip, long_share)


class Cutter:
    """Cuts the same part out of frames of one size, and resizes it to a square."""

    def __init__(self, crop: Crop, num_frames: int, size_px: int):
        from av.video.reformatter import VideoReformatter

        self._crop, self._num_frames, self._size_px = crop, num_frames, size_px
        self._reformatter = VideoReformatter()
        self._resized = np.empty((num_frames, planes_size(size_px)), np.uint8)
        self._cut: Planes | None = None
        self._chunk, self._filled = 0, set[int]()
        self._window = 0, 0, 0, 0
        self.picture_size: tuple[int, int] | None = None
        """Width and height of the first frame, upright."""

    def add(self, row: int, frame: av.VideoFrame) -> None:
        """Add the frame for a row of the result. Rows come in rising order, or all again.

        Raises:
            ValueError: its size differs from the first frame's, or it cannot be converted.
        """
        with decoding_errors("has frames that cannot be converted"):
            y, u, v = upright_planes(frame, self._reformatter)
        height, width = y.shape
        if self._cut is None:
            self.picture_size = width, height
            self._window = self._crop.window(width, height)
            self._cut = self._new_chunk(*self._window[2:])
        if self.picture_size != (width, height):
            raise ValueError(SIZE_CHANGES)
        left, top, cut_width, cut_height = self._window
        chunk, place = divmod(row, len(self._cut[0]))
        if chunk != self._chunk:
            self._chunk, self._filled = chunk, set()
        right, bottom = left + cut_width, top + cut_height
        self._cut[0][place] = y[top:bottom, left:right]
        for cut, plane in zip(self._cut[1:], (u, v), strict=True):
            cut[place] = plane[top // 2 : bottom // 2, left // 2 : right // 2]
        self._filled.add(place)
        self._resize_full_chunk()

    def frames(self) -> NDArray[np.uint8]:
        """Return all frames, resized and mirrored: uint8 [T, 3/2 · size_px²], see `to_rgb`."""
        return self._resized

    def _new_chunk(self, width: int, height: int) -> Planes:
        """Return arrays for parts that are resized together: all of them, or as many as fit."""
        fitting = max(MAX_CHUNK_BYTES // (3 * width * height // 2), 1)
        if fitting > MAX_FAST_CHANNELS:
            fitting -= fitting % MAX_FAST_CHANNELS
        number = min(self._num_frames, fitting)
        half = height // 2, width // 2
        shapes = (height, width), half, half
        return tuple(np.empty((number, *s), np.uint8) for s in shapes)  # type: ignore[return-value]

    def _resize_full_chunk(self) -> None:
        assert self._cut is not None
        start = self._chunk * len(self._cut[0])
        number = min(len(self._cut[0]), self._num_frames - start)
        if len(self._filled) < number:
            return
        self._filled = set()
        y, u, v = (plane[:number] for plane in self._cut)
        half_px = self._size_px // 2
        with decoding_errors("has frames that cannot be resized"):
            resized = [_resize(y, self._size_px), *(_resize(half, half_px) for half in (u, v))]
        if self._crop.flip:
            # torch mirrors in a third of NumPy's time
            resized = [torch.from_numpy(plane).flip(2).numpy() for plane in resized]
        rows = self._resized[start : start + number]
        np.concatenate([plane.reshape(number, -1) for plane in resized], axis=1, out=rows)


def planes_size(size_px: int) -> int:
    """Return the bytes of a square frame of S = `size_px` as planes: 3/2 · S²."""
    return 3 * size_px**2 // 2


def resize_square(planes: NDArray[np.uint8], size_px: int, new_size_px: int) -> NDArray[np.uint8]:
    """Resize square frames from one even side length to another.

    Args:
        planes: uint8 [T, 3/2 · size_px²], as `to_rgb` takes them.
        size_px, new_size_px: the side lengths.

    Returns:
        uint8 [T, 3/2 · new_size_px²].
    """
    if size_px == new_size_px:
        return planes
    half = size_px // 2
    parts = np.split(planes, [size_px**2, size_px**2 + half**2], axis=1)
    resized = [
        _resize(np.ascontiguousarray(part).reshape(-1, side, side), side * new_size_px // size_px)
        for part, side in zip(parts, (size_px, half, half), strict=True)
    ]
    return np.concatenate([part.reshape(len(planes), -1) for part in resized], axis=1)


def to_rgb(planes: Tensor, size_px: int) -> Tensor:
    """Convert planes to RGB, with equal results on every device.

    Args:
        planes: uint8 [..., 3/2 · S²]: S × S values of Y, S/2 × S/2 of U and S/2 × S/2 of V, in
            BT.601 with limited range.
        size_px: S, even.

    Returns:
        uint8 [..., S, S, 3], each value at most 1 from the exact one.
    """
    half = size_px // 2
    leading = planes.shape[:-1]
    sizes = [size_px**2, half**2, half**2]
    y, u, v = torch.split(planes.reshape(-1, planes.shape[-1]), sizes, dim=1)
    one = 1 << FRACTION_BITS
    luma = y.to(torch.float32).sub_(16).mul_(one * 255 / 219).add_(one / 2).round_()
    luma = luma.to(torch.int16).view(-1, half, 2, size_px)
    chroma_u, chroma_v = (
        plane.to(torch.float32).sub_(128).mul_(one * 255 / 224) for plane in (u, v)
    )
    channels = []
    for from_u, from_v in BT601:
        added = (chroma_u * from_u).add_(chroma_v, alpha=from_v).round_().to(torch.int32)
        # repeat the 16 bits, because two neighbouring pixels share their chroma
        twice = added.bitwise_and(0xFFFF).bitwise_or_(added.bitwise_left_shift(16))
        wide = twice.view(torch.int16).view(-1, half, 1, size_px)
        sums = (luma + wide).bitwise_right_shift_(FRACTION_BITS)
        channels.append(sums.clamp_(0, 255).to(torch.uint8))
    rgb = torch.stack(channels, dim=-1)
    return rgb.view(*leading, size_px, size_px, 3)


def upright_planes(frame: av.VideoFrame, reformatter: VideoReformatter) -> Planes:
    """Return views of a frame's planes, upright, in BT.601 with limited range."""
    planes = _planes(_to_plain(frame, reformatter))
    matrix = display_matrix(frame)
    if matrix is None:
        return planes
    return tuple(upright(plane, matrix) for plane in planes)  # type: ignore[return-value]


def _to_plain(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    is_plain = (
        frame.format.name == PLAIN_FORMAT
        and frame.colorspace not in OTHER_MATRICES
        and frame.color_range != FULL_RANGE
    )
    if is_plain:
        return frame
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    return reformatter.reformat(
        frame,
        format=PLAIN_FORMAT,
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BILINEAR,
    )


def _planes(frame: av.VideoFrame) -> Planes:
    sizes = [(frame.height, frame.width)] + 2 * [((frame.height + 1) // 2, (frame.width + 1) // 2)]
    return tuple(  # type: ignore[return-value]
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, :width]
        for plane, (height, width) in zip(frame.planes, sizes, strict=True)
    )


def _even(length: float) -> int:
    """Return the greatest even number that is not greater than a length, at least 2."""
    return max(int(length + 1e-6) // 2 * 2, 2)


def _resize(planes: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Resize bilinearly with antialiasing, to uint8 [T, size_px, size_px]."""
    num_frames, height, width = planes.shape
    if height == width == size_px:
        return planes
    # torch resizes four channels in the time of one, so treat frames as channels
    channels = math.gcd(num_frames, MAX_FAST_CHANNELS)
    resized = F.interpolate(
        torch.from_numpy(planes).view(-1, channels, height, width),
        (size_px, size_px),
        mode="bilinear",
        antialias=True,
    )
    return resized.view(num_frames, size_px, size_px).numpy()
