"""The paper's ablations by name, and one of ours: which rows, and what the paper says of them.

The values of a row are the paper's at every scale. Speeds, too, are its pixels a frame: clips of
the small scales have half as many frames of less than half the side, so that a patch crosses as
large a part of the picture in a clip (3 px: .43 of it in the paper, .50 here). Sizes change by
the paper's share a frame, over half as many frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

QUARTER = "a quarter of Kinetics-400"
UCF101 = "UCF-101"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        key: its name in files.
        name: its name to be read, as `ctp.report.published` has it where the paper has the row.
        changes: dotted field -> value.
        source: the table of the paper that has it; empty if none.
    """

    key: str
    name: str
    changes: Mapping[str, Any]
    source: str = ""


@dataclass(frozen=True)
class Ablation:
    """A table.

    Attributes:
        about: what is varied.
        rows: of the table.
        paper_recipe: the run at the paper's size that rows change.
        paper_data: what the paper pretrains on for it; empty where it has no such table.
        fixed: what no row has as that run has it, dotted field -> value.
        note: what to know of it.
    """

    about: str
    rows: tuple[Row, ...]
    paper_recipe: str = "ucf101-r3d18"
    paper_data: str = UCF101
    fixed: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def _rows(source: str, name: str, values: Mapping[str, tuple[str, Any]]) -> tuple[Row, ...]:
    """Rows of one field; `values` are key -> (name, value)."""
    return tuple(Row(key, said, {name: value}, source) for key, (said, value) in values.items())


def _mrm(encoder: str, arch: str) -> tuple[Row, ...]:
    return tuple(
        Row(
            f"{arch}-mrm-{state}",
            f"MRM {state}",
            {"encoder.arch": arch, "game.hidden_prob": prob},
            f"Table 2b, {encoder}",
        )
        for state, prob in (("off", 0.0), ("on", 0.2))
    )


TABLES: Mapping[str, Ablation] = {
    "table2a": Ablation(
        about="K, patches in a clip, 1 to 4",
        rows=_rows(
            "Table 2a",
            "game.num_patches",
            {f"k{number}": (f"K = {number}", number) for number in range(1, 5)},
        ),
        paper_recipe="kinetics400-r3d18",
        paper_data=QUARTER,
        fixed={"game.hidden_prob": 0.0},
        note="No patch is hidden (no MRM): the paper's row K = 3 is that of Table 2b with MRM off. "
        "For hidden patches: --set game.hidden_prob=0.2.",
    ),
    "table2b": Ablation(
        about="hidden patches (MRM) off and on, with two encoders",
        rows=(*_mrm("R3D-18", "r3d"), *_mrm("R(2+1)D-18", "r2plus1d")),
        paper_recipe="kinetics400-r3d18",
        paper_data=QUARTER,
    ),
    "table7": Ablation(
        about="the encoder's total spatial stride in pretraining",
        rows=_rows(
            "Table 7",
            "encoder.last_stage_spatial_stride",
            {"stride16": ("stride 16", 2), "stride8": ("stride 8", 1)},
        ),
    ),
    "table8": Ablation(
        about="whether the head squeezes time",
        rows=_rows(
            "Table 8",
            "head.squeeze",
            {"no-squeeze": ("no squeeze", False), "squeeze": ("squeeze", True)},
        ),
    ),
    "table9": Ablation(
        about="σ, the scales of the targets",
        rows=_rows(
            "Table 9",
            "sigma",
            {
                "s0.8-0.04": ("σ .8, .04", (0.8, 0.8, 0.04, 0.04)),
                "s0.8-0.08": ("σ .8, .08", (0.8, 0.8, 0.08, 0.08)),
                "s0.8-0.02": ("σ .8, .02", (0.8, 0.8, 0.02, 0.02)),
                "s1.0-0.05": ("σ 1.0, .05", (1.0, 1.0, 0.05, 0.05)),
            },
        ),
    ),
    "table10-speed": Ablation(
        about="how fast patches move at most, px a frame",
        rows=_rows(
            "Table 10, speed",
            "game.max_speed_px_per_frame",
            {f"{speed}px": (f"{speed} px", float(speed)) for speed in (1, 3, 5, 15)},
        ),
        note="Speeds are px a frame at every scale: clips of the small scales have half as many "
        "frames of less than half the side, so that patches cross as large a part of the picture.",
    ),
    "table10-scale": Ablation(
        about="how much patches change in size at most, log a frame",
        rows=_rows(
            "Table 10, scale",
            "game.max_log_scale_per_frame",
            {
                f"0.{digits}": (f".{digits}", float(f"0.{digits}"))
                for digits in ("010", "025", "040", "100")
            },
        ),
        note="Changes are a frame at every scale; clips of the small scales have half as many.",
    ),
    "curriculum": Ablation(
        about="where patches are cut: their trajectory, another clip, from one to the other",
        rows=(
            Row(
                "trajectory",
                "its trajectory",
                {"curriculum": None, "game.patch_source": "trajectory"},
            ),
            Row(
                "other-clip",
                "another clip",
                {"curriculum": None, "game.patch_source": "other_clip"},
            ),
            Row(
                "curriculum",
                "from one to the other",
                {"curriculum": {}, "game.patch_source": "trajectory"},
            ),
        ),
        paper_data="",
    ),
}
