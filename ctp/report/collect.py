"""From folders to the sections of a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ctp.report.classified import classified
from ctp.report.page import Section
from ctp.report.runs import Run
from ctp.report.single import RETRIEVAL, retrieval_section, run_section
from ctp.report.tracked import tracked
from ctp.storage import Storage
from ctp.training.run_folder import CONFIG


def sections_of(places: Sequence[str]) -> list[Section]:
    """Runs beside each other where they can be compared, then each by itself.

    Args:
        places: folders or URIs of runs and retrievals, or of folders that hold such. One that is
            named twice counts once.

    Raises:
        ValueError: a folder is none of them, or holds what cannot be understood.
        StorageError: one cannot be read.
    """
    found = {folder.uri: folder for place in places for folder in _folders(place)}
    retrievals = {uri for uri, folder in found.items() if folder.join(RETRIEVAL).exists()}
    runs = {uri: Run.read(folder) for uri, folder in found.items() if uri not in retrievals}
    return [
        *classified([*runs.values()]),
        *tracked([*runs.values()]),
        *(
            retrieval_section(folder) if uri in retrievals else run_section(runs[uri])
            for uri, folder in found.items()
        ),
    ]


def _folders(place: str) -> Iterator[Storage]:
    folder = Storage.of(place)
    if _is_shown(folder):
        yield folder
        return
    below = [each for name in folder.list_folders() if _is_shown(each := folder.join(name))]
    if not below:
        raise ValueError(
            f"{place} is neither a run folder nor one of jobs/retrieve.py, and holds none: "
            f"{folder.uri}"
        )
    yield from below


def _is_shown(folder: Storage) -> bool:
    return bool(folder.find_files([CONFIG, RETRIEVAL]))
