"""Build shards of videos, which load fast."""

from ctp.commands.build_shards import main

if __name__ == "__main__":
    main()
