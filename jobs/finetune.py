"""Fine-tune an encoder for action recognition, and test it."""

from ctp.commands.finetune import main

if __name__ == "__main__":
    main()
