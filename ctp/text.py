"""Short texts for messages, and the lines of text files."""

from __future__ import annotations

import codecs
import difflib
import textwrap
from collections.abc import Iterable
from functools import partial

MAX_LISTED = 5
LINE_CHARS = 100
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def one_line(text: object) -> str:
    """Return the text with each run of white space, also line breaks, as one space."""
    return " ".join(str(text).split())


def wrapped(text: str) -> str:
    """Return the lines of a text, of at most `LINE_CHARS` where spaces allow it; further lines of a
    long one are indented."""
    lines = text.splitlines()
    fill = partial(
        textwrap.fill,
        width=LINE_CHARS,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(map(fill, lines))


def near_miss(name: str, names: Iterable[str]) -> str:
    """Return ' (did you mean …?)' if one of `names` is similar to `name`, otherwise ''."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return all names, the most similar to `name` first, otherwise in their order."""
    matcher = difflib.SequenceMatcher(b=name.lower())

    def distance(other: str) -> float:
        matcher.set_seq1(other.lower())
        return -matcher.ratio()

    return sorted(names, key=distance)


def listed(names: Iterable[str | None]) -> str:
    """Return the first names, quoted and separated by commas, and the number of the others."""
    texts = [repr(name) for name in names]
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(texts[:MAX_LISTED]) + more


def and_unread(number: int, unit: str = "") -> str:
    """Return the end of a line of scores: how many more could not be read; "" if none.

    Args:
        number: how many.
        unit: of what; "": what the line counts.
    """
    more = f"{number} more {unit}".rstrip()
    return f"; {more} could not be read" if number else ""


def text_lines(data: bytes, name: str) -> list[str]:
    """Return the lines of a text file that are not empty, without white space at their ends.

    The file is UTF-8, or UTF-16 if it starts with the byte-order mark of UTF-16, as PowerShell
    writes it. A byte-order mark is no part of the first line.

    Args:
        data: the bytes of the file.
        name: the file, for the message of an error.

    Raises:
        ValueError: it is neither.
    """
    encoding = "utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8: {error}") from error
    # not splitlines(), which also ends a line at characters that names of files may hold
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]
