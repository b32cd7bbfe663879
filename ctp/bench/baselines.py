"""The loaders that ours is compared with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ctp.bench.config import BaselineName
from ctp.bench.loaders import ClipRequest, Loader
from ctp.build.config import TranscodeConfig
from ctp.build.transcode import transcode
from ctp.pretext.ctp.paste import paste
from ctp.video.augment import to_input
from ctp.video.encoded import EncodedVideo

SEEK_MODES = "exact", "approximate", "mappings"
"""How torchcodec finds a frame: it scans the file, computes where the frame is, or is given a list
of all frames, which is kept beside the video."""


def opencv_zip_jpeg(device: torch.device, transcoding: TranscodeConfig) -> list[Loader]:
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
    return [opencv_zip_jpeg.loader(device)]


def torchcodec(device: torch.device, transcoding: TranscodeConfig | None) -> list[Loader]:
    """Return loaders that decode with torchcodec on the CPU, in all of its ways.

    For each of `SEEK_MODES`, one scales with torchvision and one with torchcodec's transforms.

    Args:
        device: where the model's input is needed.
        transcoding: how videos are transcoded before, as in shards; None: not at all.

    Raises:
        ValueError: torchcodec or FFmpeg is not installed.
    """
    try:
        # not at the top: a package that may be missing
        decoders = import_module("torchcodec.decoders")  # of an extra
        own_transforms = import_module("torchcodec.transforms")
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"baseline torchcodec: {reason}. Install it with pip install -e '.[bench]', and "
            "FFmpeg's shared libraries (Debian: apt-get install ffmpeg)"
        ) from error
    # NHWC is what FFmpeg's converter writes and what torchvision scales fastest
    decoder = partial(decoders.VideoDecoder, dimension_order="NHWC", num_ffmpeg_threads=1)
    return [
        _torchcodec_loader(device, transcoding, decoder, seek_mode, scaling)
        for seek_mode in SEEK_MODES
        for scaling in (None, own_transforms)
    ]


def _torchcodec_loader(
    device: torch.device,
    transcoding: TranscodeConfig | None,
    decoder: Callable[..., Any],
    seek_mode: str,
    scaling: ModuleType | None,
) -> Loader:
    """Return a loader; `scaling` is torchcodec.transforms, or None to scale with torchvision."""
    mappings: dict[str, str] = {}

    def store(video: EncodedVideo) -> bytes:
        data = video.data if transcoding is None else transcode(video, transcoding)
        if seek_mode == "mappings":
            mappings[video.id] = _frame_mappings(data)
        return data

    def open_video(video: EncodedVideo, request: ClipRequest) -> Any:
        options: dict[str, Any] = {"seek_mode": seek_mode}
        if seek_mode == "mappings":
            options = {"custom_frame_mappings": mappings[video.id]}
        if scaling is not None:
            resize = scaling.Resize((request.size_px, request.size_px))
            options["transforms"] = [_cut_of(scaling, request), resize]
        return decoder(video.data, **options)

    name = f"torchcodec {seek_mode}"
    name += ", own transforms" if scaling else ""
    name += ", transcoded" if transcoding else ""
    return Loader(
        name=name,
        device=device,
        store=store,
        stages={
            "open": open_video,
            "decode": _decode,
            "augment": _crop_scale_flip if scaling is None else _flip,
            "paste": lambda frames, request: paste(frames, request.game),
        },
        device_stages={
            "transfer": lambda made, requests: torch.as_tensor(np.stack(made)).to(device),
            "colours": _change_colors,
        },
    )


def _frame_mappings(data: bytes) -> str:
    """Return a list of the frames of a video like that of `ffprobe -show_frames -of json`."""
    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
        # torchcodec requires durations; the exact value is only for look-ups by time
        frames = [
            {"pts": frame.pts, "duration": frame.duration or 1, "key_frame": int(frame.key_frame)}
            for frame in container.decode(video=0)
        ]
    return json.dumps({"frames": frames})


def _cut_of(scaling: ModuleType, request: ClipRequest) -> Any:
    """Return the transform that cuts the clip's square out of a frame."""

    class Cut(scaling.DecoderTransform):  # type: ignore[misc, name-defined]
        def _make_transform_spec(self, input_dims: tuple[int, int]) -> str:
            height, width = input_dims
            left, top, cut_width, cut_height = request.crop.window(width, height)
            return f"crop, {cut_height}, {cut_width}, {left}, {top}"

    return Cut()


def _decode(decoder: Any, request: ClipRequest) -> Tensor:
    """Return the frames, uint8 [T, h, w, 3]."""
    frames: Tensor = decoder.get_frames_at(list(request.frame_numbers)).data
    return frames


def _crop_scale_flip(frames: Tensor, request: ClipRequest) -> NDArray[np.uint8]:
    """Return uint8 [T, S, S, 3]; cropped first, so that only these pixels are scaled."""
    left, top, width, height = request.crop.window(frames.shape[2], frames.shape[1])
    part = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
    scaled = transforms.resize(part, [request.size_px, request.size_px])
    return _flip(scaled.permute(0, 2, 3, 1), request)


def _flip(frames: Tensor, request: ClipRequest) -> NDArray[np.uint8]:
    """Return frames [T, S, S, 3], mirrored if the clip is."""
    clip: NDArray[np.uint8] = (frames.flip(2) if request.crop.flip else frames).contiguous().numpy()
    return clip


def _change_colors(frames: Tensor, requests: Sequence[ClipRequest]) -> Tensor:
    color = torch.from_numpy(np.stack([request.color for request in requests]))
    return to_input(frames, color.to(frames.device))


BASELINES: Mapping[BaselineName, Callable[[torch.device, TranscodeConfig], list[Loader]]] = {
    "opencv-zip-jpeg": opencv_zip_jpeg,
    "torchcodec": lambda device, transcoding: torchcodec(device, None),
    "torchcodec-transcoded": torchcodec,
}
"""Name -> function that returns the baseline's loaders. The second argument is how the videos of
our shards are transcoded."""
