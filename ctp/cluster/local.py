"""Start Ray on this machine alone, whatever its environment."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import shorten
from types import ModuleType
from typing import Any

import ray
from ray._private import parameter, ray_constants
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled

from ctp.machine import usable_cpus

LOOPBACK = "127.0.0.1"
LEAST_CPUS = 2
"""Least number of CPUs that Ray gets, since the smallest run has two processes. On a machine with
one core they share it."""
OBJECT_STORE_BYTES = 1 * 2**30
"""Least size of a local cluster's object store."""
OTHER_OBJECTS_BYTES = 256 * 2**20
"""Room for objects other than samples, such as the catalogue."""
TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"
"""The logger of warnings about a local cluster's token."""
SHARED_MEMORY = Path("/dev/shm")
MAX_FOLDER_BYTES = 40
"""Longest path of the folder of Ray's sessions. Below it Ray adds up to 66 bytes to the path of a
socket, which may have 107."""
AUTH_MODE = "RAY_AUTH_MODE"
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
MAX_REASON_LENGTH = 300
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables with the interface on which the workers' connections listen."""
LOOPBACK_INTERFACE = "lo"
ONE_MACHINE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # there is no other node that could leave
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that spare processes of Ray, unless the user has set them."""


def schedulable_cpus() -> int:
    """Return the number of CPUs of this machine that a run may ask for."""
    return max(usable_cpus(), LEAST_CPUS)


@contextmanager
def local_ray(sample_bytes: int = 0, least_cpus: int = 0) -> Iterator[None]:
    """Run Ray on this machine, on the loopback interface only; for use in a `with` statement.

    Args:
        sample_bytes: the most bytes of samples that the object store must hold.
        least_cpus: Ray gets as many CPUs if the machine has fewer.

    Raises:
        ConnectionError: Ray does not start; says why and what to do.
    """
    folder = session_folder()
    store_bytes = max(sample_bytes + OTHER_OBJECTS_BYTES, OBJECT_STORE_BYTES)
    # its warning does not apply: only this process uses this cluster
    logging.getLogger(TOKEN_LOGGER).setLevel(logging.ERROR)
    with _environment(_settings()), _local_constants():
        try:
            ray.init(
                address="local",  # not another one that runs on this machine
                num_cpus=max(schedulable_cpus(), least_cpus),
                object_store_memory=store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
                _plasma_directory=_object_store_folder(folder, store_bytes),
            )
        except Exception as error:  # of any kind, from any part of this machine
            reason = shorten(str(error), MAX_REASON_LENGTH, placeholder=" …")
            raise ConnectionError(
                f"Ray does not start on this machine: {reason}. Its logs are in "
                f"{folder}/session_latest/logs; RAY_TMPDIR sets another folder than {folder}"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def session_folder() -> str:
    """Return the folder of Ray's sessions: writable, and short enough for the paths of sockets.

    Raises:
        ConnectionError: there is no such folder.
    """
    named = [os.environ.get(name, "") for name in ("RAY_TMPDIR", "TMPDIR")]
    for parent in [*filter(None, named), "/tmp"]:
        for name in ("ray", f"ray-{os.getuid()}"):  # the first may be another user's
            folder = os.path.join(os.path.abspath(parent), name)
            if len(os.fsencode(folder)) <= MAX_FOLDER_BYTES and _can_write(folder):
                return folder
    raise ConnectionError(
        f"Ray needs a folder for its sockets, with a path of at most {MAX_FOLDER_BYTES} bytes that "
        f"this user may write to: none of {', '.join([*filter(None, named), '/tmp'])} is one. Set "
        "RAY_TMPDIR to the path of such a folder"
    )


def _can_write(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _object_store_folder(session_folder: str, needed_bytes: int) -> str:
    """Return the folder of the object store: shared memory, unless that is missing or too small."""
    if not os.access(SHARED_MEMORY, os.W_OK):  # also where there is none, as on macOS
        return session_folder
    free_bytes = shutil.disk_usage(SHARED_MEMORY).free
    if free_bytes >= needed_bytes:
        return str(SHARED_MEMORY)
    print(
        f"the object store is in {session_folder}, since {SHARED_MEMORY} has {free_bytes >> 20} "
        f"MiB free, {needed_bytes >> 20} MiB are needed. More is faster: docker run "
        "--shm-size=2g",
        flush=True,
    )
    return session_folder


def _settings() -> dict[str, str]:
    """Return the variables that Ray and the processes that it starts need here."""
    has_loopback = LOOPBACK_INTERFACE in (name for _, name in socket.if_nameindex())
    unset = [name for name in INTERFACE_VARIABLES if has_loopback and name not in os.environ]
    settings = dict.fromkeys(unset, LOOPBACK_INTERFACE)
    settings |= {name: value for name, value in ONE_MACHINE.items() if name not in os.environ}
    if not any(name in os.environ for name in TOKEN_VARIABLES):
        # otherwise Ray writes a token to the home folder, which may not exist or be writable
        settings["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return settings


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them afterwards, also the one that Ray sets."""
    before = {name: os.environ.get(name) for name in {*settings, AUTH_MODE}}
    os.environ.update(settings)
    # this process may have used another cluster before, and may use others afterwards
    tokens = AuthenticationTokenLoader.instance()
    tokens.reset_cache()
    try:
        yield
    finally:
        tokens.reset_cache()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _local_constants() -> Iterator[None]:
    """Change constants of Ray that no option sets.

    Without `ENABLE_RAY_CLUSTER`, Ray uses the loopback interface, as it does on macOS and Windows;
    on Linux it replaces 127.0.0.1 by the address of another interface. With
    `RAY_ENABLE_UV_RUN_RUNTIME_ENV`, Ray sends the working directory to its workers if the job was
    started by `uv run`; on this machine they see the directory, which may be large. The
    processes that add machines and that send logs to the driver are not started.
    """
    processes: Any = {"no_monitor": True, "include_log_monitor": False}
    changes: dict[tuple[ModuleType, str], Any] = {
        (ray_constants, "ENABLE_RAY_CLUSTER"): False,
        (ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV"): False,
        (parameter, "RayParams"): partial(parameter.RayParams, **processes),
    }
    before = {name: getattr(*name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(*name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(*name, value)
