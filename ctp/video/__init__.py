"""From stored videos to the frames of a clip: catalogue, plan, decoding, sampling, augmentation."""
