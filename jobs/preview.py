"""Draw training samples of a recipe, or held-out samples and the answers of a run's model."""

from ctp.commands.preview import main

if __name__ == "__main__":
    main()
