"""All pretext tasks by name. A task is one file and one line here."""

from __future__ import annotations

from typing import Any

from ctp.pretext.ctp.task import CtpTask
from ctp.pretext.memdpc import MemdpcTask
from ctp.pretext.moco import MocoTask
from ctp.pretext.rotation import RotationTask
from ctp.pretext.speed import SpeedTask
from ctp.pretext.task import PretextTask
from ctp.pretext.task_config import TaskConfig
from ctp.pretext.vcop import VcopTask

TASKS: dict[str, type[PretextTask[Any, Any]]] = {
    "ctp": CtpTask,
    "memdpc": MemdpcTask,
    "moco": MocoTask,
    "rotation": RotationTask,
    "speed": SpeedTask,
    "vcop": VcopTask,
}


def build_task(config: TaskConfig) -> PretextTask[Any, Any]:
    """Return the task of a config."""
    return TASKS[config.name](config)
