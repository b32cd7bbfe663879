"""The preview job from its command line to its files, without a cluster."""

import io
import json
import re

import av
import pytest
import yaml
from PIL import Image

from ctp import recipes
from ctp.pretext.pretraining import build_model, open_pretraining
from ctp.storage import Storage
from ctp.training.checkpoint import CheckpointStore, TrainState

NUM_FRAMES = 8
"""Frames in a clip of recipe tiny."""


@pytest.fixture(scope="module")
def preview(load_job):
    return load_job("preview")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny():
    config = recipes.tiny()
    return config.replace(data=config.data.replace(uri="corpus:8"), name="a-run")


def make_run(config, folder, *, with_checkpoint=True):
    """A run folder as a run leaves it, its weights untrained."""
    folder.mkdir(parents=True)
    values = {"kind": "pretrain", **config.model_dump(mode="json")}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    if with_checkpoint:
        state = TrainState(7, build_model(config).state_dict(), {}, "", "")
        store = CheckpointStore(Storage.from_uri(folder / "checkpoints"), keep=1)
        store.save(state)
        store.close()
    return folder


def check_files(out, *, num_frames=NUM_FRAMES):
    with Image.open(io.BytesIO((out / "clips.png").read_bytes())) as picture:
        assert picture.format == "PNG"
    with av.open(io.BytesIO((out / "clips.mp4").read_bytes())) as container:
        assert sum(1 for _ in container.decode(video=0)) % num_frames == 0


def test_training_clips_of_a_recipe(preview, tmp_path, capsys):
    out = tmp_path / "pictures"
    preview.main(["--data.uri", "corpus:8", "--num_clips", "2", "--out", str(out)])
    check_files(out)
    assert sorted(path.name for path in out.iterdir()) == ["clips.gif", "clips.mp4", "clips.png"]
    printed = capsys.readouterr().out
    assert str(out / "clips.png") in printed
    assert str(out / "clips.mp4") in printed


def test_clips_start_at_the_given_position(preview, tmp_path):
    def picture(first):
        options = ["--data.uri", "corpus:8", "--num_clips", "1", "--size_px", "64"]
        preview.main([*options, "--first_position", first, "--out", str(tmp_path)])
        return (tmp_path / "clips.png").read_bytes()

    assert picture("0") == picture("0")
    assert picture("0") != picture("1")


def test_the_size_is_as_asked(preview, tmp_path):
    def width(size):
        options = ["--data.uri", "corpus:8", "--num_clips", "1", "--size_px", str(size)]
        preview.main([*options, "--out", str(tmp_path)])
        with Image.open(tmp_path / "clips.png") as picture:
            return picture.width

    assert width(80) - width(64) == 8 * (80 - 64)  # eight frames are drawn


@pytest.mark.parametrize("by_name", [True, False])
def test_predictions_of_a_run(preview, tiny, tmp_path, capsys, by_name):
    folder = make_run(tiny, tmp_path / "runs" / "a-run")
    options = ["--storage", str(folder.parent), "--run", "a-run"] if by_name else [
        "--run", str(folder)
    ]  # fmt: skip
    preview.main([*options, "--num_clips", "2", "--out", str(tmp_path / "out")])
    check_files(tmp_path / "out")
    printed = capsys.readouterr().out
    assert "after step 7: tracking IoU 0." in printed
    assert "(still box 0." in printed
    assert "of these 2 clip(s)" in printed


def test_clips_of_a_run_are_of_different_videos_drawn_by_seed(
    preview, tiny, tmp_path, capsys, monkeypatch
):
    tiny = tiny.replace(data=tiny.data.replace(uri="corpus:60", heldout_share=0.5))
    folder = make_run(tiny, tmp_path / "runs" / "a-run")
    last = {"step": 5, "iou": 0.625, "still_iou": 0.5, "heldout_clips": 64}
    (folder / "metrics.jsonl").write_text(f"{json.dumps(last)}\n")
    drawn = []
    monkeypatch.setattr(
        "ctp.commands.work.preview.write_clips",
        lambda out, name, pictures: drawn.append([p.caption.split("   ")[0] for p in pictures]),
    )
    for seed in ("0", "0", "1"):
        preview.main(["--run", str(folder), "--seed", seed, "--out", str(tmp_path / "out")])
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(names)) == 4 for names in drawn)
    whole = "its last evaluation, after step 5: tracking IoU 0.625 of 64 clips (still box 0.500)"
    assert capsys.readouterr().out.count(whole) == 3


