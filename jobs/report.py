"""Put runs on one page: curves, scores, the paper's numbers beside ours, and what differs."""

from ctp.commands.report import main

if __name__ == "__main__":
    main()
