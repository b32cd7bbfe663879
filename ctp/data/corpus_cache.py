"""The embedded corpus kept on disk: a video takes 30 ms to render, and next to none to read back.

The cache is never needed: what it does not hold is rendered, and what it cannot take is rendered
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import av

from ctp.data import corpus
from ctp.data.cache_folder import cache_folder
from ctp.storage import Storage, StorageError

CORPUS_SEED = 0
Progress = Callable[[int, int], None]


def read_video(name: str) -> bytes:
    """The bytes of a video of the corpus, from the cache or rendered into it."""
    with suppress(OSError):
        return _path(name).read_bytes()
    data = corpus.render_video(name, seed=CORPUS_SEED)
    with suppress(StorageError):  # a home that cannot be written to stops no run
        Storage.of(_path(name)).write_bytes(data)
    return data


def fill(names: Sequence[str], progress: Progress | None = None) -> None:
    """Render what the cache lacks of `names`.

    Args:
        names: as given by `corpus.video_names`.
        progress: called after each video with (rendered so far, to be rendered).
    """
    missing = [name for name in dict.fromkeys(names) if not _path(name).exists()]
    for number, name in enumerate(missing, start=1):
        read_video(name)
        if progress:
            progress(number, len(missing))


def _path(name: str) -> Path:
    return cache_folder() / f"corpus-{_version()}-seed{CORPUS_SEED}" / f"{name}.mp4"


@cache
def _version() -> str:
    """A short hash of what makes the bytes: the corpus's code and the encoder."""
    code = Path(corpus.__file__).read_bytes()
    return hashlib.blake2b(code + av.__version__.encode(), digest_size=4).hexdigest()
