"""What a folder of results was made of: it is resumed with the same, and refused with other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ctp.data import corpus
from ctp.lease import ATTEMPTS
from ctp.storage import Storage
from ctp.versions import describe_writer, written_by


def create_or_resume(
    place: Storage,
    ours: Mapping[str, Any],
    also: Mapping[str, Any] = {},
    subfolders: Sequence[str] = (),
) -> None:
    """Write what a folder's results are made of into a file in it, or check that it is the same.

    Args:
        place: the file, in the folder itself.
        ours: what must be equal, as JSON values.
        also: what is only noted.
        subfolders: folders in it that may exist before the file.

    Raises:
        ValueError: the folder was made with other settings, or holds other files; says what
            differs.
        StorageError: the folder cannot be written to.
    """
    folder = place.parent
    if not place.exists():
        may_exist = {ATTEMPTS, *subfolders}
        if any(info.path.partition("/")[0] not in may_exist for info in folder.list_files()):
            raise ValueError(f"{folder.uri} holds files that are not a build. Use another --out")
        folder.check_writable()
        noted = {**ours, **also, "written_by": dict(written_by())}
        place.write_bytes(json.dumps(noted, indent=2).encode())
        return
    theirs = json.loads(place.read_bytes())
    writer = theirs.pop("written_by", None)
    differences = find_differences({n: v for n, v in theirs.items() if n not in also}, ours)
    if differences:
        raise ValueError(
            f"{folder.uri} holds another build: {'; '.join(differences)}. Use another --out or the "
            f"same options. It was written by {describe_writer(writer)}"
        )


def find_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return a text for each value that differs, for example "seed was 0, now 1"."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return [f"{name} was {theirs.get(name)}, now {ours.get(name)}" for name in names]


def canonical(uri: str) -> str:
    """Return one form for all ways to write a URI: a relative path, an absolute path, or a link."""
    if uri.startswith(corpus.SCHEME):
        return uri
    place = Storage.from_uri(uri)
    return os.path.realpath(place.path) if place.is_local else place.uri
