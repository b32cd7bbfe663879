"""All pretext tasks by name. A task is one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctp.config import ConfigsOf, LazyClasses
from ctp.pretext.ctp.config import CtpConfig
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

CONFIGS: ConfigsOf[TaskConfig] = ConfigsOf(TASKS, {"ctp": CtpConfig})
"""The config class of each task."""


def build_task(config: TaskConfig) -> PretextTask[Any, Any]:
    """Return the task of a config."""
    return TASKS[config.name](config)
