"""Draw where classifiers look, by guided Grad-CAM."""

from ctp.commands.gradcam import main

if __name__ == "__main__":
    main()
