"""The paper's tables, and an ablation of ours, as recipes of sweeps.

The values of a row are the paper's at every scale, but for its `small_changes`. Speeds are in its
pixels per frame, too: clips of the small scales have half as many frames of less than half the
side, so that a patch crosses about as large a part of the picture in a clip (at 3 px .43 in the
paper, .50 here). Sizes change by the paper's share per frame, over half as many frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from ctp.encoders.config import IMAGENET, KINETICS, RANDOM
from ctp.report.papers import DATASETS, PUBLISHED
from ctp.sweeps.config import SCALES, Scale, SweepConfig

PAPER_SCALE: tuple[Scale, ...] = ("paper",)
GOT10K, KINETICS400 = "GOT-10k", "Kinetics-400"
QUARTER = "a quarter of Kinetics-400"
QUARTER_OF_THE_VIDEOS = {"data.share": 0.25}
UCF101 = "UCF-101"
OF_EACH_ROW = "the data set in the row's name at scale paper"
ABLATION_DATASETS = ("ucf101", "hmdb51")
"""The data sets that the paper's ablations are scored on, by their names in recipes."""


@dataclass(frozen=True)
class Setting:
    """A row of a table: the options that its trials share; the trials differ only by seed.

    Attributes:
        key: its name in file names.
        name: its name in tables.
        changes: dotted option -> value, the differences from the base run.
        source: the paper's table that has it; "" if none.
        method: what the paper's table calls it, as in `ctp.report.papers`.
        small_changes: further changes at the scales tiny and small.
        paper_changes: further changes at scale paper, and after `Plan.from_config` all changes of
            the paper's row.
        paper_recipe: the pretraining recipe of the row at scale paper; "": that of its table.
        paper_data: what the paper pretrains this row on, where the rows differ.
        small_build: the build recipe of the shards that the row trains on at the scales tiny and
            small, made of the videos of the base run; "": the row trains on these videos.
        initial: weights that are scored without pretraining: random, kinetics400 or imagenet; "":
            the row is pretrained.
        scales: the scales at which there is such a row.
    """

    key: str = ""
    name: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    method: str = ""
    small_changes: Mapping[str, Any] = field(default_factory=dict)
    paper_changes: Mapping[str, Any] = field(default_factory=dict)
    paper_recipe: str = ""
    paper_data: str = ""
    small_build: str = ""
    initial: str = ""
    scales: tuple[Scale, ...] = SCALES

    def paper_percent(self, dataset: str, measure: str = "top1") -> float | None:
        """Return the paper's number in percent, or None if the paper has none.

        Args:
            dataset, measure: as in `ctp.report.papers.Published`.
        """
        wanted = self.source, self.method, dataset, measure
        found = (
            each.percent
            for each in PUBLISHED
            if (each.source, each.method, each.dataset, each.measure) == wanted
        )
        return next(found, None)


@dataclass(frozen=True)
class Ablation:
    """A table of the paper, or an ablation of ours.

    Attributes:
        about: what is varied.
        rows: the settings that are compared.
        paper_recipe: the pretraining recipe that the rows change at scale paper.
        paper_data: what the paper pretrains on; "" where the paper has no such table.
        fixed: dotted option -> value, where all rows differ from `paper_recipe`.
        paper_fixed: the same, at scale paper alone.
        datasets, measures: the columns of the paper's table, as in `ctp.report.papers.Published`.
        scores: how rows are scored unless the user says; none: by scale.
        note: a remark for the table.
        help: a line for `--help`.
    """

    about: str
    rows: tuple[Setting, ...]
    paper_recipe: str = "ucf101-r3d18"
    paper_data: str = UCF101
    fixed: Mapping[str, Any] = field(default_factory=dict)
    paper_fixed: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ABLATION_DATASETS
    measures: tuple[str, ...] = ("top1",)
    scores: tuple[str, ...] = ()
    note: str = ""
    help: str = ""

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """Return the columns of the paper's table: their names -> data set and measure."""
        return {
            f"{DATASETS[dataset]} {measure.replace('_', ' ').replace('top', 'top-')}": (
                dataset,
                measure,
            )
            for dataset, measure in product(self.datasets, self.measures)
        }


