"""Draw clips of a recipe with their boxes, or what the model of a run predicts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import torch
import yaml
from annotated_types import Ge, Le

from ctp import recipes
from ctp.cli import CommandLine
from ctp.config import Config
from ctp.data.catalog import open_catalog
from ctp.data.quarantine import QuarantinedVideo, QuarantineLimitError
from ctp.pretext.batches import Clip
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import PretrainConfig
from ctp.pretext.ctp.metrics import TrackingTally
from ctp.pretext.ctp.tracker import Tracker
from ctp.pretext.pretrain import Pretraining, build_model
from ctp.report.preview import Scene, grid_mp4, grid_png, seen_frames
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore
from ctp.training.step import autocast, prepare
from ctp.video.augment import to_input

ABOUT = """Draw clips with their boxes: a picture, OUT/clips.png, and a video, OUT/clips.mp4.

Without --run, training clips as the recipe makes them. With --run, held-out clips of that run and
what the model of its newest checkpoint predicts on them.

  preview.py --recipe small --first_position 30000      what a late step trains on
  preview.py --recipe ucf101-r3d18 --data.uri my/videos  the paper's game on your videos
  preview.py --run my-run                               what a run has learnt
  preview.py --run my-run --data.uri my/videos          the same, tried on your videos"""
PNG, MP4 = "clips.png", "clips.mp4"


class DrawingConfig(Config):
    """What to draw, and where to."""

    out: str = "preview"
    """Folder for the picture and the video, local or s3://bucket/prefix."""
    run: str = ""
    """Draw predictions of this run: its name below `storage`, or its folder's path or URI."""
    num_clips: Annotated[int, Ge(1)] = 4
    """Clips to draw."""
    first_position: Annotated[int, Ge(0)] = 0
    """Number of the first clip in the run's stream, or among the held-out ones with `run`."""
    num_columns: Annotated[int, Ge(1)] = 8
    """Frames of each clip in the picture, evenly chosen."""
    size_px: Annotated[int, Ge(16)] = 224
    """Side of a frame in the picture and the video; larger clips keep their size."""
    png_colors: Annotated[int, Ge(2), Le(256)] | None = None
    """Colours of the picture; 256 halve the size of the file. None: all there are."""


class PreviewConfig(PretrainConfig, DrawingConfig):
    """A pretraining config, and what to draw of it."""


def main(argv: list[str] | None = None) -> None:
    """Parse, draw, and say where it is."""
    choices = {name: _with_drawing(make) for name, make in recipes.PRETRAIN.items()}
    recipe, config = CommandLine(choices, "tiny", ABOUT).parse(argv)
    try:
        out = Storage.of(config.out)
        out.check_writable()
        scenes, quarantined = (
            _predictions(recipe, config) if config.run else _training_clips(config)
        )
        _tell_rejected(quarantined)
        _draw(scenes, out, config)
    except (ValueError, StorageError, QuarantineLimitError) as error:
        sys.exit(f"error: {error}")


def _with_drawing(make: Callable[[], PretrainConfig]) -> Callable[[], PreviewConfig]:
    def recipe() -> PreviewConfig:
        return PreviewConfig(**make().model_dump())

    recipe.__doc__ = make.__doc__
    return recipe


def _draw(scenes: list[Scene], out: Storage, config: PreviewConfig) -> None:
    if not scenes:
        raise ValueError("none of the videos can be used; see above")
    picture = grid_png(
        scenes,
        num_columns=config.num_columns,
        size_px=config.size_px,
        num_colors=config.png_colors,
    )
    for name, data in ((PNG, picture), (MP4, grid_mp4(scenes, size_px=config.size_px))):
        out.join(name).write_bytes(data)
        print(f"wrote {out.join(name).uri} ({len(data) / 1000:.0f} kB)")


def _training_clips(config: PreviewConfig) -> tuple[list[Scene], list[QuarantinedVideo]]:
    """Clips of the run's stream as the encoder sees them."""
    maker = Pretraining.of(config).train
    scenes, quarantined = [], []
    for position in range(config.first_position, config.first_position + config.num_clips):
        clip, failed = maker.at(position)
        quarantined += failed
        caption = f"clip {position}: {clip.video_id}"
        scenes.append(Scene(seen_frames(clip), clip.boxes, clip.visible, caption))
    return scenes, quarantined


