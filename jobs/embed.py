"""Compute features of a collection of videos, for retrieval and other uses."""

from ctp.commands.embed import main

if __name__ == "__main__":
    main()
