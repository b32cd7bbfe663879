"""Pages that lose and mangle nothing."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

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
    differences=["schedule, length: 30 here, 150 in the paper"],
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
    assert "<li>schedule, length: 30 here, 150 in the paper" in page
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(data) == b"\x89PNG"


def test_the_first_table_has_a_line_for_each_run_that_leads_to_its_details() -> None:
    runs = [
        replace(SECTION, title=name, uri=f"/home/me/runs/{name}", summary={"run": name, "score": s})
        for name, s in (("a", "1%"), ("b", "2%"))
    ]
    page = to_html("Runs", [Section("Comparison"), *runs])
    table, details = page.split("</table>", 1)
    assert re.findall(r'<a href="#(run\d)">(\w)</a><td>(\d%)', table) == [
        ("run1", "a", "1%"), ("run2", "b", "2%")
    ]  # fmt: skip
    assert re.findall(r'<div id="(run\d)">\s*<p><code>([^<]*)', details) == [
        ("run1", "a"), ("run2", "b")
    ]  # fmt: skip
    assert "/home/me" not in page


def test_a_bucket_alone_is_no_folder_of_runs() -> None:
    runs = [replace(SECTION, uri=uri, summary={"run": uri}) for uri in ("s3://a/x", "s3://b/y")]
    page = to_html("Runs", runs)
    assert "<code>s3://a/x</code>" in page


def test_what_is_missing_is_not_shown() -> None:
    same, none = (to_html("", [Section("a", differences=given)]) for given in ((), None))
    assert "None: the recipe is the paper" in same
    assert "Differences" not in none
    bare = to_html("", [Section("a", tables=[Table([])])])
    for part in ("<table", "<code>", "<figure", "<details"):
        assert part not in bare
