"""Which files a source names: those below a folder, or by a glob or braces."""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ctp.storage import FileInfo, Storage

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
UNKNOWN = -1
"""The size of a file that was named and not listed."""
RANGE_OR_CHOICE = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


@dataclass(frozen=True)
class Listing:
    """Files, by their paths below a root; the size of one that was not looked at is `UNKNOWN`."""

    root: Storage
    files: list[FileInfo]


def list_source(uri: str) -> Listing:
    """The files that a folder or pattern stands for, local or in an object store.

    Args:
        uri: a folder (all files below it, at any depth), or a pattern of files: a glob (`**`
            crosses folders; in a URI there is no `?`, which begins its query), or braces,
            `shard-{000..146}.tar` or `{train,val}/*.mp4`. Paths are relative to the folder, or to
            the part of a pattern that is none.

    Raises:
        ValueError: there is no such folder, or nothing matches the pattern.
        StorageError: it cannot be listed.
    """
    place = Storage.of(uri)
    if place.exists():  # before it is read as a pattern, for names may hold brackets
        return Listing(place, place.list_files())
    depth = _pattern_depth(uri)
    if not depth:
        raise ValueError(
            f"data.uri: there is no {uri!r}. Wanted: a folder of videos, a glob or braces, a "
            ".txt list, a .parquet shard or .tar, an s3:// prefix, or corpus:NUMBER"
        )
    listing = _list_pattern(place, depth)
    if not listing.files:
        raise ValueError(f"data.uri: no file matches {uri!r}")
    return listing


def is_video(path: str) -> bool:
    """Whether a file is a video by its name."""
    return suffix_of(path) in VIDEO_SUFFIXES


def suffix_of(path: str) -> str:
    """`.mp4` of `a/B.MP4`; nothing where there is no dot."""
    return posixpath.splitext(path)[1].lower()


def expand_braces(pattern: str) -> list[str]:
    """What `a{08..10}{x,y}` stands for: a08x, a08y, a09x, …; a number is as long as the first."""
    found = RANGE_OR_CHOICE.search(pattern)
    if not found:
        return [pattern]
    first, last, choice = found.groups()
    if choice is None:
        low, high = sorted((int(first), int(last)))
        words = [str(number).zfill(len(first)) for number in range(low, high + 1)]
    else:
        words = choice.split(",")
    before, after = pattern[: found.start()], pattern[found.end() :]
    expanded = (each for word in words for each in expand_braces(before + word + after))
    return list(dict.fromkeys(expanded))  # nested braces name some twice


def _pattern_depth(uri: str) -> int:
    """How many parts of a path there are from the first that is a pattern on; 0 if none is."""
    is_uri = "://" in uri
    parts = uri.partition("?")[0].rstrip("/").split("/") if is_uri else Path(uri).parts
    brace = "{" if RANGE_OR_CHOICE.search(uri) else "*"
    patterns = [i for i, part in enumerate(parts) if glob.has_magic(part) or brace in part]
    return len(parts) - patterns[0] if patterns else 0


def _list_pattern(place: Storage, depth: int) -> Listing:
    root = place
    for _ in range(depth):
        root = root.parent
    names = expand_braces("/".join(place.path.split("/")[-depth:]))
    globs = [name for name in names if glob.has_magic(name)]
    files = {name: FileInfo(name, UNKNOWN) for name in names if not glob.has_magic(name)}
    matching = _match_local(root, globs) if root.is_local else _match_remote(root, globs)
    files |= {info.path: info for info in matching}
    return Listing(root, sorted(files.values(), key=lambda info: info.path))


def _match_local(root: Storage, globs: Sequence[str]) -> list[FileInfo]:
    # a listing of all that is below the root might be one of the whole disk
    paths = [
        p for each in globs for p in glob.glob(each, root_dir=root.path or "/", recursive=True)
    ]
    return root.find_files(paths)


def _match_remote(root: Storage, globs: Sequence[str]) -> list[FileInfo]:
    if not globs:
        return []
    patterns = [each.split("/") for each in globs]
    files = root.list_files()
    return [i for i in files if any(_matches(i.path.split("/"), each) for each in patterns)]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
