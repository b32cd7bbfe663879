"""Serve a live page of runs."""

from ctp.commands.watch import main

if __name__ == "__main__":
    main()
