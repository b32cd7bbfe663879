"""What stops a job of Ray Data that goes on where it was broken off."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext
from ray.exceptions import RayTaskError

from ctp.isolation import LostError
from ctp.storage import StorageError

OF_NO_VIDEO = (StorageError, LostError, FloatingPointError)


class StoppedError(RuntimeError):
    """A job cannot go on, through no fault of a video; what is whole stays."""


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """Say in a line what stopped the work that is done inside.

    Raises:
        StoppedError: the storage fails, processes end that work on no video, or numbers are
            infinite.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error says it all by itself
    DataContext.get_current().raise_original_map_exception = True  # or its type would be lost
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, OF_NO_VIDEO):
            raise StoppedError(str(error.cause).splitlines()[0]) from error
        raise
