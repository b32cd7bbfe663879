"""The report: the paper's numbers as they are printed, and pages that lose and mangle nothing."""

from __future__ import annotations

import base64
import re

from ctp.analysis.published import PUBLISHED, published
from ctp.analysis.report import Picture, Score, Section, to_html, to_markdown

SECTION = Section(
    title="ft <1>",
    uri="s3://bucket/runs/ft",
    state="finished",
    facts={"encoder": "R3D-18", "classes": "a & b"},
    scores=[
        Score(
            "top-1", "84.0", "s3://bucket/runs/ft/scores.json", published("ucf101", "top5", "r3d")
        ),
        Score("top-1", "12.5", "x.json", published("ssv1", "top1", "r3d", "Table 3")),
    ],
    differences=["schedule.length: 150 in the paper's recipe, 30 here"],
    pictures=[Picture("curves.png", "loss | accuracy", b"\x89PNG")],
)


def numbers(dataset: str, measure: str, encoder: str, source: str) -> dict[str, float]:
    return {each.method: each.percent for each in published(dataset, measure, encoder, source)}


def test_the_papers_tables() -> None:
    assert numbers("ucf101", "top1", "r3d", "Table 1")["pre-set ×3, GOT-10k"] == 85.9
    assert numbers("hmdb51", "top1", "r3d", "Table 2a") == {
        "K = 1": 49.1, "K = 2": 51.9, "K = 3": 53.2, "K = 4": 54.1,
    }  # fmt: skip
    assert numbers("ssv1", "top1", "r2plus1d", "Table 3")["CtP, Kinetics-400"] == 48.3
    assert numbers("ucf101", "top1", "r3d", "Table 4")["SpeedNet, Kinetics-400"] == 83.5
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


def test_every_number_of_a_page_has_its_source() -> None:
    page = to_html("Runs", [SECTION]).decode()
    for score in SECTION.scores:
        assert f"{score.value}<td class=faint>{score.source}" in page
        for each in score.published:
            assert f"{each.percent:.1f}<td class=faint>{each.source}" in page
    text, _ = to_markdown("Runs", [SECTION])
    for score in SECTION.scores:
        assert f"| ours | {score.name} | {score.value} | {score.source} |" in text
        for each in score.published:
            assert f"| {each.percent:.1f} | {each.source} |" in text


def test_html_is_whole_and_escaped() -> None:
    page = to_html("Runs", [SECTION]).decode()
    assert "ft &lt;1&gt;" in page
    assert "a &amp; b" in page
    assert "<li>schedule.length: 150 in the paper" in page
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(data) == b"\x89PNG"


def test_markdown_names_its_pictures() -> None:
    text, pictures = to_markdown("Runs", [SECTION, SECTION])
    assert list(pictures) == ["1-curves.png", "2-curves.png"]
    assert all(f"]({name})" in text for name in pictures)


def test_no_difference_and_no_such_run_are_told_apart() -> None:
    same, none = (Section("a", "b", "c", differences=given) for given in ((), None))
    for make in (lambda s: to_html("", [s]).decode(), lambda s: to_markdown("", [s])[0]):
        assert "Nothing: the recipe is the paper" in make(same)
        assert "not as in the paper" not in make(none)
