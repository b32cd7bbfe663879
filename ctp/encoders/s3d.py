"""S3D, torchvision's (Xie et al., ECCV 2018)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torchvision.models.video import S3D

from ctp.encoders.config import KINETICS, S3dConfig
from ctp.encoders.encoder import Encoder, PublishedWeights
from ctp.encoders.resnet3d import initialise


class S3d(Encoder):
    """An Inception net whose 3D convolutions are a spatial one followed by a temporal one.

    The state dict is that of `torchvision.models.video.s3d` without `classifier`. torchvision's net
    has a total stride of 32. At spatial stride 16 the last max pool is over time alone; at 8 the
    pool before it, too, has a spatial stride of 1.
    """

    Config = S3dConfig
    # those between are max pools
    stages = tuple(f"features.{number}" for number in (0, 2, 3, 5, 6, 8, 9, 10, 11, 12, 14, 15))
    published_weights: ClassVar = {KINETICS: PublishedWeights("S3D_Weights.KINETICS400_V1")}
    published_norm_eps = 1e-3

    def __init__(self, config: S3dConfig):
        super().__init__(config)
        self.out_channels = 1024
        self.stride = (8, config.spatial_stride, config.spatial_stride)
        # torchvision's momentum of .001 needs more steps than a short run has
        self.features = S3D(num_classes=1, norm_layer=nn.BatchNorm3d).features
        self.features[13].ceil_mode = True  # odd sizes are rounded up, as by the other layers
        if config.spatial_stride <= 16:
            self.features[13] = nn.MaxPool3d((2, 1, 1), ceil_mode=True)
        if config.spatial_stride == 8:
            self.features[7].stride = (2, 1, 1)
        initialise(self)
        self.set_norm_eps(config.norm_eps)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips; see `Encoder.forward`."""
        features: Tensor = self.features(clips)
        return features
