"""VCOP: the label is the order that the frames show, and crops do not tell it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctp.data.shards import ShardRow, write_shard
from ctp.data.sources import open_catalog
from ctp.data.stream import Drawn, SampleStream
from ctp.pretext.vcop.config import VcopConfig
from ctp.pretext.vcop.task import VcopTask
from ctp.storage import Storage
from ctp.video.config import AugmentConfig, SamplingConfig
from ctp.video.planes import to_rgb

SIZE, NUM_FRAMES, GAP = 64, 4, 5


def draw(
    uri: Path, *, side: int = SIZE, flip_prob: float = 0, count: int = 60, **options: Any
) -> list[Drawn[Any]]:
    """Draw samples of square clips."""
    sampling = options.pop(
        "sampling", SamplingConfig(num_frames=NUM_FRAMES, interval_frames=(1, 1))
    )
    augment = AugmentConfig(frame_size_px=SIZE, short_sides_px=(side,), flip_prob=flip_prob)
    task = VcopTask(VcopConfig(sampling=sampling, augment=augment, gap_frames=GAP, **options))
    stream: SampleStream[Any] = SampleStream(task, open_catalog(str(uri)), 0, 4, 100)
    return [stream.draw(position) for position in range(count)]


def rgb(planes: Any) -> Any:
    return to_rgb(torch.from_numpy(planes.copy()), SIZE).numpy()


@pytest.mark.parametrize(("num_clips", "interval"), [(3, 1), (3, 2), (2, 1)])
def test_the_label_is_the_order_of_the_clips(
    tmp_path: Path,
    encode_video: Callable[..., bytes],
    read_numbers: Callable[[Any], list[int]],
    num_clips: int,
    interval: int,
) -> None:
    (tmp_path / "a.mp4").write_bytes(encode_video(60, width=SIZE, height=SIZE))
    sampling = SamplingConfig(num_frames=NUM_FRAMES, interval_frames=(interval, interval))
    samples = [each.sample for each in draw(tmp_path, sampling=sampling, num_clips=num_clips)]
    orders = list(permutations(range(num_clips)))
    assert {int(sample.label) for sample in samples} == set(range(len(orders)))
    starts = set()
    for sample in samples:
        shown = np.array([read_numbers(rgb(clip)) for clip in sample.planes])
        assert (np.diff(shown, axis=1) == interval).all()
        order = np.argsort(np.argsort(shown[:, 0]))
        assert tuple(order) == orders[sample.label]
        in_time = np.sort(shown, axis=0)
        assert (in_time[1:, 0] - in_time[:-1, -1] - 1 == GAP).all()
        starts.add(int(shown.min()))
    last = 60 - num_clips * (interval * (NUM_FRAMES - 1) + 1) - (num_clips - 1) * GAP
    assert min(starts) >= 0
    assert last - 5 < max(starts) <= last


@pytest.mark.parametrize("crop_per", ["clip", "sample"])
def test_each_clip_has_its_own_crop_unless_they_share_one(
    tmp_path: Path, moving_rectangle: Callable[..., ShardRow], crop_per: str
) -> None:
    row = moving_rectangle("still", 40, step=(0, 0))
    write_shard(Storage.from_uri(tmp_path).join("a.parquet"), [row])
    distances = []
    for each in draw(tmp_path, side=2 * SIZE, flip_prob=0.5, count=12, crop_per=crop_per):
        first, *others = rgb(each.sample.planes)[:, 0].astype(float)
        distances.append(max(np.abs(first - other).mean() for other in others))
    # what is left of equal crops is the noise of the codec
    is_different = np.array(distances) > 1
    assert is_different.mean() > 0.8 if crop_per == "clip" else not is_different.any()


def test_a_video_too_short_for_three_clips_is_quarantined(
    tmp_path: Path, encode_video: Callable[..., bytes]
) -> None:
    needed = 3 * NUM_FRAMES + 2 * GAP
    for number in (needed - 1, needed):
        (tmp_path / f"{number}.mp4").write_bytes(encode_video(number, width=SIZE, height=SIZE))
    samples = draw(tmp_path)
    assert {each.video_id for each in samples} == {f"{needed}.mp4"}
    quarantined = {q.video_id: q.reason for each in samples for q in each.quarantined}
    assert quarantined.keys() == {f"{needed - 1}.mp4"}
    assert "task.gap_frames" in quarantined[f"{needed - 1}.mp4"]


def test_the_papers_clips_span_64_frames(
    tmp_path: Path, encode_video: Callable[..., bytes]
) -> None:
    """3 · 16 + 2 · 8, as in the original's list of videos."""
    for number in (63, 64):
        (tmp_path / f"{number}.mp4").write_bytes(encode_video(number))
    stream: SampleStream[Any] = SampleStream(
        VcopTask(VcopConfig()), open_catalog(str(tmp_path)), 0, 2, 1
    )
    assert {stream.draw(position).video_id for position in range(2)} == {"64.mp4"}