def _predictions(recipe: str, config: PreviewConfig) -> tuple[list[Scene], list[QuarantinedVideo]]:
    """Held-out clips of a run, with the boxes of its newest checkpoint; says how good they are."""
    own_videos = _check_options(recipe, config)
    folder = run_folder.find_run(config.run, config.storage)
    trained = _read_config(folder)
    model, step = _load_model(folder, trained)
    maker = _heldout_maker(trained, config.data.uri if own_videos else None)
    last = config.first_position + config.num_clips
    clips, quarantined = maker.heldout(range(config.first_position, last))
    total = TrackingTally()
    scenes = [_predicted_scene(model, trained, clip, total) for clip in clips]
    if scenes:
        found = total.result()
        print(
            f"run {folder.uri} after step {step}: IoU {found['iou']:.3f} on these "
            f"{len(scenes)} clip(s); a box that stays still has {found['still_iou']:.3f}"
        )
    return scenes, quarantined


def _check_options(recipe: str, config: PreviewConfig) -> bool:
    """Refuse options that --run would silently overrule.

    Returns:
        Whether videos were named to predict on.
    """
    asked = PretrainConfig(**config.model_dump(include=set(PretrainConfig.model_fields)))
    differ = [line.split()[0] for line in asked.mismatch(recipes.PRETRAIN[recipe]())]
    refused = [name for name in differ if name != "data.uri"]
    if refused:
        raise ValueError(
            f"--run takes the run's own config; leave out {', '.join(refused)}. Only data.uri, "
            "to predict on other videos, and storage, to find the run, go with it"
        )
    return "data.uri" in differ


def _read_config(folder: Storage) -> PretrainConfig:
    values = yaml.safe_load(folder.join(run_folder.CONFIG).read_bytes())
    return PretrainConfig.model_validate(values)


def _load_model(folder: Storage, config: PretrainConfig) -> tuple[Tracker, int]:
    """The model of the newest checkpoint, on the GPU if there is one, and the steps it did."""
    store = CheckpointStore(folder.join(run_folder.CHECKPOINTS), keep=1)
    newest = store.newest()
    if newest is None:
        raise ValueError(
            f"run {folder.uri} has no checkpoint yet; it saves every "
            f"{config.checkpoint.every_minutes:g} min (checkpoint.every_minutes)"
        )
    state = store.load(newest)
    store.close()
    model = build_model(config)
    model.load_state_dict(state.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare(model, config.compute, device).eval()
    return model, state.step


def _heldout_maker(config: PretrainConfig, uri: str | tuple[str, ...] | None) -> ClipMaker:
    """What makes the run's held-out clips, or clips of all videos of `uri`."""
    if uri is not None:
        return ClipMaker(config, open_catalog(uri))
    maker = Pretraining.of(config).heldout
    if not len(maker.catalog):
        raise ValueError(
            f"run {config.name!r} holds no video out (data.heldout_share "
            f"{config.data.heldout_share:g}); name videos by --data.uri"
        )
    return maker


@torch.no_grad()
def _predicted_scene(
    model: Tracker, config: PretrainConfig, clip: Clip, total: TrackingTally
) -> Scene:
    """A clip with the model's boxes and their IoU, counted into `total`."""
    device = model.sigma.device
    boxes = torch.as_tensor(clip.boxes)[None].to(device)
    visible = torch.as_tensor(clip.visible)[None].to(device)
    frames = to_input(torch.as_tensor(clip.frames)[None].to(device))
    with autocast(config.compute, device):
        predicted = model.track(frames, boxes[:, :, 0])
    own = TrackingTally()
    for tally in (own, total):
        tally.add(predicted, boxes, visible)
    found = own.result()
    caption = f"{clip.video_id}   IoU {found['iou']:.2f} (still {found['still_iou']:.2f})"
    return Scene(clip.frames, clip.boxes, clip.visible, caption, predicted[0].cpu().numpy())


def _tell_rejected(quarantined: list[QuarantinedVideo]) -> None:
    for entry in quarantined:
        print(f"cannot be used: {entry.video_id}: {entry.reason}")


if __name__ == "__main__":
    main()
