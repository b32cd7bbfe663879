"""All pretext tasks by name. A task is one file and one line here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ctp.config import LazyClasses
from ctp.pretext.task_config import TaskConfig

if TYPE_CHECKING:
    from ctp.pretext.task import PretextTask

# imported when they are used: their files need torch, options and --help do not
TASKS: LazyClasses[PretextTask[Any, Any]] = LazyClasses(
    {
        "ctp": "ctp.pretext.ctp.task:CtpTask",
        "memdpc": "ctp.pretext.memdpc:MemdpcTask",
        "moco": "ctp.pretext.moco:MocoTask",
        "rotation": "ctp.pretext.rotation:RotationTask",
        "speed": "ctp.pretext.speed:SpeedTask",
        "vcop": "ctp.pretext.vcop:VcopTask",
    }
)

CONFIGS: LazyClasses[TaskConfig] = LazyClasses({"ctp": "ctp.pretext.ctp.config:CtpConfig"})
"""Configs of tasks that are in a file without torch."""


class TaskConfigs(Mapping[str, type[TaskConfig]]):
    """The config class of each task in `TASKS`."""

    def __getitem__(self, name: str) -> type[TaskConfig]:
        return CONFIGS[name] if name in CONFIGS else TASKS[name].Config

    def __iter__(self) -> Iterator[str]:
        return iter(TASKS)

    def __len__(self) -> int:
        return len(TASKS)


def build_task(config: TaskConfig) -> PretextTask[Any, Any]:
    """Return the task of a config."""
    return TASKS[config.name](config)
