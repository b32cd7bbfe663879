"""Score features by retrieval, and draw nearest neighbours."""

from ctp.commands.retrieve import main

if __name__ == "__main__":
    main()
