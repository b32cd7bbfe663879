"""A baseline: frames lie as JPEG files in a zip, and all is done frame by frame on the CPU.

Written from the description of the authors' loader: zipped JPEGs, OpenCV, then a transform after
the other over all frames: scale, crop, flip, paste, hue and saturation, brightness, contrast,
normalise, stack. Boxes are rounded to whole pixels, which changes nothing in the game's official
preset and moves an edge by half a pixel at most in the paper's.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ctp.bench.loading import DRAW, ClipRequest, DeviceStage, Loader, Stage
from ctp.pretext.ctp.appearance import PatchLooks, patch_alpha
from ctp.video.augment import IMAGENET_MEAN, IMAGENET_STD
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo

STORED_SHORT_SIDE_PX = 240
"""UCF-101's 320×240, at which its frames are commonly stored."""
JPEG_QUALITY = 95
FRAMES_PER_READ = 256
"""Frames held at a time while a video is stored."""
MEAN = 255 * np.array(IMAGENET_MEAN, np.float32)
INVERSE_STD = 1 / (255 * np.array(IMAGENET_STD, np.float32))
HALF = np.float32(0.5)

Picture = NDArray[Any]
"""[H, W, 3], uint8 or float32, of 255."""
Pictures = list[Picture]
"""T of them."""
Box = tuple[int, int, int, int]
"""xyxy, pixels."""


def loader(device: torch.device) -> Loader:
    """The loader. Puts OpenCV on one thread, as a loader's worker has it, for this process."""
    cv2.setNumThreads(1)
    stages = (
        DRAW,
        Stage("open", _open),
        Stage("decode", _decode),
        Stage("convert", _to_rgb),
        Stage("augment", _scale_crop_flip),
        Stage("game", _play),
        Stage("colours", _change_colors),
    )
    transfer = DeviceStage(
        "transfer", lambda clips, requests: torch.from_numpy(np.stack(clips)).to(device)
    )

    def store(video: EncodedVideo) -> EncodedVideo:
        return replace(video, data=to_zip(video))

    return Loader("opencv-zip-jpeg", store, device, stages, (transfer,))


def to_zip(video: EncodedVideo) -> bytes:
    """A zip of a video's frames, 00000.jpg, 00001.jpg, …, shorter side 240 px.

    Raises:
        VideoError: it cannot be decoded.
    """
    buffer = io.BytesIO()
    with VideoReader(video) as reader, zipfile.ZipFile(buffer, "w") as archive:
        for start in range(0, reader.num_frames, FRAMES_PER_READ):
            numbers = range(start, min(start + FRAMES_PER_READ, reader.num_frames))
            frames = reader.read(numbers, short_side_px=STORED_SHORT_SIDE_PX)
            for number, frame in zip(numbers, frames, strict=True):
                archive.writestr(_frame_name(number), _to_jpeg(frame))
    return buffer.getvalue()


def _frame_name(number: int) -> str:
    return f"{number:05d}.jpg"


def _to_jpeg(frame: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _open(stored: EncodedVideo, request: ClipRequest) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(stored.data)) as archive:
        return [archive.read(_frame_name(number)) for number in request.frame_numbers]


def _decode(files: list[bytes], request: ClipRequest) -> Pictures:
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    # None is for what is no picture; `to_zip` wrote pictures
    return [cast(Picture, cv2.imdecode(array, cv2.IMREAD_COLOR)) for array in arrays]


def _to_rgb(pictures: Pictures, request: ClipRequest) -> Pictures:
    return [cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in pictures]


def _scale_crop_flip(pictures: Pictures, request: ClipRequest) -> Pictures:
    size = request.scaled_size_px
    scaled = [cv2.resize(p, size, interpolation=cv2.INTER_LINEAR) for p in pictures]
    cropped = [picture[request.scaled_window] for picture in scaled]
    return [cv2.flip(picture, 1) for picture in cropped] if request.crop.flip else cropped


def _play(pictures: Pictures, request: ClipRequest) -> Pictures:
    """Paste all patches at their boxes in whole pixels; float32 pictures of 255."""
    game, looks = request.game.trajectories, request.game.looks
    boxes = _whole_pixels(game.boxes)
    # all are cut before the first one is pasted
    patches = [_cut(pictures[t], boxes[k][t]) for k, t in enumerate(game.source_frame)]
    pasted = [picture.astype(np.float32) for picture in pictures]
    for k in request.game.order:
        for t in np.flatnonzero(game.visible[k]):
            _lay(pasted[t], patches[k], boxes[k][t], looks, k, looks.opacity[k, t])
    return pasted


def _whole_pixels(boxes: NDArray[np.float32]) -> list[list[Box]]:
    """Boxes [K, T, 4] rounded, each at least a pixel large."""
    rounded = np.rint(boxes).astype(np.int64)
    rounded[..., 2:] = np.maximum(rounded[..., 2:], rounded[..., :2] + 1)
    return [[(x1, y1, x2, y2) for x1, y1, x2, y2 in track] for track in rounded.tolist()]


def _cut(picture: Picture, box: Box) -> Picture:
    """What of the picture lies in the box, which may reach over its edge."""
    x1, y1, x2, y2 = box
    return picture[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]


def _lay(
    picture: Picture, patch: Picture, box: Box, looks: PatchLooks, k: int, opacity: float
) -> None:
    """Blend patch `k`, resized to its box, into the picture where they meet."""
    x1, y1, x2, y2 = box
    resized = cv2.resize(patch, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    alpha = opacity * patch_alpha(
        _places(x2 - x1), _places(y2 - y1)[:, None], looks.shape[k], looks.soft_edge_start[k]
    )
    window = _cut(picture, box)
    top, left = max(-y1, 0), max(-x1, 0)
    seen = slice(top, top + window.shape[0]), slice(left, left + window.shape[1])
    window += alpha[seen][..., None] * (resized[seen] - window)


def _places(num_pixels: int) -> NDArray[np.float32]:
    """Pixel centres from a box's centre in box sizes, float32 [num_pixels]."""
    return (np.arange(num_pixels, dtype=np.float32) + HALF) / np.float32(num_pixels) - HALF


def _change_colors(pictures: Pictures, request: ClipRequest) -> NDArray[np.float32]:
    """Change colours, normalise and stack: float32 [3, T, H, W]."""
    for picture, change in zip(pictures, request.color.tolist(), strict=True):
        _change_color(picture, *change)
        picture -= MEAN
        picture *= INVERSE_STD
    return np.ascontiguousarray(np.stack(pictures).transpose(3, 0, 1, 2))


def _change_color(
    picture: NDArray[np.float32], hue: float, saturation: float, brightness: float, contrast: float
) -> None:
    """As `Clip.color` says, in place."""
    if hue != 0 or saturation != 1:
        hsv: Picture = cv2.cvtColor(picture / np.float32(255), cv2.COLOR_RGB2HSV)
        hsv[..., 0] += hue % 360  # beyond the circle's end is taken as it is meant, below 0 not
        hsv[..., 1] = np.minimum(hsv[..., 1] * saturation, 1)
        picture[:] = 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if brightness != 0:
        np.clip(picture + brightness, 0, 255, out=picture)
    if contrast != 1:
        np.clip(picture * contrast, 0, 255, out=picture)