def test_an_untrained_head_predicts_about_the_still_box(preview, tiny, tmp_path, capsys):
    folder = make_run(tiny, tmp_path / "runs" / "a-run")
    preview.main(["--run", str(folder), "--num_clips", "2", "--out", str(tmp_path / "out")])
    pattern = r"tracking IoU ([\d.]+) ± [\d.]+ \(still box ([\d.]+)\)"
    (found,) = re.findall(pattern, capsys.readouterr().out)
    predicted, still = map(float, found)
    assert predicted == pytest.approx(still, abs=0.1)


def test_a_sample_of_the_picture_is_that_of_the_stream(preview, tiny, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "ctp.commands.work.preview.write_clips",
        lambda out, name, pictures: drawn.extend(pictures),
    )
    preview.main(["--data.uri", "corpus:8", "--first_position", "5", "--out", str(tmp_path)])
    expected = [open_pretraining(tiny).stream.draw(position).video_id for position in range(5, 9)]
    captions = [picture.caption.split("   ")[0] for picture in drawn]
    assert captions == [f"clip {5 + n}: {name}" for n, name in enumerate(expected)]


def test_predictions_on_other_videos(preview, tiny, tmp_path, encode_video, capsys):
    folder = make_run(tiny, tmp_path / "runs" / "a-run")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "good.mp4").write_bytes(encode_video(40))
    (videos / "bad.mp4").write_bytes(b"no video")
    options = ["--run", str(folder), "--data.uri", str(videos), "--num_clips", "2"]
    preview.main([*options, "--out", str(tmp_path / "out")])
    check_files(tmp_path / "out")
    printed = capsys.readouterr().out
    assert "cannot be used" in printed
    assert "bad.mp4" in printed
    assert "these 1 clip(s)" in printed


def error_of(preview, capsys, options):
    with pytest.raises(SystemExit) as stopped:
        preview.main(options)
    assert stopped.value.code not in (0, None)
    said = str(stopped.value)  # the message, or the status of a command line that is invalid
    return said if said.startswith("error") else f"{said}{capsys.readouterr().err}"


def test_a_missing_run_is_reported_with_the_existing_runs(preview, tiny, tmp_path, capsys):
    make_run(tiny, tmp_path / "runs" / "a-run", with_checkpoint=False)
    options = ["--storage", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    message = error_of(preview, capsys, [*options, "--run", "b-run"])
    assert "b-run" in message
    assert "did you mean a-run?" in message
    assert "\n" not in message.strip()


def test_a_run_without_a_checkpoint_says_so(preview, tiny, tmp_path, capsys):
    folder = make_run(tiny, tmp_path / "runs" / "a-run", with_checkpoint=False)
    message = error_of(preview, capsys, ["--run", str(folder), "--out", str(tmp_path / "out")])
    assert "no checkpoint" in message
    assert "\n" not in message.strip()


def test_a_run_that_holds_nothing_out_asks_for_videos(preview, tiny, tmp_path, capsys):
    config = tiny.replace(data=tiny.data.replace(heldout_share=0.0))
    folder = make_run(config, tmp_path / "runs" / "a-run")
    message = error_of(preview, capsys, ["--run", str(folder), "--out", str(tmp_path / "out")])
    assert "--data.uri" in message


def test_an_option_that_the_run_would_overrule_is_refused(preview, tiny, tmp_path, capsys):
    folder = make_run(tiny, tmp_path / "runs" / "a-run")
    options = ["--run", str(folder), "--task.num_patches", "5", "--out", str(tmp_path / "out")]
    assert "leave out task.num_patches" in error_of(preview, capsys, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "/proc/no"], "/proc/no"),
        (["--data.uri", "no/such/folder"], "no/such/folder"),
        (["--num_clip", "2"], "did you mean --num_clips"),
        (["--num_clips", "0"], "num_clips"),
    ],
)
def test_what_does_not_fit_is_one_error(preview, options, message, tmp_path, capsys):
    error = error_of(preview, capsys, ["--out", str(tmp_path), *options])
    assert message in error


def test_help_shows_what_to_draw_before_what_to_train(preview, capsys):
    with pytest.raises(SystemExit) as stopped:
        preview.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert 0 < printed.index("--num_clips") < printed.index("--data.uri {")
