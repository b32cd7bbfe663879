"""The errors that stop a job of Ray Data, which the same command resumes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext
from ray.exceptions import RayTaskError

from ctp.lease import LeaseError
from ctp.storage import StorageError


class StoppedError(RuntimeError):
    """A job cannot continue, not because of a video; what is complete stays."""


@contextmanager
def stopped_errors() -> Iterator[None]:
    """Turn what stops the work inside into an error of one line.

    Raises:
        StoppedError: the storage fails, another process took over the folder, or numbers are not
            finite.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the error itself says enough
    DataContext.get_current().raise_original_map_exception = True  # it keeps its type
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, StorageError | FloatingPointError | LeaseError):
            raise StoppedError(str(error.cause).splitlines()[0]) from error
        raise
