"""A baseline: JPEG frames in a zip file, transformed frame by frame with OpenCV on the CPU.

It follows the description of the authors' loader: one transform after the other over all frames
(scale, crop, flip, paste, hue and saturation, brightness, contrast, normalise, stack). Boxes are
rounded to whole pixels. This changes nothing with rules "official", and with "paper" it moves an
edge by at most half a pixel.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ctp.bench.loaders import ClipRequest, Loader
from ctp.pretext.ctp.game import Game
from ctp.pretext.ctp.paste import patch_alpha
from ctp.video.config import IMAGENET_MEAN, IMAGENET_STD
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo

STORED_SHORT_SIDE_PX = 240
"""Shorter side of UCF-101's videos, 320×240, the size at which its frames are commonly stored."""
JPEG_QUALITY = 95
FRAME_NAME = "{:05d}.jpg"
FRAMES_PER_READ = 256
"""Frames in memory at a time while a video is stored."""
MEAN = 255 * np.array(IMAGENET_MEAN, np.float32)
INVERSE_STD = 1 / (255 * np.array(IMAGENET_STD, np.float32))
HALF = np.float32(0.5)

Picture = NDArray[Any]
"""[H, W, 3], uint8 or float32, in 0 … 255."""
Box = tuple[int, int, int, int]
"""xyxy, pixels."""


def loader(device: torch.device) -> Loader:
    """Return the loader. Sets OpenCV to one thread for this process, as in a data worker."""
    cv2.setNumThreads(1)
    return Loader(
        name="opencv-zip-jpeg",
        device=device,
        store=to_zip,
        stages={
            "open": _open,
            "decode": _decode,
            "convert": lambda bgr, request: [cv2.cvtColor(p, cv2.COLOR_BGR2RGB) for p in bgr],
            "augment": _scale_crop_flip,
            "paste": _paste,
            "colours": _change_colors,
        },
        device_stages={
            "transfer": lambda clips, requests: torch.from_numpy(np.stack(clips)).to(device)
        },
    )


def to_zip(video: EncodedVideo) -> bytes:
    """Return a zip file of a video's frames, 00000.jpg, …, with a shorter side of 240 px.

    Raises:
        VideoError: the video cannot be decoded.
    """
    buffer = io.BytesIO()
    with VideoReader(video) as reader, zipfile.ZipFile(buffer, "w") as archive:
        for start in range(0, reader.num_frames, FRAMES_PER_READ):
            numbers = range(start, min(start + FRAMES_PER_READ, reader.num_frames))
            frames = reader.read(numbers, short_side_px=STORED_SHORT_SIDE_PX)
            for number, frame in zip(numbers, frames, strict=True):
                bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
                jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
                archive.writestr(FRAME_NAME.format(number), jpeg.tobytes())
    return buffer.getvalue()


def scaled_size(request: ClipRequest) -> tuple[int, int]:
    """Return (width, height) of the whole picture, scaled so that the crop has S pixels."""
    scale = _scale(request)
    width, height = (max(round(side * scale), request.size_px) for side in request.picture_size_px)
    return width, height


def scaled_window(request: ClipRequest) -> tuple[slice, slice]:
    """Return rows and columns of the crop in the scaled picture, to the nearest pixel."""
    size, scale = request.size_px, _scale(request)
    left, top, *_ = request.crop.window(*request.picture_size_px)
    width, height = scaled_size(request)
    row, column = min(round(top * scale), height - size), min(round(left * scale), width - size)
    return slice(row, row + size), slice(column, column + size)


def _scale(request: ClipRequest) -> float:
    return request.size_px / request.crop.window(*request.picture_size_px)[2]


def _open(stored: EncodedVideo, request: ClipRequest) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(stored.data)) as archive:
        return [archive.read(FRAME_NAME.format(number)) for number in request.frame_numbers]


def _decode(files: list[bytes], request: ClipRequest) -> list[Picture]:
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    # imdecode returns None for other files; `to_zip` wrote pictures
    return [cast(Picture, cv2.imdecode(array, cv2.IMREAD_COLOR)) for array in arrays]


