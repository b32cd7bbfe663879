"""Annotated videos: boxes and visible frames from shards, and the errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctp.data import corpus
from ctp.data.annotated import Track, Tracks, open_annotated, read_objects
from ctp.data.shards import ShardRow, write_shard
from ctp.data.sources import open_catalog
from ctp.storage import Storage

Rectangle = Callable[..., ShardRow]


def test_boxes_and_visible_frames_come_from_the_shards(
    tmp_path: Path, moving_rectangle: Rectangle
) -> None:
    flags = np.zeros(12, np.int8)
    flags[3] = 1
    cover = np.full(12, 8, np.int8)
    cover[[5, 6]] = 0
    plain = moving_rectangle("b", 20)
    flagged = replace(moving_rectangle("a", 12, step=(5, 0)), absence=flags, cover=cover)
    write_shard(Storage.from_uri(tmp_path / "1.parquet"), [plain])
    write_shard(Storage.from_uri(tmp_path / "2.parquet"), [flagged])
    found = open_annotated(str(tmp_path))
    assert [entry.id for entry in found.catalog] == ["a", "b"]
    assert len(found.tracks) == 2
    first, second = found.tracks[0], found.tracks[1]
    assert plain.boxes is not None
    assert second.boxes.tolist() == plain.boxes.tolist()
    assert second.counted.all()
    assert (second.width, second.height) == (64, 48)
    # at frame 11 it starts at x = 65, outside of the picture
    assert np.flatnonzero(~first.counted).tolist() == [3, 5, 6, 11]
    assert first.boxes[10].tolist() == [60, 12, 64, 26]


@pytest.mark.parametrize("ending", ["A.PARQUET", "a.parquet?region=us-east-1"])
def test_a_shard_is_known_by_the_ending_of_its_path(
    ending: str, s3_bucket: str, moving_rectangle: Rectangle
) -> None:
    row = moving_rectangle("a", 6)
    assert row.boxes is not None
    uri = f"{s3_bucket}/{ending}"
    write_shard(Storage.from_uri(uri), [row])
    found = open_annotated(uri)
    assert found.tracks[0].boxes.tolist() == row.boxes.tolist()
    assert read_objects(found.catalog[0]).tracks[0].boxes.tolist() == row.boxes.tolist()


def test_several_sources(tmp_path: Path, moving_rectangle: Rectangle) -> None:
    for name, start in (("one", (0, 0, 9, 9)), ("two", (30, 20, 50, 40))):
        row = moving_rectangle("a", 6, start=start)
        write_shard(Storage.from_uri(tmp_path / name).join("a.parquet"), [row])
    found = open_annotated([str(tmp_path / "two"), str(tmp_path / "one")])
    assert [Path(entry.id).parts[-2:] for entry in found.catalog] == [("one", "a"), ("two", "a")]
    assert [track.boxes[0].tolist() for track in found.tracks] == [[0, 0, 9, 9], [30, 20, 50, 40]]


def test_boxes_that_are_nan_are_not_visible(tmp_path: Path, moving_rectangle: Rectangle) -> None:
    row = moving_rectangle("a", 6)
    assert row.boxes is not None
    row.boxes[2] = np.nan
    row.boxes[4, 2:] = row.boxes[4, :2]
    write_shard(Storage.from_uri(tmp_path / "a.parquet"), [row])
    track = open_annotated(str(tmp_path)).tracks[0]
    assert np.flatnonzero(~track.counted).tolist() == [2, 4]
    assert np.isfinite(track.boxes).all()


def test_a_video_without_an_object_is_quarantined(
    tmp_path: Path, moving_rectangle: Rectangle
) -> None:
    gone = replace(moving_rectangle("gone", 6), absence=np.array([0, 1, 1, 1, 1, 1], np.int8))
    place = Storage.from_uri(tmp_path / "a.parquet")
    write_shard(place, [gone, moving_rectangle("there", 6)])
    found = open_annotated(str(tmp_path))
    assert [entry.id for entry in found.catalog] == ["there"]
    assert [(entry.video_id, entry.reason) for entry in found.catalog.quarantined] == [
        ("gone", "its object is visible in fewer than 2 frames")
    ]
    write_shard(place, [gone])
    with pytest.raises(ValueError, match="no object is visible in any of the 1 videos"):
        open_annotated(str(tmp_path))


def test_videos_without_boxes_are_named(tmp_path: Path, moving_rectangle: Rectangle) -> None:
    bare = [replace(moving_rectangle(f"bare{i}", 4), boxes=None) for i in range(7)]
    write_shard(Storage.from_uri(tmp_path / "a.parquet"), [*bare, moving_rectangle("good", 4)])
    said = r"7 of 8 videos have no boxes \(.*--layout got10k\): 'bare0', .* and 2 more"
    with pytest.raises(ValueError, match=said):
        open_annotated(str(tmp_path))


def test_loose_videos_have_no_boxes(video_folder: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="2 of 2 videos have no boxes"):
        open_annotated(str(video_folder(good=2)))


def test_a_test_part_with_only_the_first_box_is_refused(
    tmp_path: Path, moving_rectangle: Rectangle
) -> None:
    row = moving_rectangle("a", 6)
    assert row.boxes is not None
    write_shard(Storage.from_uri(tmp_path / "a.parquet"), [replace(row, boxes=row.boxes[:1])])
    with pytest.raises(ValueError, match="1 of 1 videos have a box only in their first frame"):
        open_annotated(str(tmp_path))


@pytest.mark.parametrize("part", ["", "train", "val"])
def test_got10ks_own_folders_are_refused(tmp_path: Path, part: str) -> None:
    (tmp_path / part).mkdir(exist_ok=True)
    (tmp_path / part / "list.txt").write_text("GOT-10k_Train_000001\n")
    with pytest.raises(ValueError, match=r"folders of frames.*jobs/build_shards\.py"):
        open_annotated(str(tmp_path))


def test_concatenated_tracks_are_separated_again() -> None:
    rng = np.random.default_rng(0)
    tracks = [
        Track(rng.random((n, 4), np.float32), rng.random(n) < 0.5, 10 + n, 20) for n in (3, 1, 5)
    ]
    joined = Tracks.from_list(tracks)
    assert len(joined) == 3
    for number, track in enumerate(tracks):
        found = joined[number]
        np.testing.assert_array_equal(found.boxes, track.boxes)
        np.testing.assert_array_equal(found.counted, track.counted)
        assert (found.width, found.height) == (track.width, track.height)


def test_generated_videos_have_boxes_without_shards() -> None:
    """An object counts in the frames that show its centre, and its box ends at the edge."""
    for entry in open_catalog("corpus:10"):
        found = read_objects(entry)
        boxes = corpus.object_boxes(entry.id)
        assert len(found.tracks) == len(boxes)
        assert found.weights.any()
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        is_shown = ((centers > 0) & (centers < [128, 96])).all(axis=-1)
        assert (found.weights == is_shown).all()
        for track, own in zip(found.tracks, boxes, strict=True):
            assert (track.boxes == own.clip(0, [128, 96, 128, 96])).all()
