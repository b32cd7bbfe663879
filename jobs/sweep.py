"""Compare values of options: many pretrainings that differ in them, and a table of their scores."""

from ctp.commands.sweep import main

if __name__ == "__main__":
    main()
