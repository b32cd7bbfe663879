"""Raw videos become shards of segments, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ctp.curation.config import CurateConfig
from ctp.curation.curate import (
    create_or_resume,
    decide_all,
    estimate,
    open_curation,
    plan_writing,
    read_written,
    unmeasured,
    write_manifest,
)
from ctp.curation.measure import measure_group
from ctp.curation.page import PAGE, write_page
from ctp.curation.write import write_group
from ctp.data.sources import open_catalog
from ctp.lease import FolderInUseError, hold
from ctp.storage import Storage
from ctp.video.decode import VideoReader

ALL = {"min_seconds": None, "min_short_side_px": None, "min_motion": None, "max_shake": None,
       "max_text_share": None, "max_hash_distance": None, "min_brightness": None}  # fmt: skip
"""Settings that drop only what is damaged."""


def curate(config):
    """Curate; return the decided segments and the manifest."""
    curation = open_curation(config)
    create_or_resume(curation)
    with hold(curation.out, "curate") as lease:
        create_or_resume(curation, lease.attempt)
        return curate_held(curation)


def curate_held(curation):
    config = curation.config
    for group in unmeasured(curation):
        list(measure_group(group, None, config, curation.out))
    decided, facts = decide_all(curation)
    for task in plan_writing(curation, decided):
        list(write_group(task, None, config, curation.out))
    written = read_written(curation)
    write_page(curation, decided, facts)
    if config.dry_run:
        return decided, estimate(curation, decided, facts, written)
    return decided, write_manifest(curation, decided, facts, written)


UNCUT = {"detector": "off"}
"""For frames that show their numbers: each one is a cut."""


def make_config(folder: Path, **changes):
    values = {"source": str(folder / "raw"), "out": str(folder / "out"), "cuts": UNCUT, **changes}
    return CurateConfig.from_values(values)


@pytest.fixture
def numbered(tmp_path, encode_video):
    """Two raw videos whose frames show their numbers, and one file of text."""
    (tmp_path / "raw").mkdir()
    for name, number in (("a", 130), ("b", 60)):
        (tmp_path / "raw" / f"{name}.mp4").write_bytes(encode_video(number))
    (tmp_path / "raw" / "text.mp4").write_text("this is text")
    return tmp_path


def test_a_segment_holds_exactly_its_frames(numbered, read_numbers):
    config = make_config(numbered, rules=ALL, cuts={"detector": "off", "max_seconds": 2})
    decided, _ = curate(config)
    assert decided["num_frames"].tolist() == [50, 50, 30, 50, 10]
    for entry in open_catalog(config.out):
        row = decided[decided["id"] == entry.id].iloc[0]
        with VideoReader(entry.read()) as reader:
            frames = reader.read(range(reader.num_frames), short_side_px=64)
            assert reader.clock.rate == pytest.approx(25)
        first = row["first_frame"]
        assert read_numbers(frames) == list(range(first, first + row["num_frames"]))


def test_a_shard_has_the_measures_of_its_segments(numbered):
    config = make_config(numbered, rules=ALL, segments_per_shard=1)
    decided, manifest = curate(config)
    read = pd.read_parquet(config.out).set_index("id")
    assert len(manifest["shards"]) == len(read) == 2
    for _, row in decided.iterrows():
        stored = read.loc[row["id"]]
        for name in ("source", "start_seconds", "end_seconds", "motion", "shake", "brightness"):
            assert stored[name] == row[name]
        assert list(stored["crop"]) == [0, 0, 96, 64]


def test_the_manifest_accounts_for_everything(numbered):
    decided, manifest = curate(make_config(numbered, rules={**ALL, "min_seconds": 3}))
    assert [each["id"] for each in manifest["quarantined"]] == ["text.mp4"]
    assert manifest["sources"]["videos"] == 3
    assert manifest["rules"]["short"]["segments"] == (decided["rule"] == "short").sum() == 1
    assert manifest["rules"]["short"]["examples"] == ["b.mp4/00000"]
    assert manifest["rules"]["short"]["setting"] == "rules.min_seconds 3"
    assert manifest["videos"] == 1
    assert json.loads((numbered / "out" / "_manifest.json").read_bytes()) == manifest


def test_what_is_finished_is_not_done_again(numbered):
    config = make_config(numbered, rules=ALL)
    _, first = curate(config)
    curation = open_curation(config)
    assert unmeasured(curation) == []
    assert plan_writing(curation, decide_all(curation)[0]) == []
    (numbered / "out" / "_written" / "00000.json").unlink()
    assert curate(config)[1]["shards"] == first["shards"]


def test_a_retry_that_keeps_less_leaves_no_shard_of_the_first_attempt(numbered):
    cuts = {"detector": "off", "max_seconds": 2}
    config = make_config(numbered, rules=ALL, segments_per_shard=1, cuts=cuts)
    assert curate(config)[1]["videos"] == 5
    (numbered / "out" / "_written" / "00000.json").unlink()
    (numbered / "raw" / "a.mp4").write_text("no video any more")
    _, manifest = curate(config)
    assert [entry.id for entry in open_catalog(config.out)] == ["b.mp4/00000", "b.mp4/00001"]
    names = [path.name for path in sorted((numbered / "out").glob("shard-*"))]
    assert names == [each["name"] for each in manifest["shards"]]


def test_videos_and_shards_may_be_on_s3(s3_bucket, encode_video, tmp_path):
    place = Storage.from_uri(s3_bucket)
    for name in ("a", "b"):
        place.join("raw", f"{name}.mp4").write_bytes(encode_video(60))
    folders = {"source": place.join("raw").uri, "out": place.join("out").uri}
    config = make_config(tmp_path, rules=ALL, **folders)
    assert curate(config)[1]["videos"] == 2
    assert [each.num_frames for each in open_catalog(config.out)] == [60, 60]
    assert b"b.mp4" in place.join("out", PAGE).read_bytes()


def test_other_rules_are_refused_once_shards_are_written(numbered):
    config = make_config(numbered, rules=ALL)
    curate(config)
    other = make_config(numbered, rules={**ALL, "min_seconds": 3})
    with pytest.raises(ValueError, match=r"shards of other rules: rules was .*min_seconds"):
        create_or_resume(open_curation(other))
    cuts = make_config(numbered, rules=ALL, cuts={"detector": "content"})
    with pytest.raises(ValueError, match=r"another build: cuts was"):
        create_or_resume(open_curation(cuts))


def test_rules_that_drop_everything_are_named_and_can_be_changed(numbered):
    with pytest.raises(ValueError, match=r"all 2 segments are dropped.*rule dark"):
        curate(make_config(numbered, rules={**ALL, "min_brightness": 1.0}))
    assert curate(make_config(numbered, rules=ALL))[1]["videos"] == 2


def test_videos_of_which_none_can_be_used_are_named(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "text.mp4").write_text("this is text")
    with pytest.raises(ValueError, match=r"no video can be used: text\.mp4 cannot be opened"):
        curate(make_config(tmp_path, rules=ALL))


def test_a_dry_run_estimates_the_whole_and_may_change_its_rules(numbered, encode_video):
    for number in range(6):
        (numbered / "raw" / f"more{number}.mp4").write_bytes(encode_video(60))
    dry = make_config(numbered, rules=ALL, dry_run=True, sample=4)
    decided, whole = curate(dry)
    assert decided["source"].nunique() <= 4
    # nine videos: about 550 frames
    assert whole.hours * 3600 == pytest.approx(550 / 25, rel=0.4)
    assert whole.bytes > 0
    other = replace_rules(dry, min_seconds=3)
    assert curate(other)[0]["id"].tolist() == decided["id"].tolist()
    assert not (numbered / "out" / "_manifest.json").exists()


def test_a_dry_run_deletes_nothing_while_another_process_holds_its_folder(numbered):
    dry = make_config(numbered, rules=ALL, dry_run=True, sample=2)
    curate(dry)
    out = numbered / "out" / "_dry_run"
    other = open_curation(replace_rules(dry, min_seconds=1))
    with hold(other.out, "curate") as lease:
        before = sorted(out.glob("*"))
        create_or_resume(other)
        assert sorted(out.glob("*")) == before
        with pytest.raises(FolderInUseError), hold(other.out, "curate"):
            pass
        create_or_resume(other, lease.attempt)
        lease.attempt.check()
        assert not list(out.glob("shard-*"))
        assert list(out.glob("_measured/*"))


def test_the_whole_follows_a_dry_run_in_the_same_folder(numbered):
    curate(make_config(numbered, rules=ALL, dry_run=True, sample=2))
    config = make_config(numbered, rules=ALL)
    assert curate(config)[1]["videos"] == 2
    catalog = open_catalog(config.out)
    assert [entry.id for entry in catalog] == ["a.mp4/00000", "b.mp4/00000"]
    assert catalog.quarantined == ()
    (numbered / "other").mkdir()
    (numbered / "other" / "mine.txt").write_text("a file of the user")
    with pytest.raises(ValueError, match="holds files that are not a build"):
        curate(make_config(numbered, rules=ALL, out=str(numbered / "other")))


def replace_rules(config, **changes):
    return config.replace(rules=config.rules.replace(**changes))


def test_a_video_of_one_frame_is_short(tmp_path, encode_video):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "one.mp4").write_bytes(encode_video(1))
    (tmp_path / "raw" / "two.mp4").write_bytes(encode_video(60))
    rules = {**ALL, "min_seconds": 1}
    assert curate(make_config(tmp_path, rules=rules))[0]["rule"].tolist() == ["short", ""]


def test_damage_costs_only_what_is_broken(tmp_path, encode_damaged, read_numbers):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "broken.mkv").write_bytes(encode_damaged(60, 23))
    config = make_config(tmp_path, rules=ALL)
    decided, manifest = curate(config)
    assert decided["rule"].tolist() == ["", "damaged", ""]
    assert "at 0.92 s" in manifest["damage"]["broken.mkv"][0]
    kept = []
    for entry in open_catalog(config.out):
        with VideoReader(entry.read()) as reader:
            kept += read_numbers(reader.read(range(reader.num_frames), short_side_px=64))
    assert kept == [*range(23), *range(30, 60)]


def test_another_size_begins_another_segment(tmp_path, encode_video):
    """A recording that changes its size, as a transport stream of two."""
    parts = [encode_video(50, width=w, format="mpegts", codec="mpeg2video") for w in (96, 64)]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "joined.ts").write_bytes(b"".join(parts))
    decided, _ = curate(make_config(tmp_path, rules=ALL))
    assert [list(size) for size in decided["picture_size"]] == [[96, 64], [64, 64]]
    # at the change, FFmpeg's decoder keeps its last picture
    assert decided["num_frames"].tolist() == [49, 50]


EXPECTED = {
    "slide": {"static", "text"},
    "credits": {"text"},
    "still": {"static"},
    "dark": {"dark"},
}
"""Kind of a planted part -> rules that should drop it."""


@pytest.mark.slow
def test_what_was_planted_is_found(tmp_path, raw_collection):
    clips = [f"corpus:{i}-{i + 1}" for i in range(16)]
    planted = raw_collection(tmp_path / "raw", clips, per_file=15, copy_share=0.25)
    # some of the clips are made to shake
    rules = {"min_seconds": 1, "min_short_side_px": 64, "max_shake": None}
    config = make_config(tmp_path, rules=rules, cuts={})
    decided, _ = curate(config)
    copies, missed = 0, []
    for part in planted:
        middle = (part.first + part.end) // 2
        rows = decided[(decided["source"] == part.file) & (decided["first_frame"] <= middle)]
        segment = rows.iloc[-1]
        if segment["first_frame"] - part.first not in range(15 if part.fades_in else 1):
            missed.append(part)
        elif part.kind != "clip":
            assert segment["rule"] in EXPECTED[part.kind], part
        else:
            assert segment["rule"] in {"", "duplicate"}, part
            assert list(segment["crop"]) == [0, part.bar_px, 240, 180 - 2 * part.bar_px], part
            copies += segment["rule"] == "duplicate"
    # a cut between two clips that shake is hard to tell
    assert len(missed) <= 0.05 * len(planted)
    assert 0 < sum(part.is_copy for part in planted) - len(missed) <= copies
    # nothing black is left at the edges
    for entry in open_catalog(config.out)[:4]:
        with VideoReader(entry.read()) as reader:
            assert reader.read([10], short_side_px=64).max(axis=3).mean(axis=2).min() > 20
