"""Every query of the dashboard returns numbers from a real Prometheus that scrapes a real run, and
alerts fire when they should, and only then."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from math import isfinite, nan
from pathlib import Path
from typing import IO, Any

import pytest
import ray
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric

from ctp.cluster.metrics import RunMetrics, SampleMetrics
from ctp.cluster.mlflow_run import FILE, mlflow_run
from ctp.cluster.s3_monitor import S3Counts
from ctp.cluster.train import train
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.score import Score
from ctp.storage import Storage
from ctp.training.config import RunConfig
from ctp.training.run_folder import Row, create_or_resume, folder_of, read_metrics

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
TIMEOUT_SECONDS = 60


def program(name: str) -> str:
    """Return a program of Prometheus, from the folder CTP_PROMETHEUS or else from PATH."""
    found = shutil.which(name, path=os.environ.get("CTP_PROMETHEUS"))
    if found is None:
        pytest.skip(f"no {name}: Debian has it in prometheus; CTP_PROMETHEUS names its folder")
    return found


def promtool(*arguments: str | Path) -> str:
    """Run promtool, which must succeed, and return its output."""
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Query:
    """Return the query of the panel with a title, as Grafana sends it for a run."""

    title: str
    text: str


def queries(run: str) -> list[Query]:
    return [
        Query(panel["title"], target["expr"].replace("$run", run).replace("$kind", ".*"))
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def test_prometheus_takes_its_config_and_the_rules() -> None:
    assert "7 rules found" in promtool("check", "rules", FOLDER / "alerts.yaml")
    promtool("check", "config", FOLDER / "prometheus.yaml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", Path(__file__).with_name("alerts_test.yaml"))


def test_every_alert_is_tested_and_explained() -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    tested = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())["tests"]
    cases = [case for test in tested for case in test["alert_rule_test"]]
    readme = (FOLDER / "README.md").read_text()
    for rule in group["rules"]:
        own = [case for case in cases if case["alertname"] == rule["alert"]]
        assert {"exp_alerts" in case for case in own} == {True, False}
        assert rule["alert"] in readme


def test_a_dashboard_that_can_be_imported_anywhere() -> None:
    """Its data source is a variable, and no two panels overlap or have the same id."""
    sources = [each["datasource"]["uid"] for panel in DASHBOARD["panels"]
               for each in (panel, *panel["targets"])]  # fmt: skip
    assert set(sources) == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.fixture(scope="module")
def server() -> str:
    return program("prometheus")


@pytest.fixture(scope="module")
def _cluster(server: str, faulty_s3_endpoint: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # actors have the environment that the cluster was started with
        patch.setenv("AWS_ENDPOINT_URL", faulty_s3_endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        ray.init("local", num_cpus=4, object_store_memory=256 * 2**20, include_dashboard=False)
        yield
        ray.shutdown()


@dataclass(frozen=True)
class Prometheus:
    """Start a Prometheus that scrapes the cluster's nodes every second."""

    url: str

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the data of a response of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)["data"]

    def values(self, query: str) -> list[float]:
        """Return the current result of a query."""
        return [float(each["value"][1]) for each in self.get("query", query=query)["result"]]

    def wait_for(self, query: str, wanted: list[float]) -> None:
        """Wait until a query has a result."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (values := self.values(query)) != wanted:
            assert time.monotonic() < deadline, f"{query} is {values}, wanted {wanted}"
            time.sleep(0.2)

    def finite(self, query: str, since: float) -> dict[frozenset[tuple[str, str]], list[float]]:
        """Return the finite values of a query since a time, by their labels."""
        found = self.get("query_range", query=query, start=since, end=time.time(), step=1)
        return {
            frozenset(each["metric"].items()): [v for _, text in each["values"]
                                                if isfinite(v := float(text))]
            for each in found["result"]
        }  # fmt: skip


@pytest.fixture(scope="module")
def prometheus(
    server: str, _cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Start it with the config of deploy/, but with shorter intervals."""
    folder = tmp_path_factory.mktemp("prometheus")
    nodes = [f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in ray.nodes()]
    (folder / "nodes.json").write_text(json.dumps([{"targets": nodes}]))  # as Ray writes it
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "alerts.yaml")]
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(folder / "nodes.json")]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        server, f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield Prometheus(_address(process.stderr))
        finally:
            process.terminate()


