"""List the files of a folder, glob or brace pattern."""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from ctp.storage import FileInfo, Storage

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
RANGE_OR_CHOICE = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


def list_source(uri: str) -> tuple[Storage, list[FileInfo]]:
    """List the files of a folder or pattern, local or in an object store.

    Args:
        uri: a file; a folder, for all files below it at any depth; or a pattern of files: a glob
            (`**` crosses folders; a URI cannot hold `?`, which starts its query) or braces,
            `shard-{000..146}.tar` or `{train,val}/*.mp4`.

    Returns:
        (root, files), the paths relative to the root: the folder, or the part of a pattern before
        its first special character. The size of a file that was named and not listed is None.

    Raises:
        ValueError: there is no such folder, or no file matches the pattern.
        StorageError: the folder cannot be listed.
    """
    place = Storage.from_uri(uri)
    if place.is_file():  # before patterns, because names may hold brackets
        return place.parent, [FileInfo(posixpath.basename(place.path), None)]
    if place.exists():
        return place, place.list_files()
    depth = _pattern_depth(uri)
    if not depth:
        raise ValueError(
            f"data.uri: there is no {uri!r}. Expected a folder of videos, a glob or braces, a "
            ".txt list, a .parquet shard or .tar, an s3:// prefix, or corpus:NUMBER"
        )
    root, files = _list_pattern(place, depth)
    if not files:
        raise ValueError(f"data.uri: no file matches {uri!r}")
    return root, files


def is_video(path: str) -> bool:
    """Return whether a file name has the ending of a video."""
    return suffix_of(path) in VIDEO_SUFFIXES


def suffix_of(path: str) -> str:
    """Return the ending of a file name in lower case: `.mp4` for `a/B.MP4`, "" without a dot."""
    return posixpath.splitext(path)[1].lower()


def expand_braces(pattern: str) -> list[str]:
    """Expand braces: `a{08..10}{x,y}` becomes a08x, a08y, a09x, …

    Numbers are padded with zeros to the length of the first one.
    """
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
    return list(dict.fromkeys(expanded))  # nested braces may repeat names


def _pattern_depth(uri: str) -> int:
    """Return the number of path parts from the first pattern on; 0 without a pattern."""
    is_uri = "://" in uri
    parts = uri.partition("?")[0].rstrip("/").split("/") if is_uri else Path(uri).parts
    brace = "{" if RANGE_OR_CHOICE.search(uri) else "*"
    patterns = [i for i, part in enumerate(parts) if glob.has_magic(part) or brace in part]
    return len(parts) - patterns[0] if patterns else 0


def _list_pattern(place: Storage, depth: int) -> tuple[Storage, list[FileInfo]]:
    root = place
    for _ in range(depth):
        root = root.parent
    names = expand_braces("/".join(place.path.split("/")[-depth:]))
    globs = [name for name in names if glob.has_magic(name)]
    files = {name: FileInfo(name, None) for name in names if not glob.has_magic(name)}
    matching = _match_local(root, globs) if root.is_local else _match_remote(root, globs)
    files |= {info.path: info for info in matching}
    return root, sorted(files.values(), key=lambda info: info.path)


def _match_local(root: Storage, patterns: Sequence[str]) -> list[FileInfo]:
    # listing everything below the root could list the whole disk
    folder = root.path or "/"
    found = (glob.glob(pattern, root_dir=folder, recursive=True) for pattern in patterns)
    return root.find_files(list(chain.from_iterable(found)))


def _match_remote(root: Storage, patterns: Sequence[str]) -> list[FileInfo]:
    if not patterns:
        return []
    split = [pattern.split("/") for pattern in patterns]
    files = root.list_files()
    return [i for i in files if any(_matches(i.path.split("/"), each) for each in split)]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