def _rows(source: str, option: str, values: Mapping[str, tuple[str, Any]]) -> tuple[Setting, ...]:
    """Return settings of one option; `values` are key -> (name, value)."""
    return tuple(
        Setting(key, name, {option: value}, source, name) for key, (name, value) in values.items()
    )


def _mrm(encoder: str, name: str, encoder_changes: Mapping[str, Any]) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            key=f"{name}-mrm-{state}",
            name=f"{encoder}, MRM {state}",
            changes={**encoder_changes, "task.hidden_prob": prob},
            source=f"Table 2b, {encoder}",
            method=f"MRM {state}",
        )
        for state, prob in (("off", 0.0), ("on", 0.2))
    )


def _untrained(
    source: str = "", method: str = "none", name: str = "random weights", **options: Any
) -> Setting:
    """Return a row of weights that are scored as they are."""
    values = {"key": RANDOM, "initial": RANDOM, **options}
    return Setting(name=name, source=source, method=method, **values)


def _other_task(task: str, name: str, **options: Any) -> Setting:
    """Return the row of another task in Table 4; `options` are of the task at the small scales."""
    return Setting(
        key=task,
        name=name,
        source="Table 4, †",
        method=f"{name}, {KINETICS400}",
        small_changes={"task": task, **{f"task.{key}": value for key, value in options.items()}},
        paper_recipe=f"kinetics400-{task}",
        paper_data=KINETICS400,
    )


def _ctp(source: str, data: str, **options: Any) -> Setting:
    """Return the row of Catch-the-Patch in a comparison with other methods."""
    key = f"ctp-{data.lower().replace('-', '')}"
    values = {"key": key, "name": "CtP", "paper_data": data, **options}
    return Setting(source=source, method=f"CtP, {data}", **values)


def _patches(key: str, name: str, source: str, curriculum: Any = None) -> Setting:
    return Setting(key, name, {"task.patch_source": source, "task.curriculum": curriculum})


_R3D, _R2PLUS1D = "R3D-18", "R(2+1)D-18"
_PAPER_R2PLUS1D = {"encoder": "r2plus1d", "encoder.middle_channels": "convolution"}
_TORCHVISION_R2PLUS1D = {"encoder": "r2plus1d", "encoder.middle_channels": "block"}
_BASELINES = (
    _untrained(),
    _untrained(
        method="ImageNet, supervised",
        name="ImageNet, supervised",
        key=IMAGENET,
        initial=IMAGENET,
        scales=PAPER_SCALE,
    ),
    _untrained(
        method="Kinetics-400, supervised",
        name="Kinetics-400, supervised",
        key=KINETICS,
        initial=KINETICS,
        scales=PAPER_SCALE,
    ),
    Setting(key="ctp", name="CtP", method=f"CtP, {KINETICS400}"),
)
_ON_GOT10K = {"data.uri": "data/got10k/train"}
_SPEEDS = _rows(
    "Table 10, speed",
    "task.max_speed_px_per_frame",
    {f"{speed}px": (f"{speed} px", float(speed)) for speed in (1, 3, 5, 15)},
)
_SCALES = _rows(
    "Table 10, scale",
    "task.max_log_scale_per_frame",
    {f"0.{d}": (f".{d}", float(f"0.{d}")) for d in ("010", "025", "040", "100")},
)

