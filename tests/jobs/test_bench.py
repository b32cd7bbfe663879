"""The bench measures the chosen parts and writes their figures."""

from __future__ import annotations

import json
import sys

import pytest
import torch


@pytest.fixture(scope="module")
def bench(load_job):
    return load_job("bench")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


REPEATS = ["--repeats", "2", "--clips_per_repeat", "2"]
SMALL = [
    *REPEATS, "--recipe", "tiny", "--data.uri", "corpus:2", "--step.clips", "2",
    "--task.augment.frame_size_px", "32", "--task.augment.short_sides_px", "32,40",
    "--task.sampling.num_frames", "4",
]  # fmt: skip


@pytest.fixture
def run_bench(bench, tmp_path):
    """`run_bench("--what", "plan")`: what the job writes."""

    def run(*options: str):
        out = tmp_path / "folder" / "bench.json"
        bench.main([*SMALL, *options, "--out", str(out)])
        return json.loads(out.read_text())

    return run


def test_all_parts_that_need_no_ray_have_positive_figures(run_bench, capsys):
    result = run_bench("--what", "ingest,long,step,game,plan")
    assert [each["loader"] for each in result["ingest"]] == ["ours transcoded", "ours original"]
    assert len(result["timings"]) == 4
    whole, parts = result["long"]
    assert parts["MiB read"] < 2 < whole["MiB read"] == pytest.approx(parts["file, MiB"])
    authors, step = result["step"]
    of_loaders = [
        figure
        for each in [*result["ingest"], *result["long"]]
        for figure in each.values()
        if type(figure) is dict
    ]
    for timing in [*of_loaders, authors["ms"], step["ms"], *result["timings"]]:
        assert len(timing["repeats"]) == 2
        assert 0 < timing["min"] <= timing["median"] <= timing["max"]
    assert step["gflops"] == authors["gflops"] > 0  # of the same model
    assert step["speed-up"] == pytest.approx(authors["ms"]["median"] / step["ms"]["median"])
    assert all(0 < budget["worker_use"] <= 1 for budget in result["budget"])
    assert result["machine"]["cores"] >= 1
    assert result["config"]["data"]["uri"] == "corpus:2"
    printed = capsys.readouterr().out
    for shown in ("ours transcoded", "bench.json", "Assumed: a GPU", "This machine", "bottleneck"):
        assert shown in printed


def test_only_the_chosen_parts_are_measured(run_bench):
    result = run_bench("--what", "plan")
    assert [each["name"].split()[0] for each in result["timings"]] == ["plan", "plan"]
    assert not any(result[part] for part in ("ingest", "ray", "step", "budget"))


def test_a_baseline_is_compared_with_ours(run_bench):
    pytest.importorskip("cv2")
    result = run_bench("--what", "ingest", "--baseline", "opencv-zip-jpeg")
    own, _, other = result["ingest"]
    pairs = zip(own["all on the CPU"]["repeats"], other["all on the CPU"]["repeats"], strict=True)
    ratios = [theirs / ours for ours, theirs in pairs]
    assert other["× ours transcoded"]["repeats"] == pytest.approx(ratios)
    assert len(result["budget"]) == 2


def test_a_step_is_timed_without_ray_pyav_and_boto3(run_python, request, tmp_path):
    job = request.config.rootpath / "jobs" / "bench.py"
    out = tmp_path / "bench.json"
    code = f"""
import runpy, sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "av", "boto3", "botocore"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
main = runpy.run_path({str(job)!r})["main"]
main({[*SMALL, "--what", "step,plan", "--out", str(out)]!r})
try:
    main({["--what", "gpu"]!r})
except SystemExit as error:
    print(error)
"""
    printed = run_python("-c", code)
    assert "plan look-up" in printed
    authors, step = json.loads(out.read_text())["step"]
    assert step["gflops"] == authors["gflops"] > 0
    if not torch.cuda.is_available():
        assert "--what gpu needs a GPU" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--what", "nothing"], "what"),
        (["--data.uri", "no/such/folder", "--what", "ingest"], "no/such/folder"),
        (["--out", "/proc/no/bench.json"], "/proc/no"),
        (["--repeat", "3"], "did you mean --repeats"),
        (["--task", "nothing"], "nothing"),
        (["--task.augment.frame_size_px", "32"], "box_size_px"),
    ],
)
def test_an_invalid_option_is_one_error(bench, options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main([*REPEATS, *options])
    assert stopped.value.code not in (0, None)
    shown = f"{stopped.value.code} {capsys.readouterr().err}"
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_the_stream_through_ray_is_measured(run_bench, monkeypatch, capsys):
    monkeypatch.setattr("ctp.cluster.stream.BLOCK_SAMPLES", 16)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = ["--ray.num_actors", "1", "--ray.clips", "80", "--ray.total_batch", "8"]
    result = run_bench(*options, "--what", "ingest,ray")
    (delivery,) = result["ray"]
    assert (delivery["clips"], delivery["num_actors"]) == (80, 1)
    assert delivery["efficiency"] > 0
    assert 0 < delivery["wait_share"] <= 1
    if sys.platform == "linux":
        assert delivery["cpu_efficiency"] > 0
    for budget in result["budget"]:
        assert budget["efficiency"] == min(delivery["efficiency"], 1)
    assert "efficiency" in capsys.readouterr().out


def test_curating_is_measured_beside_scenedetect(run_bench):
    options = "--curate.seconds", "0.4", "--curate.heights_px", "64", "--repeats", "1"
    [figures] = run_bench("--what", "curate", *options)["curate"]
    assert figures["size"] == "114×64"
    for name in ("measure", "encode", "ratio"):
        assert figures[name]["median"] > 0
