"""Fine-tune tracking on annotated videos, and test it."""

from ctp.commands.track import main

if __name__ == "__main__":
    main()
