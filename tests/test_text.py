"""Texts of messages."""

from __future__ import annotations

from ctp.text import LINE_CHARS, wrapped


def test_long_lines_are_wrapped_at_spaces() -> None:
    words, path = "word " * 40, "s3://" + 30 * "long-name/"
    lines = wrapped(f"short\n  indented\n{words}{path}").splitlines()
    assert lines[:2] == ["short", "  indented"]
    assert lines[-1] == f"  {path}", "a path stays whole"
    assert all(len(line) <= LINE_CHARS for line in lines[:-1])
    assert " ".join("".join(f"{line} " for line in lines[2:]).split()) == words + path
