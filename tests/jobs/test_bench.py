"""The bench runs on small sizes and writes a figure for all that it measured."""

import json

import pytest
import torch

from ctp.bench.baselines import LoaderTiming
from ctp.bench.timing import Timing


@pytest.fixture(scope="module")
def bench(load_job):
    return load_job("bench")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def small_steps(bench, monkeypatch):
    """Steps of two clips by the encoder of recipe tiny, for all encoders."""
    tiny = bench.recipes.tiny()
    tiny = tiny.replace(compute=tiny.compute.replace(total_batch=2))
    monkeypatch.setattr(bench, "STEP_RECIPES", dict.fromkeys(bench.STEP_RECIPES, lambda: tiny))


SMALL_CLIPS = [
    "--augment.frame_size_px", "32", "--augment.short_sides_px", "32,40",
    "--sampling.num_frames", "4", "--game.max_box_size_px", "16", "--game.min_box_size_px", "8",
]  # fmt: skip
SMALL = ["--repeats", "2", "--clips_per_repeat", "2", "--data.uri", "corpus:2", *SMALL_CLIPS]


@pytest.mark.slow
def test_every_bench_in_one_process_gives_positive_figures(bench, small_steps, tmp_path, capsys):
    out = tmp_path / "folder" / "bench.json"
    threads = torch.get_num_threads()
    bench.main([*SMALL, "--what", "ingest,step,game,plan", "--out", str(out)])
    assert torch.get_num_threads() == threads
    result = json.loads(out.read_text())
    assert len({loader["name"] for loader in result["ingest"]}) == len(bench.OURS)
    assert [step["encoder"] for step in result["step"]] == ["tiny", "r3d18", "r2plus1d18"]
    assert len(result["timings"]) == 4
    of_loaders = [s for loader in result["ingest"] for s in [loader["cpu"], *loader["stages"]]]
    for row in [*of_loaders, *(step["ms"] for step in result["step"]), *result["timings"]]:
        assert len(row["repeats"]) == 2
        assert 0 < row["least"] <= row["median"] <= row["most"]
    for step in result["step"]:
        assert step["flops"] > 0
        assert step["mfu"] is None
    assert result["machine"]["cores"] >= 1
    assert result["config"]["data"]["uri"]
    printed = capsys.readouterr().out
    assert "Assumed: a GPU takes 1,000 clips/s" in printed
    assert "cores that make clips" in printed
    assert str(out) in printed


def test_only_what_is_asked_for_is_measured(bench, tmp_path):
    out = tmp_path / "bench.json"
    bench.main([*SMALL, "--what", "plan", "--out", str(out)])
    result = json.loads(out.read_text())
    assert [row["name"].split()[0] for row in result["timings"]] == ["plan", "plan"]
    assert not any(result[part] for part in ("ingest", "ray", "step", "budget", "assumed"))


@pytest.mark.slow
def test_it_runs_without_ray_if_ray_is_not_asked_for(run_python, request, tmp_path):
    job = request.config.rootpath / "jobs" / "bench.py"
    code = f"import runpy, sys; sys.modules['ray'] = None; runpy.run_path({str(job)!r})['main']"
    options = ["--what", "plan", "--repeats", "1", "--out", str(tmp_path / "bench.json")]
    assert "plan look-up" in run_python("-c", f"{code}({options!r})")


def test_a_baseline_is_compared_with_all_of_ours(bench, tmp_path, capsys):
    pytest.importorskip("cv2")
    out = tmp_path / "bench.json"
    given = ["--what", "ingest", "--baseline", "opencv-zip-jpeg", "--out", str(out)]
    bench.main([*SMALL, *given])
    *ours, other = json.loads(out.read_text())["ingest"]
    assert other["name"] == "opencv-zip-jpeg"
    for loader in ours:
        ratios = [b / a for a, b in zip(loader["cpu"]["repeats"], other["cpu"]["repeats"],
                                        strict=True)]  # fmt: skip
        assert loader["ratios"]["opencv-zip-jpeg"] == pytest.approx(sum(ratios) / 2)
    assert "opencv-zip-jpeg, ×" in capsys.readouterr().out


def test_videos_that_cannot_be_read_are_left_out_and_named(bench, tmp_path, encode_video, capsys):
    (tmp_path / "good.mp4").write_bytes(encode_video(40, width=96, height=64))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "bench.json"
    given = ["--repeats", "1", "--clips_per_repeat", "1", "--data.uri", str(tmp_path)]
    bench.main([*given, *SMALL_CLIPS, "--what", "ingest", "--out", str(out)])
    said = capsys.readouterr().err
    assert "bad.mp4" in said
    assert "1 video(s) of 96×64" in said


def loader_timing(name, milliseconds):
    return LoaderTiming(name, 24, (Timing("decode", "ms", (milliseconds,), ""),))


def test_budgets_take_what_was_measured(bench):
    """4 ms on the device's form, of which half arrives: 8 cores for 1000 clips/s."""
    loaders = [loader_timing(name, ms) for name, ms in (("device", 4), ("cpu", 7))]
    config = bench.BenchConfig(gpu_clips_per_second=1000, gpus=2, cores=64)
    on_device, on_cpu = bench.make_budgets(
        config, loaders, [{"play_on": "device", "ratio": 0.5}, {"play_on": "cpu", "ratio": 1.4}], []
    )
    assert on_device.cores_per_gpu == pytest.approx(8)
    assert on_cpu.cores_per_gpu == pytest.approx(7)
    assert (on_device.num_gpus, on_device.num_cores) == (2, 64)
    (assumed, _) = bench.make_budgets(config, loaders, [], [])
    assert assumed.delivered_ratio == bench.ASSUMED_DELIVERED_RATIO


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--what", "nothing"], "what"),
        (["--data.uri", "no/such/folder", "--what", "ingest"], "no/such/folder"),
        (["--out", "/proc/no/bench.json"], "/proc/no"),
        (["--repeat", "3"], "did you mean --repeats"),
        (["--augment.frame_size_px", "32", "--game.max_box_size_px", "64"], "max_box_size_px 64"),
    ],
)
def test_what_does_not_fit_is_one_error(bench, options, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main([*SMALL[:4], *options])
    assert stopped.value.code not in (0, None)
    message = f"{stopped.value.code} {capsys.readouterr().err}"
    assert said in message
    assert "Traceback" not in message


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_the_stream_through_ray_is_part_of_the_bench(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ctp.cluster.ingest.MOST_STEPS_PER_BLOCK", 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out = tmp_path / "bench.json"
    given = ["--ray.num_actors", "1", "--ray.clips", "80", "--ray.total_batch", "8"]
    bench.main([*SMALL, *given, "--what", "ingest,ray", "--out", str(out)])
    result = json.loads(out.read_text())
    assert [row["play_on"] for row in result["ray"]] == ["device", "cpu"]
    for row, budget in zip(result["ray"], result["budget"], strict=False):
        assert row["clips"] == 80
        assert row["ratio"] > 0
        assert budget["delivered_ratio"] == min(row["ratio"], 1)
    assert "clips/s of actors × alone" in capsys.readouterr().out
