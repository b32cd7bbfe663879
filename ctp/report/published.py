"""The paper's published numbers, to stand beside ours, each with the table that it is from.

Numbers that its Tables 4 and 5 only quote of others are left out: other encoders, other resolutions
and other ways to fine-tune. Those that its authors made of others' methods (†) are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A number of the paper.

    Attributes:
        source: the table.
        encoder: "r3d" or "r2plus1d".
        method: what the encoder started from, or what was varied.
        dataset: ucf101, hmdb51, ssv1 or kinetics400.
        measure: "top1" or "top5" of classification, "retrieval_top1" or "retrieval_top5".
        percent: the number.
    """

    source: str
    encoder: str
    method: str
    dataset: str
    measure: str
    percent: float


BOTH = ("ucf101", "hmdb51")
THREE = (*BOTH, "ssv1")
_TOP1: dict[str, tuple[str, tuple[str, ...], dict[str, tuple[float, ...]]]] = {
    # table -> (encoder, data sets, method -> top-1 in %); Tables 2a and 2b pretrain on a quarter of
    # Kinetics-400, Tables 7 to 10 on UCF-101
    "Table 1": (
        "r3d",
        BOTH,
        {
            "none": (65.0, 30.9),
            "KCF teacher, UCF-101": (70.6, 44.4),
            "cycle consistency, UCF-101": (81.1, 53.3),
            "pre-set ×3, UCF-101": (83.9, 53.6),
            "real annotation, GOT-10k": (77.0, 51.4),
            "pre-set ×1, GOT-10k": (80.4, 49.4),
            "pre-set ×3, GOT-10k": (85.9, 55.7),
        },
    ),
    "Table 2a": (
        "r3d",
        BOTH,
        {
            "K = 1": (81.7, 49.1),
            "K = 2": (83.0, 51.9),
            "K = 3": (82.8, 53.2),
            "K = 4": (82.2, 54.1),
        },
    ),
    "Table 2b, R3D-18": ("r3d", BOTH, {"MRM off": (82.8, 53.2), "MRM on": (84.0, 55.3)}),
    "Table 2b, R(2+1)D-18": (
        "r2plus1d",
        BOTH,
        {"MRM off": (85.1, 55.9), "MRM on": (87.2, 57.8)},
    ),
    "Table 3, R3D-18": (
        "r3d",
        THREE,
        {
            "none": (65.0, 30.9, 39.2),
            "ImageNet, supervised": (79.5, 40.0, 42.9),
            "Kinetics-400, supervised": (91.6, 60.5, 43.3),
            "CtP, Kinetics-400": (86.2, 57.0, 44.2),
        },
    ),
    "Table 3, R(2+1)D-18": (
        "r2plus1d",
        THREE,
        {
            "none": (67.0, 29.5, 40.6),
            "Kinetics-400, supervised": (92.7, 64.5, 43.9),
            "CtP, Kinetics-400": (88.4, 61.7, 48.3),
        },
    ),
    "Table 4, R3D-18": (
        "r3d",
        BOTH,
        {"CtP, UCF-101": (83.9, 53.6), "CtP, Kinetics-400": (86.2, 57.0)},
    ),
    "Table 4, R(2+1)D-18": (
        "r2plus1d",
        BOTH,
        {"CtP, UCF-101": (86.2, 57.1), "CtP, Kinetics-400": (88.4, 61.7)},
    ),
    "Table 4, †": (
        "r3d",
        BOTH,
        {
            "MoCo, Kinetics-400": (77.0, 43.4),
            "VCOP, Kinetics-400": (73.3, 41.4),
            "3DRotNet, Kinetics-400": (77.5, 41.4),
            "MemDPC, Kinetics-400": (75.3, 41.2),
            "SpeedNet, Kinetics-400": (83.5, 50.6),
        },
    ),
    "Table 7": ("r3d", BOTH, {"stride 16": (83.5, 52.5), "stride 8": (83.9, 53.6)}),
    "Table 8": ("r3d", BOTH, {"no squeeze": (82.9, 52.3), "squeeze": (83.9, 53.6)}),
    "Table 9": (
        "r3d",
        BOTH,
        {
            "σ .8, .04": (83.9, 53.6),
            "σ .8, .08": (83.3, 52.9),
            "σ .8, .02": (83.6, 55.0),
            "σ 1.0, .05": (83.2, 54.8),
        },
    ),
    "Table 10, speed": (
        "r3d",
        BOTH,
        {
            "1 px": (80.6, 48.6),
            "3 px": (83.9, 53.6),
            "5 px": (83.4, 54.0),
            "15 px": (80.6, 49.3),
        },
    ),
    "Table 10, scale": (
        "r3d",
        BOTH,
        {
            ".010": (83.3, 54.3),
            ".025": (83.9, 53.6),
            ".040": (83.5, 53.2),
            ".100": (84.3, 54.2),
        },
    ),
}
_TOP1_AND_5 = (
    # table, measure's beginning, method, data set, top-1 and top-5 in %
    ("Table 5", "retrieval_", "CtP, UCF-101", "ucf101", 23.4, 40.9),
    ("Table 5", "retrieval_", "CtP, UCF-101", "hmdb51", 11.4, 30.2),
    ("Table 5", "retrieval_", "CtP, Kinetics-400", "ucf101", 29.0, 47.3),
    ("Table 5", "retrieval_", "CtP, Kinetics-400", "hmdb51", 11.8, 30.1),
    ("Table 6", "", "none", "kinetics400", 64.1, 85.3),
    ("Table 6", "", "CtP, Kinetics-400", "kinetics400", 65.0, 85.7),
)


def _all() -> Iterator[Published]:
    for source, (encoder, datasets, methods) in _TOP1.items():
        for method, values in methods.items():
            for dataset, percent in zip(datasets, values, strict=True):
                yield Published(source, encoder, method, dataset, "top1", percent)
    for source, kind, method, dataset, top1, top5 in _TOP1_AND_5:
        for name, percent in (("top1", top1), ("top5", top5)):
            yield Published(source, "r3d", method, dataset, f"{kind}{name}", percent)


PUBLISHED = tuple(_all())


def published(dataset: str, measure: str, encoder: str, *sources: str) -> list[Published]:
    """The paper's numbers of a measure on a data set.

    Args:
        dataset, measure, encoder: as in `Published`.
        sources: beginnings of the tables' names; none: all.
    """
    return [
        each
        for each in PUBLISHED
        if (each.dataset, each.measure, each.encoder) == (dataset, measure, encoder)
        and (not sources or each.source.startswith(sources))
    ]
