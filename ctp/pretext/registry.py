"""All pretext tasks by name. A task is one folder here and one name in `_NAMES`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctp.config import ConfigsOf, LazyClasses
from ctp.pretext.task_config import TaskConfig

if TYPE_CHECKING:
    from ctp.pretext.task import PretextTask

_NAMES = ("ctp", "memdpc", "moco", "rotation", "speed", "vcop")

# imported when they are used: tasks need torch, options and --help do not
TASKS: LazyClasses[PretextTask[Any, Any]] = LazyClasses(
    {name: f"ctp.pretext.{name}.task:{name.capitalize()}Task" for name in _NAMES}
)
CONFIGS: ConfigsOf[TaskConfig] = ConfigsOf(
    TASKS,
    LazyClasses({name: f"ctp.pretext.{name}.config:{name.capitalize()}Config" for name in _NAMES}),
)
"""The config class of each task."""


def build_task(config: TaskConfig) -> PretextTask[Any, Any]:
    """Return the task of a config."""
    return TASKS[config.name](config)
