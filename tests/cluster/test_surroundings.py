"""A local Ray in the surroundings that jobs meet: containers, batch systems, `uv run`."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from ctp.cluster.local import MAX_FOLDER_BYTES, schedulable_cpus, session_folder
from ctp.cluster.restart_line import line_hidden
from ctp.machine import cgroup_quotas, usable_cpus

ROOT = Path(__file__).parents[2]
LISTENING = "0A"
NEEDLESS = (
    "ray::PreemptionWatcher", "ray::_UsageCollectionActor", "ray::PlacementGroupCleaner",
    "ray::DatasetManager", "autoscaler/_private/monitor.py", "log_monitor.py",
)  # fmt: skip
"""Processes of Ray that are of no use on one machine."""
FIXED_PORTS = (8265, 6379, 10001, 44217, 44227, 52365)
"""Ports that Ray's parts use by default."""


# ---- CPUs ---------------------------------------------------------------------------------------


def test_affinity_limits_the_cpus(run_python: Callable[..., str]) -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from ctp.machine import usable_cpus; print(usable_cpus())"
    )
    assert run_python("-c", script).strip() == "1"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    assert schedulable_cpus() == max(usable_cpus(), 2)


def write_groups(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "quotas"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, [4]),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/kubepods/pod1\n", {"cpu.max": "200000 100000\n"}, [2]),  # as a container sees it
        (
            "4:cpu,cpuacct:/docker/1\n0::/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            [3],
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        ("9:name=systemd:/\n2:cpuacct:/x:y\n", {}, []),
    ],
)
def test_quotas_of_control_groups(
    own: str, files: dict[str, str], quotas: list[float], tmp_path: Path
) -> None:
    write_groups(tmp_path / "cgroup", files)
    (tmp_path / "own").write_text(own)
    assert sorted(set(cgroup_quotas(tmp_path / "cgroup", tmp_path / "own"))) == quotas


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert list(cgroup_quotas(tmp_path, tmp_path / "missing")) == []


# ---- folders ------------------------------------------------------------------------------------


@pytest.fixture
def no_ray_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_ray_folder")
def test_sessions_are_in_the_temporary_folder_if_sockets_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    default = session_folder()
    assert default.startswith("/tmp/ray")
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    assert session_folder() == default
    monkeypatch.setenv("TMPDIR", "/proc/nothing")  # nobody can write there
    assert session_folder() == default
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/../tmp")
    assert session_folder() == default
    folder = Path(f"/tmp/ctp{os.getpid()}")
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("RAY_TMPDIR")
    try:
        assert session_folder() == f"{folder}/ray"
        assert len(session_folder()) <= MAX_FOLDER_BYTES
    finally:
        shutil.rmtree(folder)


def test_the_folder_leaves_room_for_the_longest_socket() -> None:
    session = "session_2026-12-31_23-59-59_999999_4194304"
    longest = f"{'x' * MAX_FOLDER_BYTES}/{session}/sockets/plasma_store.1"
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(FileNotFoundError):
        probe.bind(longest)  # its folder is missing; a path that is too long is another error


# ---- a run --------------------------------------------------------------------------------------


def listeners(processes: list[int]) -> Iterator[str]:
    """Yield the addresses on which processes listen for TCP."""
    address_of = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING:
                address_of[f"socket:[{rest[5]}]"] = parse_address(local.partition(":")[0])
    for process in processes:
        with suppress(OSError):  # it has just ended
            for descriptor in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    if target in address_of:
                        yield address_of[target]


