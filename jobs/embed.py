"""Compute features of videos."""

from ctp.commands.embed import main

if __name__ == "__main__":
    main()
