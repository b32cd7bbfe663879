"""Fine-tune tracking on annotated videos and test it, from shards with boxes to scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctp import recipes
from ctp.cli import CommandLine
from ctp.cluster.launch import run_job, train_here
from ctp.downstream.track_clips import VideoClips
from ctp.downstream.track_config import TrackConfig
from ctp.downstream.tracking import (
    TRACKER,
    Tracking,
    build_tracker,
    follow,
    in_picture,
    settled,
)
from ctp.encoders.weights import read_state
from ctp.pretext.ctp.tracker import Tracker
from ctp.report.tracks import TrackScene, tracks_mp4, tracks_png
from ctp.storage import Storage
from ctp.training.claim import run_storage
from ctp.training.isolated import IsolatedMaker
from ctp.training.step import prepare

ABOUT = """Fine-tune tracking on annotated videos, and test it as in the paper.

The videos are shards with boxes: jobs/build_shards.py --layout got10k makes them of GOT-10k. The
run folder STORAGE/NAME gets scores.json, tracks.png, predicted.mp4, curves.png,
tracker.safetensors, and what a pretraining run has. The same --name continues a run where it was
broken off."""
STRIP, VIDEO = "tracks.png", "predicted.mp4"
SHOWN_VIDEOS, MOST_FRAMES = 4, 200
CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> None:
    """Parse, run, and say how it went."""
    run_job(CommandLine(recipes.TRACK, "got10k", ABOUT), _run, argv)


def _run(config: TrackConfig) -> None:
    config = settled(config)
    job = Tracking.of(config)
    train_here(
        job,
        f"{len(job.train.catalog)} videos to train on, {len(job.test.catalog)} to test on",
        note=f"weights to start from: {config.initial}, "
        f"{config.frozen_stages} of the encoder's stages frozen",
    )
    folder = run_storage(config)
    scores = json.loads(folder.join(config.RESULT).read_bytes())
    _draw(job, folder, scores)
    print(_told(scores))


def _told(scores: Mapping[str, Any]) -> str:
    if "iou" not in scores:
        return "no object was in sight: there is no score"
    names = {"iou": "mIoU", "ao": "AO", "sr50": "SR.50", "sr75": "SR.75"}
    parts = [f"{said} {scores[k]:.3f} ({scores[f'still_{k}']:.3f})" for k, said in names.items()]
    return (
        f"{', '.join(parts)} over {scores['frames']} frames of {scores['tested']} videos, in "
        f"brackets for a box that stays still; {len(scores['quarantined'])} more could not be read"
    )


def _draw(job: Tracking, folder: Storage, scores: Mapping[str, Any]) -> None:
    """Show the first few videos: all of each in motion, and the clip of most motion as a strip."""
    config = job.config
    model = build_tracker(config)
    model.load_state_dict(read_state(folder.join(TRACKER).read_bytes(), TRACKER))
    model = prepare(model, config.compute, CPU).eval()
    numbers = range(min(SHOWN_VIDEOS, len(job.test.catalog)))
    with IsolatedMaker.of(job.test) as maker:
        videos, _ = maker.call("with_pictures", numbers)
    if not videos:
        return
    scenes = [
        _scene(model, config, clips, pictures, scores["videos"]) for clips, pictures in videos
    ]
    strips = [_strip(scene, clips) for scene, (clips, _) in zip(scenes, videos, strict=True)]
    folder.join(STRIP).write_bytes(tracks_png(strips))
    folder.join(VIDEO).write_bytes(
        tracks_mp4([scene.part(slice(MOST_FRAMES), scene.caption) for scene in scenes])
    )


def _scene(
    model: Tracker,
    config: TrackConfig,
    clips: VideoClips,
    pictures: NDArray[np.uint8],
    scores: Mapping[str, Mapping[str, float]],
) -> TrackScene:
    """A whole video, the boxes predicted in its clips put back into its picture."""
    size = config.augment.frame_size_px
    found = in_picture(follow(model, clips, config, CPU), clips, size)
    track, (height, width) = clips.track, pictures.shape[1:3]
    scale = np.array([width / track.width, height / track.height] * 2)
    # a frame that is repeated at the end is meant where it comes first
    frames, first = np.unique(clips.frames, return_index=True)
    predicted = np.full((len(pictures), 4), np.nan)
    counted, given = np.zeros((2, len(pictures)), np.bool_)
    predicted[frames] = scale * found.reshape(-1, 4)[first]
    counted[frames] = clips.counted.reshape(-1)[first]
    given[clips.frames[:, 0]] = True
    own = scores[clips.video_id]
    told = f"mIoU {own['iou']:.2f} (still {own['still_iou']:.2f})" if "iou" in own else "no score"
    caption = f"{clips.video_id}: {told}"
    return TrackScene(pictures, scale * track.boxes, predicted, counted, given, caption)


def _strip(scene: TrackScene, clips: VideoClips) -> TrackScene:
    """The clip in which the object moves most."""
    ways = np.ptp(clips.track.boxes[clips.frames, :2], axis=1).sum(axis=1)
    frames = clips.frames[int(ways.argmax())]
    step = int(frames[1] - frames[0]) or 1
    part = slice(int(frames[0]), int(frames[-1]) + 1, step)
    return scene.part(part, f"{scene.caption}, frames {frames[0]} to {frames[-1]}")


if __name__ == "__main__":
    main()
