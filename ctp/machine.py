"""The CPUs that this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return the number of CPU cores that this process may use, at least 1.

    A container, `taskset` or a batch system may allow fewer than the machine has.
    """
    limits = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    limits += [int(quota) for quota in cgroup_quotas()]
    return max(min(limits), 1)


def cgroup_quotas(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> Iterator[float]:
    """Yield the CPU quotas of this process's control groups, in cores; none without a limit.

    Args:
        root: where the control groups are mounted, of version 1 or 2.
        own: file that names the groups of this process.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            yield from _quotas(root, path, "cpu.max")
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):  # either may be the name of the folder
                yield from _quotas(root / name, path, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quotas(root: Path, path: str, *files: str) -> Iterator[float]:
    """Yield the quotas of a group and those above it, each of which limits it.

    In a container, groups above its own are not visible.
    """
    group = PurePosixPath(path.lstrip("/"))
    for each in (group, *group.parents):
        try:
            words = " ".join((root / each / file).read_text() for file in files).split()
            quota, period = map(int, words)
        except (OSError, ValueError):  # there is no such group, or "max": no limit
            continue
        if quota > 0 and period > 0:
            yield quota / period
