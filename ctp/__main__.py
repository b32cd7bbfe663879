"""`python -m ctp`, the same as the command `ctp`."""

from ctp.commands.main import main

if __name__ == "__main__":
    main(prog_name="ctp")