TABLES: Mapping[str, Ablation] = {
    "table1": Ablation(
        help="Table 1: where the boxes to predict come from.",
        about="where the boxes to predict come from",
        rows=(
            _untrained("Table 1"),
            Setting(
                key="kcf",
                name="KCF teacher",
                source="Table 1",
                changes={"task.labels": "annotated", "task.num_patches": 3},
                method=f"KCF teacher, {UCF101}",
                paper_recipe="ucf101-r3d18-kcf",
                paper_data=UCF101,
                small_build="kcf",
            ),
            Setting(
                key="cycle",
                name="cycle consistency",
                changes={"task.labels": "cycle", "task.num_patches": 3},
                source="Table 1",
                method=f"cycle consistency, {UCF101}",
                paper_data=UCF101,
            ),
            Setting(
                key="preset3",
                name="pre-set ×3",
                changes={"task.num_patches": 3},
                source="Table 1",
                method=f"pre-set ×3, {UCF101}",
                paper_data=UCF101,
            ),
            Setting(
                key="annotated",
                name="real annotation",
                changes={"task.labels": "annotated", "task.num_patches": 1},
                source="Table 1",
                method=f"real annotation, {GOT10K}",
                paper_changes=_ON_GOT10K,
                paper_data=GOT10K,
            ),
            Setting(
                key="preset1-got10k",
                name="pre-set ×1",
                changes={"task.num_patches": 1},
                source="Table 1",
                method=f"pre-set ×1, {GOT10K}",
                paper_changes=_ON_GOT10K,
                paper_data=GOT10K,
            ),
            Setting(
                key="preset3-got10k",
                name="pre-set ×3",
                changes={"task.num_patches": 3},
                source="Table 1",
                method=f"pre-set ×3, {GOT10K}",
                paper_changes=_ON_GOT10K,
                paper_data=GOT10K,
                scales=PAPER_SCALE,
            ),
        ),
        paper_data=OF_EACH_ROW,
        note="At the scales tiny and small all rows have the same videos, so that there is one row "
        "of pre-set ×3. Before the first trial, KCF labels the videos, in the folder shards/kcf of "
        "the sweep. The real boxes of generated videos are those of their objects; other videos "
        "need shards with boxes.",
    ),
    "table2a": Ablation(
        help="Table 2a: K, the number of patches in a clip, 1 to 4.",
        about="K, patches in a clip, 1 to 4",
        rows=_rows("Table 2a", "task.num_patches", {f"k{k}": (f"K = {k}", k) for k in range(1, 5)}),
        paper_recipe="kinetics400-r3d18",
        paper_data=QUARTER,
        paper_fixed=QUARTER_OF_THE_VIDEOS,
        fixed={"task.hidden_prob": 0.0},
        note="No patch is hidden (no MRM): the paper's row K = 3 is that of Table 2b with MRM "
        "off. For hidden patches: --set task.hidden_prob=0.2.",
    ),
    "table2b": Ablation(
        help="Table 2b: hidden patches (MRM) off and on, with two encoders.",
        about="hidden patches (MRM) off and on, with two encoders",
        rows=(
            *_mrm(_R3D, "r3d", {"encoder": "r3d"}),
            *_mrm(_R2PLUS1D, "r2plus1d", _PAPER_R2PLUS1D),
        ),
        paper_recipe="kinetics400-r3d18",
        paper_data=QUARTER,
        paper_fixed=QUARTER_OF_THE_VIDEOS,
    ),
    "table3": Ablation(
        help="Table 3: against random and supervised weights, with two encoders.",
        about="pretraining against random and supervised weights, with two encoders",
        rows=tuple(
            replace(
                row,
                key=f"{encoder}-{row.key}",
                name=f"{title}, {row.name}",
                source=f"Table 3, {title}",
                changes=_TORCHVISION_R2PLUS1D if changes and row.initial == KINETICS else changes,
            )
            for encoder, title, changes in (
                ("r3d", _R3D, {}),
                ("r2plus1d", _R2PLUS1D, _PAPER_R2PLUS1D),
            )
            for row in _BASELINES
            # the paper has no such row of R(2+1)D
            if (encoder, row.initial) != ("r2plus1d", IMAGENET)
        ),
        paper_recipe="kinetics400-r3d18",
        paper_data=KINETICS400,
        datasets=("ucf101", "hmdb51", "ssv1"),
        note="Supervised weights are torchvision's and fit the paper's encoders alone, so that "
        "only scale paper has them. Those of R(2+1)D are of torchvision's net (31.3 M "
        "weights), which is not the paper's (33.2 M).",
    ),
    "table4": Ablation(
        help="Table 4: six pretext tasks, those of others as re-implemented by the authors.",
        about="six pretext tasks, trained alike",
        rows=(
            _untrained("Table 3, R3D-18"),
            _other_task("moco", "MoCo", queue_size=64, key_momentum=0.99),
            _other_task("vcop", "VCOP", gap_frames=4),
            _other_task("rotation", "3DRotNet"),
            _other_task("memdpc", "MemDPC", **{"sampling.num_frames": 4}),
            _other_task("speed", "SpeedNet"),
            _ctp("Table 4, R3D-18", KINETICS400),
            _ctp("Table 4, R3D-18", UCF101, paper_recipe="ucf101-r3d18", scales=PAPER_SCALE),
            _ctp(
                "Table 4, R(2+1)D-18",
                UCF101,
                key="ctp-r2plus1d-ucf101",
                name="CtP, R(2+1)D-18",
                paper_recipe="ucf101-r2plus1d18",
                scales=PAPER_SCALE,
            ),
            _ctp(
                "Table 4, R(2+1)D-18",
                KINETICS400,
                key="ctp-r2plus1d-kinetics400",
                name="CtP, R(2+1)D-18",
                paper_recipe="kinetics400-r2plus1d18",
                scales=PAPER_SCALE,
            ),
        ),
        paper_recipe="kinetics400-r3d18",
        paper_data=OF_EACH_ROW,
        note="Of the methods that the paper compares, the rows are its own and those that its "
        "authors re-implemented (†); random weights are those of Table 3. At the scales "
        "tiny and small all tasks have the same encoder, frame size, steps, batch and "
        "optimiser. Clips have 8 frames, those of MemDPC eight blocks of 4, and those of "
        "VCOP 4 frames between them, to fit into the 40 frames of a generated video. MoCo "
        "has a queue of 64 keys, which is below an epoch, and a key momentum of .99, since "
        "runs are short.",
    ),
    "table5": Ablation(
        help="Table 5: retrieval by features, without fine-tuning.",
        about="retrieval of videos by the features of the encoder",
        rows=(
            _untrained(method=""),
            _ctp("Table 5", KINETICS400),
            _ctp("Table 5", UCF101, paper_recipe="ucf101-r3d18", scales=PAPER_SCALE),
        ),
        paper_recipe="kinetics400-r3d18",
        paper_data=OF_EACH_ROW,
        measures=("retrieval_top1", "retrieval_top5"),
        scores=("retrieval",),
        note="Of the methods that the paper compares, the rows are its own. The paper has no row "
        "of random weights.",
    ),
    "table6": Ablation(
        help="Table 6: fine-tuning on Kinetics-400, which has many labels.",
        about="fine-tuning with many labels, from random and from pretrained weights",
        rows=(_untrained("Table 6"), _ctp("Table 6", KINETICS400)),
        paper_recipe="kinetics400-r3d18",
        paper_data=KINETICS400,
        datasets=("kinetics400",),
        measures=("top1", "top5"),
        scores=("finetune",),
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
    "table10": Ablation(
        help="Table 10: the greatest speed and the greatest change in size of patches.",
        about="the greatest speed of patches, and the greatest change in their size",
        rows=(
            *(replace(row, name=f"speed {row.name}") for row in _SPEEDS),
            *(replace(row, name=f"scale {row.name}") for row in _SCALES if row.key != "0.025"),
        ),
        note="Its halves alone are table10-speed and table10-scale. The row of scale .025 is "
        "that of speed 3 px, which is trained once.",
    ),
    "table10-speed": Ablation(
        help="Table 10: the greatest speed of patches.",
        about="the greatest speed of patches, in pixels per frame",
        rows=_SPEEDS,
        note="Speeds are in pixels per frame at every scale: clips of the small scales have half "
        "as many frames of less than half the side, so that patches cross as large a part "
        "of the picture.",
    ),
    "table10-scale": Ablation(
        help="Table 10: the greatest change in size of patches.",
        about="the greatest change in size of patches, as a logarithm per frame",
        rows=_SCALES,
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
    """Options of your own choice, by --grid or --row (default)."""
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
