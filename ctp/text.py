"""Short texts for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 5


def one_line(text: object) -> str:
    """Return the text with each run of white space, also line breaks, as one space."""
    return " ".join(str(text).split())


def near_miss(name: str, names: Iterable[str]) -> str:
    """Return ' (did you mean …?)' if one of `names` is similar to `name`, otherwise ''."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def listed(names: Iterable[str | None]) -> str:
    """Return the first names, quoted and separated by commas, and the number of the others."""
    texts = [repr(name) for name in names]
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(texts[:MAX_LISTED]) + more
