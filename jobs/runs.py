"""List runs, show one, prune its checkpoints, or delete it."""

from ctp.commands.runs import main

if __name__ == "__main__":
    main()
