"""Lists of videos: text files with a path or URI per line, and optionally a label.

The label follows the path after a tab, white space, a comma or a semicolon, as SlowFast, VideoMAE
and V-JEPA write it:

    walk/a.mp4	walking
    walk/a video.mp4 3
    "walk/a.mp4","walking, outside"

A path ends at the last ending of a video on its line, so it may hold spaces and commas. A line that
starts with `#` is a comment, unless it names a video. What macOS leaves beside files, `._a.mp4` and
`__MACOSX/`, is skipped; other hidden names are not, because they were written on purpose.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ctp.data.listing import RESOURCE_FORKS, VIDEO_SUFFIXES
from ctp.storage import Storage, StorageError
from ctp.text import listed, text_lines

LIST_SUFFIXES = (".txt", ".csv", ".tsv")
NUM_CHECKED = 16
"""Videos of a list that are looked up before a run starts; a wrong folder affects all of them."""
APPLE_DOUBLE = "._"

_ENDINGS = "|".join(map(re.escape, VIDEO_SUFFIXES))
QUOTED = re.compile(r'"((?:[^"]|"")+)"(?:[\s,;]+(.*))?$')
TABBED = re.compile(r"([^\t]+)\t(.*)$")
LABELLED = re.compile(rf"(.*(?:{_ENDINGS}))(?:\s*[\s,;]\s*(.*))?$", re.IGNORECASE)
LAST_WORD = re.compile(r"(.+?)[\s,;]+([^\s,;]+)$")
HEADER = re.compile(
    r'"?(?:video|file|path|name|uri|url|clip)s?(?:[_ ]?(?:name|path|id))?(?:["\s,;]|$)',
    re.IGNORECASE,
)
"""The start of a first line that names columns."""


class ListedVideo(NamedTuple):
    """A video of a list.

    Attributes:
        path: as the list writes it.
        uri: where it is.
        label: class name, or None.
    """

    path: str
    uri: str
    label: str | None


def read_list(place: Storage) -> list[ListedVideo]:
    """Return the videos of a list, each once.

    Raises:
        ValueError: it is no text, names no video, gives a video two labels, or none of the videos
            that are looked up exists.
        StorageError: it cannot be read.
    """
    lines = text_lines(place.read_bytes(), f"the list {place.uri!r}")
    videos = list(_parse_lines(place.parent, lines[_has_header(place, lines) :]))
    if not videos:
        raise ValueError(f"the list {place.uri!r} names no video")
    videos = _each_once(place, videos)
    _check_some_exist(place, videos)
    return videos


def _has_header(place: Storage, lines: Sequence[str]) -> bool:
    """Return whether the first line of a table names its columns."""
    is_table = not place.path.lower().endswith(".txt") and bool(lines)
    return is_table and bool(HEADER.match(lines[0])) and not LABELLED.match(lines[0])


def _parse_lines(folder: Storage, lines: Sequence[str]) -> Iterator[ListedVideo]:
    for line in lines:
        if line.startswith("#") and LABELLED.match(line) is None:
            continue
        path, label = _parse_line(folder, line)
        name = posixpath.basename(path)
        if not name.startswith(APPLE_DOUBLE) and RESOURCE_FORKS not in path.split("/"):
            yield ListedVideo(path, _locate(folder, path), label or None)


def _parse_line(folder: Storage, line: str) -> tuple[str, str]:
    """Return the path and the label of a line; "" for no label."""
    if quoted := QUOTED.match(line):
        return quoted[1].replace('""', '"'), (quoted[2] or "").strip().strip('"')
    if tabbed := TABBED.match(line):
        return tabbed[1].strip(), tabbed[2].strip()
    if labelled := LABELLED.match(line):
        return labelled[1], (labelled[2] or "").strip().strip('"')
    return _split_existing(folder, line)


def _split_existing(folder: Storage, line: str) -> tuple[str, str]:
    """Split a line without the ending of a video, if a shorter part of it is a file."""
    parts = LAST_WORD.match(line)
    if parts is None or not folder.is_local or "://" in line:
        return line, ""
    path, label = parts.groups()
    whole, part = (os.path.isfile(folder.join(each).path) for each in (line, path))
    return (path, label) if part and not whole else (line, "")


def _locate(folder: Storage, path: str) -> str:
    return path if "://" in path or os.path.isabs(path) else folder.join(path).uri


def _each_once(place: Storage, videos: Sequence[ListedVideo]) -> list[ListedVideo]:
    """Drop lines that repeat others.

    Raises:
        ValueError: two lines give a video different labels.
    """
    kept: dict[str, ListedVideo] = {}
    for video in videos:
        key = video.uri if "://" in video.uri else os.path.normpath(video.uri)
        first = kept.setdefault(key, video)
        if first.label != video.label:
            raise ValueError(
                f"the list {place.uri!r} gives {video.path!r} two labels, "
                f"{first.label!r} and {video.label!r}. Name each video once"
            )
    return list(kept.values())


def _check_some_exist(place: Storage, videos: Sequence[ListedVideo]) -> None:
    """Check that some of the videos are files; otherwise only the run would find that none is.

    Raises:
        ValueError: none of those that are looked up exists.
    """
    step = -(-len(videos) // NUM_CHECKED)
    checked = videos[::step]
    with ThreadPoolExecutor(len(checked)) as pool:
        if any(pool.map(_may_exist, [video.uri for video in checked])):
            return
    raise ValueError(
        f"the list {place.uri!r}: none of {len(checked)} videos that were looked up "
        f"is a file: {listed(video.uri for video in checked)}. Expected a path or URI per line, "
        "optionally a tab and a label; relative paths start at the list's folder"
    )


def _may_exist(uri: str) -> bool:
    try:
        return Storage.from_uri(uri).is_file()
    except StorageError:
        return True  # the reason may be the storage at this moment; reading the video finds it
    except ValueError:  # of an unknown scheme
        return False
