"""Recipes of sweeps: functions that return a complete config."""

from __future__ import annotations

from collections.abc import Callable

from ctp.sweeps.config import SweepConfig
from ctp.sweeps.tables import TABLES


def grid() -> SweepConfig:
    """Fields of your own choice: --grid FIELD=VALUE,VALUE (default)."""
    return SweepConfig()


def _of_table(name: str) -> Callable[[], SweepConfig]:
    def make() -> SweepConfig:
        return SweepConfig(table=name)

    ablation = TABLES[name]
    paper = ablation.rows[0].source.partition(",")[0] or "not in the paper"
    make.__doc__ = f"{paper}: {ablation.about}."
    return make


SWEEP: dict[str, Callable[[], SweepConfig]] = {"grid": grid} | {
    name: _of_table(name) for name in TABLES
}
