"""The paper's numbers as they are printed."""

from __future__ import annotations

from ctp.report.published import PUBLISHED, published


def numbers(dataset: str, measure: str, encoder: str, source: str) -> dict[str, float]:
    return {each.method: each.percent for each in published(dataset, measure, encoder, source)}


def test_the_papers_tables() -> None:
    assert numbers("ucf101", "top1", "r3d", "Table 1")["pre-set ×3, GOT-10k"] == 85.9
    assert numbers("hmdb51", "top1", "r3d", "Table 2a") == {
        "K = 1": 49.1, "K = 2": 51.9, "K = 3": 53.2, "K = 4": 54.1,
    }  # fmt: skip
    assert numbers("ssv1", "top1", "r2plus1d", "Table 3")["CtP, Kinetics-400"] == 48.3
    assert numbers("ucf101", "top1", "r3d", "Table 4, †")["SpeedNet, Kinetics-400"] == 83.5
    assert numbers("hmdb51", "top1", "r2plus1d", "Table 4") == {
        "CtP, UCF-101": 57.1, "CtP, Kinetics-400": 61.7,
    }  # fmt: skip
    assert numbers("hmdb51", "retrieval_top5", "r3d", "Table 5") == {
        "CtP, UCF-101": 30.2, "CtP, Kinetics-400": 30.1,
    }  # fmt: skip
    assert numbers("kinetics400", "top5", "r3d", "Table 6") == {
        "none": 85.3, "CtP, Kinetics-400": 85.7,
    }  # fmt: skip
    assert {each.source.partition(",")[0] for each in PUBLISHED} == {
        "Table 1", "Table 2a", "Table 2b", "Table 3", "Table 4", "Table 5", "Table 6", "Table 7",
        "Table 8", "Table 9", "Table 10",
    }  # fmt: skip
    assert len(set(PUBLISHED)) == len(PUBLISHED)
