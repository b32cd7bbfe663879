"""Pretrain with several values of options, and compare them."""

from ctp.commands.sweep import main

if __name__ == "__main__":
    main()
