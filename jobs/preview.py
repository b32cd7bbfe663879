"""Draw samples of a task, or a run's predictions."""

from ctp.commands.preview import main

if __name__ == "__main__":
    main()
