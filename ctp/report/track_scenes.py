"""Tracked test videos of a run as scenes to draw."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from ctp.data.reading import VideoOpener
from ctp.downstream.track_clips import TestClips, VideoClips
from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import TRACKER, build_tracker, in_picture, predict
from ctp.encoders.weights import read_state
from ctp.pretext.ctp.tracker import Tracker
from ctp.report.preview import clips_mp4, clips_png
from ctp.report.tracks import KEY, TrackScene, draw_scene
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
"""Of GOT-10k."""
CPU = torch.device("cpu")


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
    moves = np.ptp(clips.track.boxes[clips.frames, :2], axis=1).sum(axis=1)
    frames = clips.frames[int(moves.argmax())]
    step = int(frames[1] - frames[0]) or 1
    part = slice(int(frames[0]), int(frames[-1]) + 1, step)
    return scene.part(part, f"{scene.caption}, frames {frames[0]} to {frames[-1]}")
