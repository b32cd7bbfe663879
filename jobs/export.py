"""Export the encoder of a run for programs that do not have ctp."""

from ctp.commands.export import main

if __name__ == "__main__":
    main()
