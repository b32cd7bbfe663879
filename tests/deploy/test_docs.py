"""The pages of the Python API: all that is public has one, and their links lead somewhere."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

import ctp

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(run_python, request, tmp_path_factory) -> dict[Path, str]:
    """The text of each page; a warning of pdoc is an error."""
    folder = tmp_path_factory.mktemp("docs")
    script = request.config.rootpath / "deploy" / "docs.py"
    run_python("-W", "error::UserWarning", str(script), str(folder))
    return {path: path.read_text() for path in folder.rglob("*.html")}


def page(pages: dict[Path, str], name: str) -> str:
    (found,) = (text for path, text in pages.items() if str(path).endswith(f"/{name}"))
    return found


def test_the_functions_are_on_the_first_page(pages):
    text = page(pages, "ctp.html")
    assert [name for name in ctp.__all__ if f'id="{name}"' not in text] == []
    # the docstring of a function, with its arguments as a list
    assert "Pretrain an encoder on a pretext task" in text
    assert "<strong>recipe:</strong>" in text


def test_options_have_their_help(pages):
    text = page(pages, "pretext/ctp/config.html")
    assert 'id="CtpConfig.num_patches"' in text
    assert "trajectories in a clip (Table 2a)" in text


def test_every_link_leads_to_an_anchor_of_a_page(pages):
    anchors = {path: set(re.findall(r'id="([^"]+)"', text)) for path, text in pages.items()}
    links = [
        (path, *unescape(link).partition("#")[::2])
        for path, text in pages.items()
        for link in re.findall(r'href="([^"]+)"', text)
        if "://" not in link and "$" not in link  # the search writes links of its own
    ]
    modules = [link for link in links if link[1]]
    assert len(modules) > 20
    for path, target, anchor in links:
        there = (path.parent / target).resolve() if target else path
        assert there in pages, (path, target)
        assert not anchor or anchor in anchors[there], (path, target, anchor)
