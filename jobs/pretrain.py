"""Pretrain an encoder on a pretext task, from videos to encoder.safetensors."""

from ctp.commands.pretrain import main

if __name__ == "__main__":
    main()
