"""Make the clips that an encoder takes from videos."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctp.storage import Storage
from ctp.video.config import ClipFormat
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import scaled_crop, to_rgb
from ctp.video.views import read_view_planes, view_frames


@dataclass(frozen=True)
class ClipTransform:
    """Takes the clip in the middle of a video, of the middle interval and size of the training.

    Attributes:
        clip_format: the clips that the encoder was trained on.
    """

    clip_format: ClipFormat

    def __call__(self, video: str | os.PathLike[str] | NDArray[np.uint8] | Tensor) -> Tensor:
        """Return a clip of a video as the encoder takes it.

        Args:
            video: path or URI of a video; or RGB frames, uint8 [N, H, W, 3]. If N is the number of
                frames in a clip, they are the clip. Otherwise they are all frames of a video.

        Returns:
            float32 [3, T, S, S], normalised; `torch.stack` makes a batch of several.

        Raises:
            ValueError: the frames have another shape or dtype, or the video cannot be decoded.
            StorageError: the video cannot be read.
        """
        if isinstance(video, str | os.PathLike):
            return self._normalize(self._read(os.fspath(video)))
        return self._normalize(self._cut(torch.as_tensor(video)))

    def _read(self, uri: str) -> Tensor:
        """Return the clip of a file, uint8 [T, S, S, 3]."""
        place, views = Storage.from_uri(uri), self.clip_format.views()
        with VideoReader(EncodedVideo(uri, place.uri, place.read_bytes())) as reader:
            planes = read_view_planes(views, reader)[0]
        return to_rgb(torch.from_numpy(planes), views.frame_size_px)

    def _cut(self, frames: Tensor) -> Tensor:
        """Return the clip of frames, uint8 [T, S, S, 3]."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
            raise ValueError(
                f"expected frames uint8 [N, H, W, 3]; got {frames.dtype} {list(frames.shape)}"
            )
        views = self.clip_format.views()
        if len(frames) != views.num_frames:
            frames = frames[view_frames(views, len(frames))[0]]
        crop = scaled_crop(views, views.short_side_px, x=0.5, y=0.5, flip=False)
        left, top, width, height = crop.window(frames.shape[2], frames.shape[1])
        cut = frames[:, top : top + height, left : left + width].movedim(-1, 1)
        size = (views.frame_size_px, views.frame_size_px)
        return F.interpolate(cut, size, mode="bilinear", antialias=True).movedim(1, -1)

    def _normalize(self, frames: Tensor) -> Tensor:
        """Return float32 [3, T, S, S] of uint8 [T, S, S, 3]."""
        clip = self.clip_format
        mean, std = (255 * torch.tensor(each) for each in (clip.mean, clip.std))
        return ((frames - mean) / std).permute(3, 0, 1, 2)
