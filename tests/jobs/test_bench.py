"""The bench runs on small sizes and writes a figure for all that it measured."""

import json

import pytest
import torch


@pytest.fixture(scope="module")
def bench(load_job):
    return load_job("bench")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def small_steps(bench, monkeypatch):
    """Steps of two clips, the paper's with the encoder of recipe tiny."""
    paper, tiny = bench.PAPER_RECIPE(), bench.recipes.tiny()
    tiny = tiny.replace(compute=tiny.compute.replace(total_batch=2))
    paper = paper.replace(encoder=tiny.encoder, head=tiny.head)
    monkeypatch.setattr(bench.recipes, "tiny", lambda: tiny)
    monkeypatch.setattr(bench, "PAPER_RECIPE", lambda: paper)


SMALL = ["--repeats", "2", "--clips_per_repeat", "1", "--data.uri", "corpus:2"]


def test_every_bench_gives_positive_figures(bench, small_steps, tmp_path, capsys):
    out = tmp_path / "folder" / "bench.json"
    threads = torch.get_num_threads()
    bench.main([*SMALL, "--out", str(out)])
    assert torch.get_num_threads() == threads
    result = json.loads(out.read_text())
    names = [row["name"] for row in result["rows"]]
    assert len(names) == len(set(names))
    for start, count in {
        "game, ": 2, "read, decode": 1, "whole clip, ": 2, "colours": 1, "normalise": 1,
        "plan look-up": 2, "step, ": 2,
    }.items():  # fmt: skip
        assert sum(name.startswith(start) for name in names) == count
    for row in result["rows"]:
        assert len(row["repeats"]) == 2
        assert 0 < row["least"] <= row["median"] <= row["most"]
    assert result["machine"]["cores"] >= 1
    assert result["config"]["data"]["uri"]
    printed = capsys.readouterr().out
    assert "whole clip, paper" in printed
    assert str(out) in printed


def test_only_what_is_asked_for_is_measured(bench, tmp_path):
    out = tmp_path / "bench.json"
    bench.main([*SMALL, "--what", "plan,game", "--out", str(out)])
    names = {row["name"].split()[0] for row in json.loads(out.read_text())["rows"]}
    assert names == {"plan", "game,"}


def test_videos_that_cannot_be_read_are_left_out_and_named(
    bench, small_steps, tmp_path, encode_video, capsys
):
    (tmp_path / "good.mp4").write_bytes(encode_video(40, width=96, height=64))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "bench.json"
    given = ["--repeats", "1", "--clips_per_repeat", "1", "--data.uri", str(tmp_path)]
    bench.main([*given, "--what", "decode", "--out", str(out)])
    assert "bad.mp4" in capsys.readouterr().err
    (row,) = json.loads(out.read_text())["rows"]
    assert row["note"] == "1 video(s) of 96×64"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--what", "nothing"], "what"),
        (["--data.uri", "no/such/folder", "--what", "decode"], "no/such/folder"),
        (["--out", "/proc/no/bench.json"], "/proc/no"),
        (["--repeat", "3"], "did you mean --repeats"),
    ],
)
def test_what_does_not_fit_is_one_error(bench, options, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main([*SMALL[:4], *options])
    assert stopped.value.code not in (0, None)
    assert said in f"{stopped.value.code} {capsys.readouterr().err}"
