"""The errors that stop a job, and its exit status."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ray.data import DataContext
from ray.exceptions import RayTaskError

from ctp.data.journal import DecodersDiedError
from ctp.lease import LeaseError
from ctp.storage import StorageError

FINAL_STATUS = 3
"""Exit status of a job that the same command cannot resume: an option, a video or an encoder is
invalid, or the training cannot continue. A scheduler must not start it again. After status 1 the
same command may succeed; status 2 is that of an invalid command line."""


def exit_finally(error: Exception) -> NoReturn:
    """Print an error that the same command would raise again, and exit."""
    message = f"error: {error}"
    print(message, file=sys.stderr)
    ending = SystemExit(message)  # callers of `main` see the message, the shell the status
    ending.code = FINAL_STATUS
    raise ending from error


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
