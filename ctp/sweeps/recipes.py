"""The paper's ablations, and one of ours, as recipes of sweeps.

The values of a row are the paper's at every scale. Speeds are in its pixels per frame, too: clips
of the small scales have half as many frames of less than half the side, so that a patch crosses
about as large a part of the picture in a clip (at 3 px .43 in the paper, .50 here). Sizes change by
the paper's share per frame, over half as many frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ctp.report.papers import PUBLISHED
from ctp.sweeps.config import SweepConfig

QUARTER = "a quarter of Kinetics-400"
QUARTER_OF_THE_VIDEOS = {"data.share": 0.25}
UCF101 = "UCF-101"


@dataclass(frozen=True)
class Setting:
    """What some trials have in common; they differ only by seed.

    Attributes:
        key: its name in file names.
        name: its name in tables.
        changes: dotted option -> value, where it differs from the base run.
        source: the paper's table that has it; "" if none.
        method: what the paper's table calls it, as in `ctp.report.papers`.
    """

    key: str = ""
    name: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    method: str = ""

    def paper_percent(self, dataset: str) -> float | None:
        """Return the paper's top-1 accuracy in percent, or None if the paper has no such row."""
        wanted = self.source, self.method, dataset, "top1"
        found = (
            each.percent
            for each in PUBLISHED
            if (each.source, each.method, each.dataset, each.measure) == wanted
        )
        return next(found, None)


@dataclass(frozen=True)
class Ablation:
    """An ablation.

    Attributes:
        about: what is varied.
        rows: the settings that are compared.
        paper_recipe: the pretraining recipe that the rows change at scale paper.
        paper_data: what the paper pretrains on; "" where the paper has no such table.
        fixed: dotted option -> value, where all rows differ from `paper_recipe`.
        paper_fixed: the same, at scale paper alone.
        note: a remark for the table.
        help: a line for `--help`.
    """

    about: str
    rows: tuple[Setting, ...]
    paper_recipe: str = "ucf101-r3d18"
    paper_data: str = UCF101
    fixed: Mapping[str, Any] = field(default_factory=dict)
    paper_fixed: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    help: str = ""


def _rows(source: str, option: str, values: Mapping[str, tuple[str, Any]]) -> tuple[Setting, ...]:
    """Return settings of one option; `values` are key -> (name, value)."""
    return tuple(
        Setting(key, name, {option: value}, source, name) for key, (name, value) in values.items()
    )


def _mrm(encoder: str, name: str) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            key=f"{name}-mrm-{state}",
            name=f"{encoder}, MRM {state}",
            changes={"encoder": name, "task.hidden_prob": prob},
            source=f"Table 2b, {encoder}",
            method=f"MRM {state}",
        )
        for state, prob in (("off", 0.0), ("on", 0.2))
    )


def _patches(key: str, name: str, source: str, curriculum: Any = None) -> Setting:
    return Setting(key, name, {"task.patch_source": source, "task.curriculum": curriculum})


TABLES: Mapping[str, Ablation] = {
    "table2a": Ablation(
        help="Table 2a: K, the number of patches in a clip, 1 to 4.",
        about="K, patches in a clip, 1 to 4",
        rows=_rows("Table 2a", "task.num_patches", {f"k{k}": (f"K = {k}", k) for k in range(1, 5)}),
        paper_recipe="kinetics400-r3d18",
        paper_data=QUARTER,
        paper_fixed=QUARTER_OF_THE_VIDEOS,
        fixed={"task.hidden_prob": 0.0},
        note="No patch is hidden (no MRM): the paper's row K = 3 is that of Table 2b with MRM off. "
        "For hidden patches: --set task.hidden_prob=0.2.",
    ),
    "table2b": Ablation(
        help="Table 2b: hidden patches (MRM) off and on, with two encoders.",
        about="hidden patches (MRM) off and on, with two encoders",
        rows=(*_mrm("R3D-18", "r3d"), *_mrm("R(2+1)D-18", "r2plus1d")),
        paper_recipe="kinetics400-r3d18",
        paper_data=QUARTER,
        paper_fixed=QUARTER_OF_THE_VIDEOS,
    ),
    "table7": Ablation(
        help="Table 7: the encoder's total spatial stride, 16 and 8.",
        about="the encoder's total spatial stride in pretraining",
        rows=_rows(
            "Table 7",
            "encoder.spatial_stride",
            {"stride16": ("stride 16", 16), "stride8": ("stride 8", 8)},
        ),
    ),
    "table8": Ablation(
        help="Table 8: the head with and without a squeeze of time.",
        about="whether the head squeezes time",
        rows=_rows(
            "Table 8",
            "task.head.squeeze",
            {"no-squeeze": ("no squeeze", False), "squeeze": ("squeeze", True)},
        ),
    ),
    "table9": Ablation(
        help="Table 9: σ, the scales of the targets.",
        about="σ, the scales of the targets",
        rows=_rows(
            "Table 9",
            "task.sigma",
            {
                "s0.8-0.04": ("σ .8, .04", (0.8, 0.8, 0.04, 0.04)),
                "s0.8-0.08": ("σ .8, .08", (0.8, 0.8, 0.08, 0.08)),
                "s0.8-0.02": ("σ .8, .02", (0.8, 0.8, 0.02, 0.02)),
                "s1.0-0.05": ("σ 1.0, .05", (1.0, 1.0, 0.05, 0.05)),
            },
        ),
    ),
    "table10-speed": Ablation(
        help="Table 10: the greatest speed of patches.",
        about="the greatest speed of patches, in pixels per frame",
        rows=_rows(
            "Table 10, speed",
            "task.max_speed_px_per_frame",
            {f"{speed}px": (f"{speed} px", float(speed)) for speed in (1, 3, 5, 15)},
        ),
        note="Speeds are in pixels per frame at every scale: clips of the small scales have half "
        "as many frames of less than half the side, so that patches cross as large a part of the "
        "picture.",
    ),
    "table10-scale": Ablation(
        help="Table 10: the greatest change in size of patches.",
        about="the greatest change in size of patches, as a logarithm per frame",
        rows=_rows(
            "Table 10, scale",
            "task.max_log_scale_per_frame",
            {f"0.{d}": (f".{d}", float(f"0.{d}")) for d in ("010", "025", "040", "100")},
        ),
        note="Changes are per frame at every scale; clips of the small scales have half as many.",
    ),
    "curriculum": Ablation(
        help="Not in the paper: where patches are cut.",
        about="where patches are cut: from the clip, from another one, or from another one first",
        rows=(
            _patches("trajectory", "its trajectory", "trajectory"),
            _patches("other-clip", "another clip", "other_clip"),
            _patches("curriculum", "from one to the other", "trajectory", (0.35, 0.65)),
        ),
        paper_data="",
    ),
}


def grid() -> SweepConfig:
    """Options of your own choice: --grid OPTION=VALUE,VALUE (default)."""
    return SweepConfig()


def _recipe(table: str) -> Callable[[], SweepConfig]:
    """Return the recipe of one of `TABLES`."""

    def recipe() -> SweepConfig:
        return SweepConfig(table=table)

    recipe.__doc__ = TABLES[table].help  # --help shows it beside the recipe's name
    return recipe


SWEEP: Mapping[str, Callable[[], SweepConfig]] = {
    "grid": grid,
    **{table: _recipe(table) for table in TABLES},
}
