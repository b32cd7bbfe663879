"""The loaders that ours is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ctp.bench.config import BaselineName
from ctp.bench.loaders import ClipRequest, Loader
from ctp.pretext.ctp.paste import paste
from ctp.video.augment import to_input


def opencv_zip_jpeg(device: torch.device) -> Loader:
    """Return the loader of `ctp.bench.opencv_zip_jpeg`.

    Raises:
        ValueError: OpenCV is not installed.
    """
    try:
        from ctp.bench import opencv_zip_jpeg  # needs cv2, of an extra
    except ImportError as error:
        raise ValueError(
            f"baseline opencv-zip-jpeg: {error}. Install it with pip install -e '.[bench]'"
        ) from error
    return opencv_zip_jpeg.loader(device)


def torchcodec(device: torch.device) -> Loader:
    """Return a loader that decodes with torchcodec and scales with torchvision, on the CPU.

    Raises:
        ValueError: torchcodec or FFmpeg is not installed.
    """
    try:
        # not at the top: a package that may be missing
        decoder = import_module("torchcodec.decoders").VideoDecoder  # of an extra
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"baseline torchcodec: {reason}. Install it with pip install -e '.[bench]', and "
            "FFmpeg's shared libraries (Debian: apt-get install ffmpeg)"
        ) from error
    # NHWC is what FFmpeg's converter writes and what torchvision scales fastest
    open_video = partial(decoder, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    return Loader(
        name="torchcodec",
        device=device,
        store=lambda video: video.data,
        stages={
            "open": lambda video, request: open_video(video.data),
            "decode": _decode,
            "augment": _crop_scale_flip,
            "paste": lambda frames, request: paste(frames, request.game),
        },
        device_stages={
            "transfer": lambda made, requests: torch.as_tensor(np.stack(made)).to(device),
            "colours": _change_colors,
        },
    )


def _decode(decoder: Any, request: ClipRequest) -> Tensor:
    """Return whole frames, uint8 [T, h, w, 3]."""
    frames: Tensor = decoder.get_frames_at(list(request.frame_numbers)).data
    return frames


def _crop_scale_flip(frames: Tensor, request: ClipRequest) -> NDArray[np.uint8]:
    """Return uint8 [T, S, S, 3]; cropped first, so that only these pixels are scaled."""
    left, top, width, height = request.crop.window(*request.picture_size_px)
    part = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
    scaled = transforms.resize(part, [request.size_px, request.size_px])
    if request.crop.flip:
        scaled = scaled.flip(3)
    clip: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().numpy()
    return clip


def _change_colors(frames: Tensor, requests: Sequence[ClipRequest]) -> Tensor:
    color = torch.from_numpy(np.stack([request.color for request in requests]))
    return to_input(frames, color.to(frames.device))


BASELINES: dict[BaselineName, Callable[[torch.device], Loader]] = {
    "opencv-zip-jpeg": opencv_zip_jpeg,
    "torchcodec": torchcodec,
}
