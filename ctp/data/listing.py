"""List the files of a folder, glob or brace pattern.

Hidden names are skipped: those that start with a dot, such as macOS's `._name`, and `__MACOSX`.
They are listed only if the user wrote them, in a path or in a pattern. Links are followed. Each
real file is listed once, by its name without links if it has one.
"""

from __future__ import annotations

import glob
import heapq
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ctp.storage import HINTS, FileInfo, Storage, StorageError

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
RANGE_OR_CHOICE = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
RESOURCE_FORKS = "__MACOSX"
"""The folder that macOS adds to archives; it holds no file of the user's."""


class Problem(NamedTuple):
    """A name below a folder that leads to no file: its path from there, and the reason."""

    path: str
    reason: str


class Listing(NamedTuple):
    """The files of a source.

    Attributes:
        root: the folder that the paths are relative to.
        files: sorted by path. The size of a file that was named and not listed is None.
        problems: links that lead nowhere, and folders and files that this user cannot look up.
    """

    root: Storage
    files: list[FileInfo]
    problems: list[Problem]


def list_source(uri: str) -> Listing:
    """List the files of a folder or pattern, local or in an object store.

    Args:
        uri: a file; a folder, for all files below it at any depth; or a pattern of files: a glob
            (`**` crosses folders; a URI cannot hold `?`, which starts its query) or braces,
            `shard-{000..146}.tar` or `{train,val}/*.mp4`.

    Returns:
        the files. The root is the folder, or the part of a pattern before its first special
        character.

    Raises:
        ValueError: there is no such folder, or no file matches the pattern.
        StorageError: the folder cannot be listed.
    """
    place = Storage.from_uri(uri)
    if place.is_file():  # before patterns, because names may hold brackets
        return Listing(place.parent, [FileInfo(posixpath.basename(place.path), None)], [])
    if place.exists():
        return list_below(place)
    depth = _pattern_depth(uri)
    if not depth:
        raise ValueError(
            f"there is no {uri!r}. Expected a folder of videos, a glob or braces, a "
            ".txt or .csv list, a .parquet shard or .tar, an s3:// prefix, or corpus:NUMBER"
        )
    listing = _list_pattern(place, depth)
    if not listing.files and not listing.problems:
        raise ValueError(f"no file matches {uri!r}")
    return listing


def list_below(root: Storage, *, each_once: bool = True) -> Listing:
    """List the files below a folder, at any depth, without hidden ones.

    Args:
        root: the folder.
        each_once: whether a file with several names is listed by one of them only. With False,
            each name of a file is listed, for data sets whose own lists may use any of them. A
            folder is listed once in either case, so that a loop of links ends.

    Raises:
        StorageError: the folder cannot be listed.
    """
    if not root.is_local:
        return Listing(root, [i for i in root.list_files() if not is_hidden(i.path)], [])
    problems: list[Problem] = []
    names = list(_walk(root, problems))
    kept = _each_once(root, names) if each_once else names
    return Listing(root, _to_files(kept), sorted(problems))


def fixed_part(uri: str) -> str:
    """Return the folder that contains the first pattern of a local path, or a path without one."""
    depth = 0 if os.path.lexists(uri) else _pattern_depth(uri)
    return str(Path(uri).parents[depth - 1]) if depth else uri


def is_hidden(path: str) -> bool:
    """Return whether a part of a relative path is a hidden name: `.x`, `._x.mp4` or `__MACOSX`."""
    return any(map(_is_hidden_name, path.split("/")))


def _is_hidden_name(name: str) -> bool:
    return name == RESOURCE_FORKS or (name.startswith(".") and name not in {".", ".."})


def split_sources(text: str) -> list[str]:
    r"""Split the sources that a command line names: `a,b` is a and b.

    A comma inside braces, as in `{train,val}/*.mp4`, belongs to a pattern, and `\,` to a name. The
    name of a local file or folder that exists is never split.
    """
    if os.path.lexists(os.path.expanduser(text)):
        return [text]
    parts, depth = [""], 0
    for found in re.finditer(r"\\,|.", text, re.DOTALL):
        token = found[0]
        if token == "{" and "}" in text[found.end() :]:
            depth += 1
        elif token == "}" and depth:
            depth -= 1
        if token == "," and not depth:
            parts.append("")
        else:
            parts[-1] += "," if token == r"\," else token
    return [part.strip() for part in parts if part.strip()] or [""]


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


def _list_pattern(place: Storage, depth: int) -> Listing:
    root = place
    for _ in range(depth):
        root = root.parent
    names = expand_braces("/".join(place.path.split("/")[-depth:]))
    patterns = [name.split("/") for name in names if glob.has_magic(name)]
    files = {name: FileInfo(name, None) for name in names if not glob.has_magic(name)}
    found = _match_local(root, patterns) if root.is_local else _match_remote(root, patterns)
    files |= {info.path: info for info in found.files}
    return Listing(root, sorted(files.values(), key=lambda info: info.path), found.problems)


def _match_remote(root: Storage, patterns: Sequence[list[str]]) -> Listing:
    files = root.list_files() if patterns else []
    return Listing(root, [info for info in files if _matches_any(info.path, patterns)], [])


