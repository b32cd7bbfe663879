"""Cut raw videos into segments worth training on."""

from ctp.commands.curate import main

if __name__ == "__main__":
    main()
