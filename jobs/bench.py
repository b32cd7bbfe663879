"""Measure the speed of this machine, and what limits a run."""

from ctp.commands.bench import main

if __name__ == "__main__":
    main()
