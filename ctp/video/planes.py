"""From decoded pictures to the square frames of a clip, with as few pixels touched as can be.

A decoder gives planes of brightness (Y) and, at half the size, colour (U, V). They are cropped
first, so that only what a clip shows is resized, and stay planes until red, green and blue are
needed: that is half the bytes on the way to a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Y [h, w], U and V [ceil(h / 2), ceil(w / 2)]."""

PLAIN_FORMAT = "yuv420p"
OTHER_MATRICES = frozenset({1, 4, 7, 8, 9, 10})
"""FFmpeg's numbers of colour matrices that are not BT.601's: BT.709, FCC, SMPTE 240M, …"""
FULL_RANGE = 2
MAX_CHANNELS = 4
"""Of what torch resizes fast; with more it takes another way."""
FRACTION_BITS = 5
"""Colours are added up in 1/32 of a level: 16 bits then hold them all."""
BT601 = ((0.0, 1.402), (-0.344136, -0.714136), (1.772, 0.0))
"""What U and V, from -.5 to .5, add to red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class Crop:
    """A square of a picture, whatever the picture's size, mirrored or not.

    Attributes:
        share: its side as a share of the picture's shorter side, in (0, 1].
        x, y: where it lies, 0 for the left or upper edge and 1 for the other.
        flip: whether it is mirrored.
    """

    share: float
    x: float
    y: float
    flip: bool

    def window(self, width: int, height: int) -> tuple[int, int, int]:
        """(left, top, side) in a picture, in even numbers of pixels: colour has half of them."""
        side = max(int(min(width, height) * self.share + 1e-6) // 2 * 2, 2)
        left = round((width - side) // 2 * self.x)
        top = round((height - side) // 2 * self.y)
        return 2 * left, 2 * top, side


class Cutter:
    """Cuts the same square out of pictures of one size."""

    def __init__(self, crop: Crop, num_frames: int):
        self._crop, self._num_frames = crop, num_frames
        self._reformatter = VideoReformatter()
        self._cut: Planes | None = None
        self._window = 0, 0, 0
        self.picture_size: tuple[int, int] | None = None
        """Width and height of the first picture, upright."""

    def add(self, place: int, frame: av.VideoFrame) -> None:
        """Take in the picture that comes `place`-th.

        Raises:
            ValueError: its size is not that of the first.
        """
        y, u, v = upright_planes(frame, self._reformatter)
        height, width = y.shape
        if self._cut is None:
            self.picture_size = width, height
            self._window = self._crop.window(width, height)
            side = self._window[2]
            shapes = (side, side), (side // 2, side // 2), (side // 2, side // 2)
            self._cut = tuple(np.empty((self._num_frames, *s), np.uint8) for s in shapes)  # type: ignore[assignment]
        if self.picture_size != (width, height):
            raise ValueError("changes its picture size on the way")
        left, top, side = self._window
        assert self._cut is not None
        self._cut[0][place] = y[top : top + side, left : left + side]
        for cut, plane in zip(self._cut[1:], (u, v), strict=True):
            cut[place] = plane[top // 2 : (top + side) // 2, left // 2 : (left + side) // 2]

    def frames(self, size_px: int) -> NDArray[np.uint8]:
        """All pictures, resized and mirrored: uint8 [T, 3/2 · size_px²], see `to_rgb`."""
        assert self._cut is not None
        y, u, v = self._cut
        resized = [_resize(y, size_px), *(_resize(half, size_px // 2) for half in (u, v))]
        if self._crop.flip:
            resized = [plane[..., ::-1] for plane in resized]
        return np.concatenate([plane.reshape(self._num_frames, -1) for plane in resized], axis=1)


def to_rgb(planes: Tensor, size_px: int) -> Tensor:
    """Planes to pixels, the same on every device.

    Args:
        planes: uint8 [..., 3/2 · S²]: the S × S values of Y, then S/2 × S/2 of U, then of V, of
            BT.601 in the limited range of video.
        size_px: S, even.

    Returns:
        uint8 [..., S, S, 3], each value the nearest to the exact one, or next to it.
    """
    half = size_px // 2
    leading = planes.shape[:-1]
    sizes = [size_px**2, half**2, half**2]
    y, u, v = torch.split(planes.reshape(-1, planes.shape[-1]), sizes, dim=1)
    one = 1 << FRACTION_BITS
    luma = y.to(torch.float32).sub_(16).mul_(one * 255 / 219).add_(one / 2).round_()
    luma = luma.to(torch.int16).view(-1, half, 2, size_px)
    of_u, of_v = (plane.to(torch.float32).sub_(128).mul_(one * 255 / 224) for plane in (u, v))
    channels = []
    for from_u, from_v in BT601:
        added = (of_u * from_u).add_(of_v, alpha=from_v).round_().to(torch.int32)
        # the same 16 bits twice: two pixels beside each other share their colour
        twice = added.bitwise_and(0xFFFF).bitwise_or_(added.bitwise_left_shift(16))
        wide = twice.view(torch.int16).view(-1, half, 1, size_px)
        sums = (luma + wide).bitwise_right_shift_(FRACTION_BITS)
        channels.append(sums.clamp_(0, 255).to(torch.uint8))
    rgb = torch.stack(channels, dim=-1)
    return rgb.view(*leading, size_px, size_px, 3)


def upright_planes(frame: av.VideoFrame, reformatter: VideoReformatter) -> Planes:
    """A decoded picture's planes as it is to be seen, in BT.601's limited range; views."""
    planes = _planes(_as_plain(frame, reformatter))
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return planes
    turn = np.frombuffer(matrix, np.int32)
    return tuple(upright(plane, turn) for plane in planes)  # type: ignore[return-value]


def upright(picture: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn and mirror a picture [h, w, ...] in quarter turns, as FFmpeg's display matrix says."""
    # where a step to the right and one down in the stored picture lead on the screen, as (x, y)
    right, down = matrix.reshape(3, 3)[:2, :2]
    if abs(right[1]) > abs(right[0]):
        picture, right, down = picture.swapaxes(0, 1), down, right
    return picture[:: -1 if down[1] < 0 else 1, :: -1 if right[0] < 0 else 1]


def _as_plain(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    is_plain = (
        frame.format.name == PLAIN_FORMAT
        and frame.colorspace not in OTHER_MATRICES
        and frame.color_range != FULL_RANGE
    )
    if is_plain:
        return frame
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


def _resize(planes: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Bilinear, with the low-pass that shrinking needs: uint8 [T, size_px, size_px]."""
    num_frames, side, _ = planes.shape
    if side == size_px:
        return planes
    # torch resizes four channels in the time of one, so frames pose as channels
    channels = math.gcd(num_frames, MAX_CHANNELS)
    resized = F.interpolate(
        torch.from_numpy(planes).view(-1, channels, side, side),
        (size_px, size_px),
        mode="bilinear",
        antialias=True,
    )
    return resized.view(num_frames, size_px, size_px).numpy()
