"""A process that holds the lease of a folder: `holder.py URI KIND LEASE_SECONDS`.

Prints "held N", N the number of its attempt, and ends when a line comes on standard input: after
"check" it checks its attempt, after "fail" it fails, after "end" it ends.
"""

import sys

from ctp.lease import LeaseError, hold
from ctp.storage import Storage


def main() -> None:
    """Hold the lease."""
    uri, kind, seconds = sys.argv[1:]
    with hold(Storage.from_uri(uri), kind, lease_seconds=float(seconds)) as lease:
        print(f"held {lease.attempt.number}", flush=True)
        command = sys.stdin.readline().strip()
        if command == "check":
            lease.attempt.check()
        if command == "fail":
            raise ValueError("the disk is full")


if __name__ == "__main__":
    try:
        main()
    except (LeaseError, ValueError) as error:
        sys.exit(f"error: {error}")
