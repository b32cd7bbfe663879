"""Pretrain an encoder on a pretext task."""

from ctp.commands.pretrain import main

if __name__ == "__main__":
    main()
