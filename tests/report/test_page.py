"""Pages that lose and mangle nothing."""

from __future__ import annotations

import base64
import re

import pytest

from ctp.report.page import SOURCE, Picture, Row, Section, Table, to_html, to_markdown

SECTION = Section(
    title="ft <1>",
    uri="s3://bucket/runs/ft",
    state="finished",
    facts={"encoder": "R3D-18", "classes": "a & b"},
    tables=[
        Table(
            ("", "top-1 %", SOURCE),
            [
                Row(("ours", "84.0 ± 0.2", "s3://bucket/runs/ft/scores.json")),
                Row(("paper, a|b", "86.2", "Table 3"), is_ours=False),
            ],
            frozenset({"top-1 %"}),
        )
    ],
    notes=["n < 3"],
    differences=["schedule.length: 150 in the paper's recipe, 30 here"],
    pictures=[Picture("curves.png", "loss | accuracy", b"\x89PNG")],
)


def test_every_number_of_a_page_stands_beside_its_source() -> None:
    page = to_html("Runs", [SECTION]).decode()
    assert "84.0 ± 0.2<td class=faint>s3://bucket/runs/ft/scores.json" in page
    assert "86.2<td class=faint>Table 3" in page
    text, _ = to_markdown("Runs", [SECTION])
    assert "| ours | 84.0 ± 0.2 | s3://bucket/runs/ft/scores.json |" in text
    assert "| paper, a/b | 86.2 | Table 3 |" in text


def test_ours_and_the_papers_are_told_apart() -> None:
    page = to_html("Runs", [SECTION]).decode()
    assert "<tr class=ours><td>ours<td class=number>84.0" in page
    assert "<tr><td>paper, a|b<td class=number>86.2" in page


def test_html_is_whole_and_escaped() -> None:
    page = to_html("Runs", [SECTION]).decode()
    assert "ft &lt;1&gt;" in page
    assert "a &amp; b" in page
    assert "<p>n &lt; 3</p>" in page
    assert "<li>schedule.length: 150 in the paper" in page
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(data) == b"\x89PNG"


def test_markdown_names_its_pictures() -> None:
    text, pictures = to_markdown("Runs", [SECTION, SECTION])
    assert list(pictures) == ["1-curves.png", "2-curves.png"]
    assert all(f"]({name})" in text for name in pictures)
    assert "| --- | --: | --- |" in text
    assert "\nn < 3\n" in text


@pytest.mark.parametrize("is_html", [True, False])
def test_what_there_is_not_is_not_shown(is_html: bool) -> None:
    def page(section: Section) -> str:
        sections = [section]
        return to_html("", sections).decode() if is_html else to_markdown("", sections)[0]

    same, none = (page(Section("a", differences=given)) for given in ((), None))
    assert "Nothing: the recipe is the paper" in same
    assert "not as in the paper" not in none
    bare = page(Section("a", tables=[Table(("b", SOURCE), [])]))
    assert SOURCE not in bare
    assert "<code>" not in bare
    assert "`" not in bare
