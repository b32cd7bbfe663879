"""Processes the videos named on the command line; fails as their names say. See test_journal.py."""

import os
import signal
import sys
import time
from pathlib import Path

from served_record import ServedRecord

from ctp.data.catalog import VideoEntry
from ctp.data.journal import DecodersDiedError, Journal
from ctp.video.encoded import VideoError


def process(name: str, folder: Path) -> None:
    """Work on a video: crash…, hang…, killed…, once… (the first time only) or any other."""
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif name.startswith("hang"):
        time.sleep(60)
    elif name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif name.startswith("once") and not (folder / name).exists():
        (folder / name).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Print what becomes of each video; the name `die` ends the process outside any video."""
    address, actor, machine, seconds, folder, *names = sys.argv[1:]
    journal = Journal(ServedRecord(address, actor, machine), actor, float(seconds))
    try:
        with journal.task(lambda: [VideoEntry(name, f"/videos/{name}") for name in names]):
            for name in names:
                if name == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    with journal.working_on(name, f"/videos/{name}"):
                        process(name, Path(folder))
                    print(name, "done", flush=True)
                except VideoError as error:
                    print(name, error.reason, flush=True)
    except DecodersDiedError as error:
        print(error)


if __name__ == "__main__":
    main()