def _scale_crop_flip(pictures: list[Picture], request: ClipRequest) -> list[Picture]:
    size, window = scaled_size(request), scaled_window(request)
    scaled = [cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in pictures]
    cropped = [picture[window] for picture in scaled]
    return [cv2.flip(picture, 1) for picture in cropped] if request.crop.flip else cropped


def _paste(pictures: list[Picture], request: ClipRequest) -> list[Picture]:
    """Paste all patches at boxes in whole pixels; return float32 pictures."""
    game = request.game
    boxes = _whole_pixels(game.boxes)
    # all are cut before the first is pasted
    patches = [_cut(pictures[t], boxes[k][t]) for k, t in enumerate(game.source_frame)]
    pasted = [picture.astype(np.float32) for picture in pictures]
    for k in game.order:
        for t in np.flatnonzero(game.visible[k]).tolist():
            _blend(pasted[t], patches[k], boxes[k][t], game, k, t)
    return pasted


def _whole_pixels(boxes: NDArray[np.float32]) -> list[list[Box]]:
    """Round boxes [K, T, 4]; each stays at least one pixel wide and high."""
    rounded = np.rint(boxes).astype(np.int64)
    # OpenCV cannot resize to nothing
    rounded[..., 2:] = np.maximum(rounded[..., 2:], rounded[..., :2] + 1)
    return [[(x1, y1, x2, y2) for x1, y1, x2, y2 in track] for track in rounded.tolist()]


def _cut(picture: Picture, box: Box) -> Picture:
    """Return the pixels of a box, which may reach over the picture's edge."""
    x1, y1, x2, y2 = box
    return picture[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]


def _blend(picture: Picture, patch: Picture, box: Box, game: Game, k: int, t: int) -> None:
    """Resize patch `k` to its box in frame `t` and blend it into the picture."""
    x1, y1, x2, y2 = box
    resized = cv2.resize(patch, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    x, y = _offsets(x2 - x1), _offsets(y2 - y1)[:, None]
    alpha = game.opacity[k, t] * patch_alpha(x, y, game.shape[k], game.soft_edge_start[k])
    window = _cut(picture, box)
    # the part of the box inside of the picture
    top, left = max(-y1, 0), max(-x1, 0)
    inside = slice(top, top + window.shape[0]), slice(left, left + window.shape[1])
    window += alpha[inside][..., None] * (resized[inside] - window)


def _offsets(num_pixels: int) -> NDArray[np.float32]:
    """Return offsets of pixel centres from a box's centre in box sizes, float32 [num_pixels]."""
    return (np.arange(num_pixels, dtype=np.float32) + HALF) / np.float32(num_pixels) - HALF


def _change_colors(pictures: list[Picture], request: ClipRequest) -> NDArray[np.float32]:
    """Change colours, normalise and stack: float32 [3, T, H, W]."""
    for picture, change in zip(pictures, request.color.tolist(), strict=True):
        _change_color(picture, *change)
        picture -= MEAN
        picture *= INVERSE_STD
    return np.ascontiguousarray(np.stack(pictures).transpose(3, 0, 1, 2))


def _change_color(
    picture: NDArray[np.float32], hue: float, saturation: float, brightness: float, contrast: float
) -> None:
    """Change the colours of a picture in place; see `sample_color`."""
    if hue != 0 or saturation != 1:
        hsv: Picture = cv2.cvtColor(picture / np.float32(255), cv2.COLOR_RGB2HSV)
        hsv[..., 0] += hue % 360  # OpenCV wraps a hue above 360, but not one below 0
        hsv[..., 1] = np.minimum(hsv[..., 1] * saturation, 1)
        picture[:] = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if brightness != 0:
        np.clip(picture + brightness, 0, 255, out=picture)
    if contrast != 1:
        np.clip(picture * contrast, 0, 255, out=picture)