def parse_address(text: str) -> str:
    """Parse an address of /proc/net: words of 32 bits in this machine's byte order."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def test_addresses_of_proc_are_parsed() -> None:
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("", 0)):
        assert set(listeners([os.getpid()])) >= {"127.0.0.1", "0.0.0.0"}


@pytest.fixture
def small_shared_memory() -> list[str]:
    """The start of a command that gives a process a /dev/shm of 64 MiB, as in Docker.

    Empty where this user may not mount.
    """
    mount = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh"]
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if done.returncode == 0 else []


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_in_hard_surroundings(
    tmp_path: Path,
    small_shared_memory: list[str],
    processes_of: Callable[..., list[int]],
    kill_session: Callable[[int], None],
) -> None:
    """One core, a long TMPDIR, no home, `uv run`, little shared memory, and ports in use."""
    long = tmp_path / ("x" * 60)
    long.mkdir()
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(2**30)  # Ray would refuse to send it to its workers
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '0'\n")
    (tmp_path / "run").write_text('"$@"\nexit $?\n')
    options = {
        "config": Path(__file__).with_name("small.yaml"),
        "data.uri": "corpus:12",
        "schedule.length": 3,
        "evaluation.num_clips": 4,
        "storage": tmp_path / "runs",
        "name": "hard",
    }
    job = [sys.executable, str(ROOT / "jobs" / "pretrain.py")]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(long),
        "HOME": "/proc/none",
        "MPLCONFIGDIR": str(long),
    }
    addresses: set[str] = set()
    needless: set[str] = set()
    with ExitStack() as stack:
        for port in FIXED_PORTS:
            with suppress(OSError):  # somebody else uses it
                stack.enter_context(socket.create_server(("", port)))
        # Ray asks whether an ancestor's command line is `uv run`
        process = subprocess.Popen(
            ["uv", "run", *small_shared_memory, *job, *(f"--{k}={v}" for k, v in options.items())],
            executable="/bin/bash",
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        )
        stack.callback(kill_session, process.pid)
        while process.poll() is None:
            addresses |= set(listeners(processes_of(process.pid)))
            needless |= {title for title in NEEDLESS if processes_of(process.pid, title)}
            time.sleep(0.2)
        out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "Traceback" not in out
    assert "step 3/3" in out
    assert (tmp_path / "runs/hard/encoder.safetensors").exists()
    assert addresses == {"127.0.0.1"}
    assert not needless
    assert ("--shm-size" in out) == bool(small_shared_memory)


@pytest.mark.ray
def test_a_ray_that_does_not_start_is_one_line(run_python: Callable[..., str]) -> None:
    script = """
import os
from ctp.cluster import local
before = dict(os.environ)
local.OBJECT_STORE_BYTES = local.OTHER_OBJECTS_BYTES = 1  # Ray refuses this
try:
    with local.local_ray():
        pass
except ConnectionError as error:
    print(error)
names = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "GLOO_SOCKET_IFNAME"}
print([name for name in names if os.environ.get(name) != before.get(name)])
"""
    error, changed = run_python("-c", script).splitlines()
    assert "does not start on this machine" in error
    assert "bytes" in error
    assert changed == "[]"


@pytest.mark.ray
def test_a_process_may_use_other_local_clusters_and_is_stopped_by_sigterm(
    run_python: Callable[..., str],
) -> None:
    """Ray does not warn of actors that may be restarted, as those of Ray Data."""
    script = """
import os, ray, signal
from ctp.cluster.connect import cluster

class Actor:
    def __init__(self, argument):
        pass

def use_another():
    ray.init("local", num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False)
    print(ray.get(ray.put("another")))
    ray.shutdown()

use_another()
try:
    with cluster():
        print(ray.get(ray.put("own")), flush=True)
        stderr = os.dup(2)
        os.dup2(1, 2)  # what Ray warns of would be printed, too
        ray.remote(max_restarts=1)(Actor).remote(ray.put(0))
        os.dup2(stderr, 2)
        signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    print("stopped")
use_another()
"""
    assert run_python("-c", script).split() == ["another", "own", "stopped", "another"]


def test_a_hidden_line_takes_no_other_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    with line_hidden(b"hide"):
        os.write(2, b"first\nplease hide this\nlast\n")
    os.write(2, b"hide no more\n")
    assert capfd.readouterr().err == "first\nlast\nhide no more\n"


def test_ray_does_not_warn_of_the_processes_that_a_job_starts(
    run_python: Callable[..., str],
) -> None:
    script = """
from ctp.cluster import connect
from ray._private.worker import print_to_stdstream
for line in ("8 PYTHON worker processes have been started on node: a", "1 worker was killed"):
    print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
"""
    said = run_python("-c", script)
    assert "1 worker was killed" in said
    assert "have been started" not in said