def _match_local(root: Storage, patterns: Sequence[list[str]]) -> Listing:
    problems: list[Problem] = []
    names = {}
    for pattern in patterns:
        for name in _glob(root, pattern, problems):
            if _matches_any(name.path, patterns):
                names[name.path] = name
    # a dead link without an ending may have led to a folder of videos
    named = {p for p in problems if _matches_any(p.path, patterns) or not suffix_of(p.path)}
    return Listing(root, _to_files(_each_once(root, list(names.values()))), sorted(named))


def _matches_any(path: str, patterns: Sequence[list[str]]) -> bool:
    return any(_matches(path.split("/"), pattern) for pattern in patterns)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        hidden = [i for i, part in enumerate(parts) if _is_hidden_name(part)]
        last = min([*hidden, len(parts)])
        return any(_matches(parts[i:], pattern[1:]) for i in range(last + 1))
    if not parts or (_is_hidden_name(parts[0]) and not _is_hidden_name(pattern[0])):
        return False
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


# ---- local folders ------------------------------------------------------------------------------


class _Name(NamedTuple):
    """A name of a local file.

    Attributes:
        path: relative to the root.
        real: the real path if the name is a link or is reached through one, otherwise None.
        size: bytes.
        inode: (device, inode) if the file has several hard links, otherwise None.
    """

    path: str
    real: str | None
    size: int
    inode: tuple[int, int] | None


def _each_once(root: Storage, names: list[_Name]) -> list[_Name]:
    """Keep one name of each file: one without links if there is one, then the first by path."""
    if all(name.real is None and name.inode is None for name in names):
        return names
    real_root = os.path.realpath(root.path or "/")
    kept: dict[object, _Name] = {}
    for name in sorted(names, key=lambda name: (name.real is not None, name.path)):
        real = name.real or posixpath.join(real_root, name.path)
        kept.setdefault(name.inode or real, name)
    return list(kept.values())


def _to_files(names: list[_Name]) -> list[FileInfo]:
    return sorted((FileInfo(name.path, name.size) for name in names), key=lambda info: info.path)


def _walk(root: Storage, problems: list[Problem], below: str = "") -> Iterator[_Name]:
    """Yield the names of the files below a folder, without hidden ones.

    Each real folder is visited once, so that loops of links end. Folders that are reached without
    a link come first, so that their files keep those names.

    Args:
        root: what the paths are relative to.
        problems: gets what cannot be read.
        below: path of the folder from the root; "" for the root itself.

    Raises:
        StorageError: the folder itself cannot be read.
    """
    top = os.path.realpath(posixpath.join(root.path or "/", below))
    is_plain = top == os.path.normpath(posixpath.join(os.path.realpath(root.path or "/"), below))
    folders = [(not is_plain, below, top)]
    visited = set()
    while folders:
        is_linked, folder, real = heapq.heappop(folders)
        if real in visited:
            continue
        visited.add(real)
        try:
            entries = sorted(os.scandir(real), key=lambda entry: entry.name)
        except OSError as error:
            if folder == below:
                reason = f"cannot list {root.uri}: {error.strerror}. {HINTS['read']}"
                raise StorageError(reason) from error
            problems.append(Problem(folder, f"cannot be listed: {error.strerror}"))
            continue
        for entry in entries:
            if _is_hidden_name(entry.name):
                continue
            path, is_link = posixpath.join(folder, entry.name), entry.is_symlink()
            real_path = os.path.realpath(entry.path) if is_link else entry.path
            if os.path.isdir(entry.path) if is_link else entry.is_dir():
                heapq.heappush(folders, (is_linked or is_link, path, real_path))
                continue
            real_path_of_link = real_path if is_linked or is_link else None
            name = _look_up(path, real_path_of_link, entry.path, problems)
            if name is not None:
                yield name


def _look_up(path: str, real: str | None, place: str, problems: list[Problem]) -> _Name | None:
    """Return the name of a regular file; None for another kind, and if it cannot be looked up."""
    try:
        status = os.stat(place)
    except OSError as error:
        if os.path.islink(place):
            reason = f"is a link to {os.readlink(place)!r}, which cannot be read: {error.strerror}"
        elif isinstance(error, FileNotFoundError):
            return None  # it has just been deleted
        else:  # for example in a folder that this user may list but not enter
            reason = f"cannot be looked up: {error.strerror}"
        problems.append(Problem(path, reason))
        return None
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait forever
        return None
    inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
    return _Name(path, real, status.st_size, inode)


def _glob(root: Storage, pattern: list[str], problems: list[Problem]) -> Iterator[_Name]:
    """Yield the names of the files that may match a pattern."""
    folder = root.path or "/"
    fixed = pattern[: pattern.index("**")] if "**" in pattern else pattern
    # not glob's own "**", which follows a loop of links until the path is too long
    found = glob.glob("/".join(fixed), root_dir=folder) if fixed else [""]
    real_root = os.path.realpath(folder)
    real_path = cache(os.path.realpath)  # of folders, each of which may hold many files
    for path in found:
        place = posixpath.join(folder, path)
        if fixed is not pattern:
            if os.path.isdir(place):
                yield from _walk(root, problems, path)
            continue
        parent, base = posixpath.split(place)
        is_link = os.path.islink(place)
        real = os.path.realpath(place) if is_link else posixpath.join(real_path(parent), base)
        is_plain = real == posixpath.join(real_root, path)
        name = _look_up(path, None if is_plain else real, place, problems)
        if name is not None:
            yield name