def _address(log: IO[str]) -> str:
    """Return the address of a Prometheus from its log, when it is ready."""
    address = ""
    for line in log:
        listening = re.search(r'msg="Listening on" address=(\S+)', line)
        address = listening.group(1) if listening else address
        if "Server is ready" in line:
            break
    threading.Thread(target=log.read, daemon=True).start()  # or it would wait for a reader
    return f"http://{address}"


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the cluster."""
    marks = (pytest.mark.ray, pytest.mark.slow)
    ignore = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
    return reduce(lambda marked, mark: mark(marked), (*marks, ignore), test)


def row(step: int, **values: float) -> Row:
    """Return a log line of a run whose steps have four clips and take a second."""
    usual = {"loss": 0.5, "gradient_norm": 1.0, "clips_per_second": 4.0, "quarantined": 3}
    return {"step": step, "clips": 4 * step, **usual, **values}


@on_ray
def test_the_metrics_of_log_lines_arrive(prometheus: Prometheus) -> None:
    """This includes a restart, and a loss that is not finite."""
    tags, score = {"run": "known", "kind": "track"}, Score("iou", "IoU", "still_iou", "still box")
    run: Any = ray.remote(num_cpus=0)(RunMetrics).remote(tags, 20, score)
    run.start.remote(0)
    run.update.remote(row(2))
    run.update.remote(row(4, checkpoint_seconds=0.3))
    run.start.remote(8)  # from the checkpoint after step 2
    run.update.remote(row(4, iou=0.25, still_iou=0.125))
    run.update.remote(row(6, loss=nan, clips_per_second=0.4, quarantined=5, step_skew_seconds=0.7))
    for rank in (0, 1):
        run.update_worker.remote(rank, {"worker_queue_steps": 4.0 + rank, "worker_wait_share": 0.1})
    prometheus.wait_for('ray_ctp_clips_total{run="known",kind="track"}', [32.0])
    expected = {
        "starts_total": 2, "step": 6, "videos": 20, "quarantined": 5, "score": 0.25,
        "baseline_score": 0.125, "loss": 0.5,
        "not_finite": 1, "step_skew_seconds": 0.7, 'worker_queue_steps{rank="1"}': 5,
        "checkpoint_seconds_count": 1, 'step_seconds_bucket{le="0.5"}': 0,
        'step_seconds_bucket{le="1.0"}': 3, 'step_seconds_bucket{le="5.0"}': 3,
        'step_seconds_bucket{le="10.0"}': 4,
    }  # fmt: skip
    for name, value in expected.items():
        run.refresh.remote()  # or Ray may have forgotten gauges by now, as below
        prometheus.wait_for(f"ray_ctp_{name}", [value])
    prometheus.wait_for('count(ALERTS{alertname="CtpLossNotFinite",run="known"})', [1.0])
    prometheus.wait_for("0 <= time() - ray_ctp_checkpoint_time_seconds < bool 100", [1.0])
    prometheus.wait_for('ray_ctp_step{run="known"}', [])  # Ray forgets it
    run.refresh.remote()
    prometheus.wait_for('ray_ctp_step{run="known"}', [6.0])
    prometheus.wait_for("count(ray_ctp_worker_wait_share)", [2.0])
    run.start.remote(24)  # with other workers, that have not reported yet
    prometheus.wait_for("ray_ctp_worker_wait_share", [])


@on_ray
def test_the_metrics_of_sample_actors_arrive(prometheus: Prometheus) -> None:
    actor: Any = ray.remote(num_cpus=0)(SampleMetrics).remote({"run": "drawn", "kind": "track"})
    actor.record_block.remote(samples=10, videos=4, seconds=0.3)
    actor.record_block.remote(samples=10, videos=5, seconds=4.0)
    actor.record_reading.remote(1500, S3Counts(requests=5, retries=0))
    actor.record_reading.remote(500, S3Counts(requests=4, retries=3))
    actor.record_reading.remote(0, S3Counts(requests=0, retries=0))
    for name, wanted in {
        "clips_drawn_total": 20, "videos_read_total": 9, "drawing_seconds_total": 4.3,
        "decode_seconds_count": 2, "read_bytes_total": 2000, "s3_requests_total": 9,
        "s3_retries_total": 3,
    }.items():  # fmt: skip
        prometheus.wait_for(f'round(ray_ctp_{name}{{run="drawn"}}, 0.001)', [wanted])
    assert prometheus.values('ray_ctp_decode_seconds_bucket{run="drawn",le="0.05"}') == [1.0]


def in_mlflow(config: RunConfig) -> list[Metric]:
    """Return the losses of a run in MLflow."""
    known = json.loads(folder_of(config).join(FILE).read_bytes())
    return list(MlflowClient(config.mlflow_uri).get_metric_history(known["run_id"], "loss"))


def choices(prometheus: Prometheus, variable: str) -> list[str]:
    """Return the values of a variable of the dashboard."""
    (found,) = [each for each in DASHBOARD["templating"]["list"] if each["name"] == variable]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", found["definition"]).groups()
    return list(prometheus.get(f"label/{label}/values", **{"match[]": metric}))


@on_ray
def test_every_query_of_the_dashboard_returns_numbers(
    prometheus: Prometheus,
    small_run: PretrainConfig,
    faulty_s3: Any,
    encode_video: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a run whose videos are in a bucket that fails now and then."""
    video = encode_video(num_frames=20)
    for number in range(12):
        Storage.from_uri(f"{faulty_s3.bucket}/videos/{number}.mp4").write_bytes(video)
    faulty_s3.fail({"kind": "status", "value": 503, "method": "GET", "every": 5})
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    config = small_run.replace(
        name="watched",
        data=small_run.data.replace(uri=f"{faulty_s3.bucket}/videos"),
        schedule={"unit": "steps", "length": 240, "decay_at": ()},
        checkpoint={"every_steps": 30},
        evaluation={"num_clips": 6, "every_steps": 30},
        mlflow_uri=Storage.from_uri(small_run.storage).join("mlflow").uri,
    )
    began = time.time()
    create_or_resume(config)
    with mlflow_run(config) as log:
        train(open_pretraining(config), log)
    found = {each: prometheus.finite(each.text, began) for each in queries("watched")}
    for each, series in found.items():
        values = [value for of_one in series.values() for value in of_one]
        print(f"{each.title}: {each.text}\n    {len(values)} values, {values[-1:]}")
        labels = {"run": "watched", "kind": "pretrain"}
        labels |= {"rank": "0"} if "rank" in each.text else {}
        assert series.keys() == {frozenset(labels.items())}, each
        assert values, each
    seen = {each.title: next(iter(series.values())) for each, series in found.items()}
    assert 0 < max(seen["Done"]) <= 1
    assert set(seen["Restarts"]) == {0}
    assert set(seen["Step skew between workers"]) == {0}  # of one worker
    assert 0 <= max(seen["Age of the last checkpoint"]) < 100
    assert max(seen["Bytes read per second"]) > 0
    log = faulty_s3.log()
    (requests,) = prometheus.values('sum(ray_ctp_s3_requests_total{run="watched"})')
    (retries,) = prometheus.values('sum(ray_ctp_s3_retries_total{run="watched"})')
    assert 0 < requests < len(log)
    assert 0 < retries <= sum(each["fault"] is not None for each in log)
    losses = {(each["step"], each["loss"]) for each in read_metrics(folder_of(config))}
    assert set(seen["Loss"]) <= {loss for _, loss in losses}
    assert losses > {(each.step, each.value) for each in in_mlflow(config)} > set()
    assert prometheus.values('ALERTS{run="watched",alertstate="firing"}') == []
    assert "watched" in choices(prometheus, "run")
    assert "pretrain" in choices(prometheus, "kind")
