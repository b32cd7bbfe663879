"""The errors that stop a job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray.data import DataContext
from ray.exceptions import RayTaskError

from ctp.data.journal import DecodersDiedError
from ctp.lease import LeaseError
from ctp.storage import StorageError


class StoppedError(RuntimeError):
    """A job cannot continue, for a reason other than a video; completed results are kept."""


@contextmanager
def stopped_errors() -> Iterator[None]:
    """Turn the errors that stop the work inside into a `StoppedError` of one line.

    Raises:
        StoppedError: the storage fails, another process took over the folder, numbers are not
            finite, or processes die repeatedly.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the error itself says enough
    DataContext.get_current().raise_original_map_exception = True  # it keeps its type
    try:
        yield
    except RayTaskError as error:
        causes = StorageError | FloatingPointError | LeaseError | DecodersDiedError
        if isinstance(error.cause, causes):
            raise StoppedError(str(error.cause).splitlines()[0]) from error
        raise
