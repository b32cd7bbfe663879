"""The pretext tasks there are. A task is one file and one line here."""

from __future__ import annotations

from typing import Annotated, Any

from ctp.config import OneOf
from ctp.pretext.ctp.task import CtpTask
from ctp.pretext.task import PretextTask, TaskConfig

TASKS: dict[str, type[PretextTask[Any, Any]]] = {"ctp": CtpTask}

AnyTaskConfig = Annotated[
    TaskConfig, OneOf(lambda: {name: task.Config for name, task in TASKS.items()})
]
"""A config field that holds the config of one of the tasks."""


def build_task(config: TaskConfig) -> PretextTask[Any, Any]:
    """Return the task of a config."""
    return TASKS[config.name](config)
