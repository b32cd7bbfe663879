"""Export an encoder for programs without ctp."""

from ctp.commands.export import main

if __name__ == "__main__":
    main()
