"""From an encoded video to the frames of a clip: decoding, sampling, augmentation."""
