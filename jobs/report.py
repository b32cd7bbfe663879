"""Put runs on one page, beside the paper's numbers."""

from ctp.commands.report import main

if __name__ == "__main__":
    main()
