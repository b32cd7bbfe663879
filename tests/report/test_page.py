"""Pages that lose and mangle nothing."""

from __future__ import annotations

import base64
import re

from ctp.report.page import SOURCE, Picture, Section, Table, to_html

SECTION = Section(
    title="ft <1>",
    uri="s3://bucket/runs/ft",
    state="finished",
    facts={"encoder": "R3D-18", "classes": "a & b"},
    tables=[
        Table(
            [
                {"of": "ours", "top-1": "84.0% ± 0.2%", SOURCE: "s3://bucket/runs/ft/scores.json"},
                {"of": "paper, a|b", "top-1": "86.2%", "empty": "", SOURCE: "Table 3"},
            ]
        )
    ],
    notes=["n < 3"],
    differences=["schedule.length: 150 in the paper's recipe, 30 here"],
    pictures=[Picture("loss | accuracy", b"\x89PNG")],
)


def rows_of(page: str) -> list[list[str]]:
    """The class of each row, and its cells."""
    found = re.findall(r'<tr class="(ours|paper)">(.*)', page)
    return [[kind, *re.findall(r"<td[^>]*>([^<]*)", cells)] for kind, cells in found]


def test_every_number_is_beside_its_source() -> None:
    assert rows_of(to_html("Runs", [SECTION])) == [
        ["ours", "ours", "84.0% ± 0.2%", "s3://bucket/runs/ft/scores.json"],
        ["paper", "paper, a|b", "86.2%", "Table 3"],
    ]


def test_columns_of_numbers_are_found_and_empty_columns_left_out() -> None:
    (table,) = SECTION.tables
    assert table.columns == ["of", "top-1", SOURCE]
    assert [table.style(name) for name in table.columns] == ["text", "number", SOURCE]
    assert Table([{"iou": "0.61 ± 0.02 (0.50)"}, {"iou": ""}]).style("iou") == "number"
    assert Table([{"seeds": "0, 1"}]).style("seeds") == "text"
    assert Table([]).columns == []


def test_the_page_is_complete_and_escaped() -> None:
    page = to_html("Runs", [SECTION])
    assert "ft &lt;1&gt;" in page
    assert "a &amp; b" in page
    assert "<p>n &lt; 3</p>" in page
    assert "<li>schedule.length: 150 in the paper" in page
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(data) == b"\x89PNG"


def test_what_is_missing_is_not_shown() -> None:
    same, none = (to_html("", [Section("a", differences=given)]) for given in ((), None))
    assert "None: the recipe is the paper" in same
    assert "Differences" not in none
    bare = to_html("", [Section("a", tables=[Table([])])])
    for part in ("<table", "<code>", "<figure"):
        assert part not in bare
