"""Pictures of a finished tracking run: its test videos with true and predicted boxes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, pad, resize
from torchvision.utils import draw_bounding_boxes

from ctp.data.reading import VideoOpener
from ctp.downstream.track_clips import TestClips, VideoClips
from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import TRACKER, build_tracker, in_picture, predict
from ctp.encoders.weights import read_state
from ctp.pretext.ctp.tracker import Tracker
from ctp.pretext.task import SamplePicture
from ctp.report.preview import Pixels, clips_mp4, clips_png
from ctp.storage import Storage
from ctp.training.step import prepare
from ctp.training.trainer import TrainingSpec
from ctp.video.encoded import VideoError

STRIP, VIDEO = "tracks.png", "predicted.mp4"
MAX_VIDEOS, MAX_FRAMES = 4, 200
PICTURE_SIDE_PX = 240
STRIP_CELL_PX, VIDEO_CELL_PX = (240, 180), (384, 288)
"""Width and height of a frame in the pictures."""
FRAMES_PER_SECOND = 10
"""Frame rate of GOT-10k."""
CPU = torch.device("cpu")

Color = tuple[int, int, int]
TRUE_COLOR: Color = (34, 211, 238)
PREDICTED_COLOR: Color = (255, 61, 165)
UNCOUNTED_COLOR: Color = (150, 150, 150)
EDGE_COLOR: Color = (17, 24, 39)
KEY = {
    "true box ('given' where the model is given it)": np.array([TRUE_COLOR], np.uint8),
    "predicted box": np.array([PREDICTED_COLOR], np.uint8),
    "true box of a frame that is not scored": np.array([UNCOUNTED_COLOR], np.uint8),
}
"""The legend of colours, for `preview.clips_png`."""
LINE_PX = 2


@dataclass(frozen=True)
class TrackScene:
    """A video, or a clip of it, with true and predicted boxes.

    Attributes:
        frames: uint8 [N, h, w, 3].
        boxes: float [N, 4], the true boxes, xyxy pixels of `frames`.
        predicted: float [N, 4], those of a model; NaN where there is none.
        counted: bool [N], the frames that are scored.
        given: bool [N], the frames whose true box the model was given.
        caption: text above it.
    """

    frames: Pixels
    boxes: NDArray[np.floating[Any]]
    predicted: NDArray[np.floating[Any]]
    counted: NDArray[np.bool_]
    given: NDArray[np.bool_]
    caption: str

    def part(self, frames: slice, caption: str) -> TrackScene:
        """Return some of its frames as a scene."""
        names = ("frames", "boxes", "predicted", "counted", "given")
        return replace(self, caption=caption, **{n: getattr(self, n)[frames] for n in names})


def draw_tracks(spec: TrainingSpec[Any], folder: Storage, scores: Mapping[str, Any]) -> None:
    """Draw the first test videos of a finished tracking run into its folder.

    `tracks.png` shows the clip of each in which the object moves most, `predicted.mp4` all frames.

    Args:
        spec: the run.
        folder: its folder.
        scores: the contents of its scores.json.
    """
    config, clips = spec.config, spec.evaluation
    assert isinstance(config, TrackConfig)
    assert isinstance(clips, TestClips)
    model = build_tracker(config)
    model.load_state_dict(read_state(folder.join(TRACKER).read_bytes(), TRACKER))
    # on the CPU: the driver may have no GPU
    model = prepare(model, config.compute, CPU).eval()
    # videos that have a score were decoded before: they do not end this process
    videos = [n for n, entry in enumerate(clips.catalog) if entry.id in scores["videos"]]
    scenes, strips = [], []
    for number in videos[:MAX_VIDEOS]:
        with suppress(VideoError):  # deleted since
            found, scene = _read_scene(model, config, clips, number, scores["videos"])
            scenes.append(scene.part(slice(MAX_FRAMES), scene.caption))
            strips.append(_liveliest_clip(scene, found))
    if scenes:
        drawn = [draw_scene(each, STRIP_CELL_PX) for each in strips]
        folder.join(STRIP).write_bytes(clips_png(drawn, key=KEY))
        drawn = [draw_scene(each, VIDEO_CELL_PX) for each in scenes]
        video = clips_mp4(drawn, key=KEY, frames_per_second=FRAMES_PER_SECOND)
        folder.join(VIDEO).write_bytes(video)


def _read_scene(
    model: Tracker,
    config: TrackConfig,
    videos: TestClips,
    number: int,
    scores: Mapping[str, Mapping[str, float]],
) -> tuple[VideoClips, TrackScene]:
    """Return the clips of a video, and all of it with the boxes predicted in its clips.

    Raises:
        VideoError: it can no longer be used.
    """
    loaded = videos.load_many([number])
    if not loaded.items:
        entry = videos.catalog[number]
        raise VideoError(entry.id, entry.uri, "can no longer be read")
    (clips,) = loaded.items
    track = clips.track
    with VideoOpener().open(videos.catalog[number]) as reader:
        side = min(track.width, track.height, PICTURE_SIDE_PX)
        pictures = reader.read(range(reader.num_frames), short_side_px=side)
    boxes = in_picture(predict(model, clips, config, CPU), clips, config.augment.frame_size_px)
    # from pixels of the video to those of the pictures
    scale = np.array([pictures.shape[2] / track.width, pictures.shape[1] / track.height] * 2)
    # of a frame that is repeated at the end, the first one counts
    frames, first = np.unique(clips.frames, return_index=True)
    predicted = np.full((len(pictures), 4), np.nan)
    counted, given = np.zeros((2, len(pictures)), np.bool_)
    predicted[frames] = scale * boxes.reshape(-1, 4)[first]
    counted[frames] = clips.counted.reshape(-1)[first]
    given[clips.frames[:, 0]] = True
    text = config.score.describe(scores[clips.video_id]) or "no score"
    caption = f"{clips.video_id}: {text}"
    return clips, TrackScene(pictures, scale * track.boxes, predicted, counted, given, caption)


def _liveliest_clip(scene: TrackScene, clips: VideoClips) -> TrackScene:
    """Return the clip in which the object moves most."""
    # the range of the corner along both axes
    moves = np.ptp(clips.track.boxes[clips.frames, :2], axis=1).sum(axis=1)
    frames = clips.frames[int(moves.argmax())]
    # 0 where a frame is repeated at the end of the video
    step = int(frames[1] - frames[0]) or 1
    part = slice(int(frames[0]), int(frames[-1]) + 1, step)
    return scene.part(part, f"{scene.caption}, frames {frames[0]} to {frames[-1]}")


def draw_scene(scene: TrackScene, cell_px: tuple[int, int]) -> SamplePicture:
    """Draw the boxes of a scene, its frames scaled into the middle of cells (width, height)."""
    frames = torch.from_numpy(scene.frames).movedim(-1, 1)
    height, width = frames.shape[2:]
    scale = min(cell_px[0] / width, cell_px[1] / height)
    size = [round(height * scale), round(width * scale)]
    frames = resize(frames, size, InterpolationMode.BICUBIC, antialias=True)
    for index in range(len(frames)):
        color = TRUE_COLOR if scene.counted[index] else UNCOUNTED_COLOR
        label = "given" if scene.given[index] else None
        frames[index] = _draw_box(frames[index], scale * scene.boxes[index], color, label)
        if np.isfinite(scene.predicted[index]).all():
            box = scale * scene.predicted[index]
            frames[index] = _draw_box(frames[index], box, PREDICTED_COLOR)
    left, top = (cell_px[0] - size[1]) // 2, (cell_px[1] - size[0]) // 2
    right, bottom = cell_px[0] - size[1] - left, cell_px[1] - size[0] - top
    padded = pad(frames, [left, top, right, bottom])
    return SamplePicture(np.ascontiguousarray(padded.movedim(1, -1).numpy()), scene.caption)


def _draw_box(
    frame: Tensor, box: NDArray[np.floating[Any]], color: Color, label: str | None = None
) -> Tensor:
    """Draw a line around what is in a box, with a dark edge on both sides."""
    x1, y1, x2, y2 = box
    outer = torch.tensor([[x1, y1, max(x1, x2), max(y1, y2)]])
    outer += (LINE_PX + 1) * torch.tensor([-1, -1, 1, 1])
    # a wider dark line below: a bright one alone vanishes on a bright picture
    frame = draw_bounding_boxes(frame, outer, colors=[EDGE_COLOR], width=LINE_PX + 2)
    inner = outer + torch.tensor([1, 1, -1, -1])
    labels = [label] if label else None
    drawn: Tensor = draw_bounding_boxes(
        frame, inner, labels, [color], width=LINE_PX,
        label_colors=[color], label_background_colors=[EDGE_COLOR], fill_labels=True,
    )  # fmt: skip
    return drawn
