"""The files beside the Parquet files of a folder.

Their names start with an underscore, so that `pandas.read_parquet` and other readers of whole
folders skip them. In folders of earlier versions they have no underscore.
"""

from __future__ import annotations

from ctp.storage import Storage

MANIFEST = "_manifest.json"
QUARANTINE = "_quarantine.jsonl"


def find_beside(folder: Storage, *names: str) -> Storage:
    """Return the place of a file, with the name of an earlier version if only that one exists.

    Args:
        folder: the folder.
        names: of subfolders and the file; the first one starts with an underscore.
    """
    place, old = folder.join(*names), folder.join(names[0].removeprefix("_"), *names[1:])
    return old if not place.exists() and old.exists() else place
