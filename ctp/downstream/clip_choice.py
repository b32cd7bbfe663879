"""Choose the clips that an encoder is used on: those of its training, unless the user chose others.

The user chooses by an option, by a file of options, or by naming a recipe: the clips of a recipe
are part of its protocol, and rows of a table must share them. Where nothing is chosen, the encoder
gets the clips that its file records. Clips that differ from these are reported in one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from ctp.config import is_within, keep_stored
from ctp.downstream.config import DownstreamConfig
from ctp.downstream.embed_config import EmbedConfig, FeatureConfig
from ctp.downstream.features import check_poolings
from ctp.downstream.initial import clip_format_of
from ctp.encoders.config import DOWNSTREAM_SPATIAL_STRIDE
from ctp.encoders.weights import find_encoder, stored_config
from ctp.run_names import RUNS
from ctp.video.config import ClipFormat

Reader = DownstreamConfig | EmbedConfig
"""A config that reads clips for an encoder."""
C = TypeVar("C", bound=Reader)
RECIPE = "recipe"
CROP_OF_SIZE = {
    "views.frame_size_px": "views.short_side_px",
    "augment.frame_size_px": "augment.short_sides_px",
}
"""Option of a clip's size -> option that depends on it: a size of 112 cannot be cut from 56."""


def with_clips_of_encoder(config: C, given: Iterable[str]) -> C:
    """Return the config with the clips that its encoder was trained on, where none were chosen.

    Prints a line about the clips, unless the encoder's file does not record them.

    Args:
        config: of a run, or of features.
        given: dotted names of the options that the user gave; "recipe" if a recipe was named.

    Raises:
        ValueError: there is no such encoder, or its clips do not fit the given options.
        StorageError: its file cannot be read.
    """
    source = config.encoder if isinstance(config, EmbedConfig) else config.initial
    storage = RUNS if isinstance(config, EmbedConfig) else config.storage
    trained = clip_format_of(source, storage) if source else None
    if trained is None:
        return config
    given = list(given)
    given += [crop for size, crop in CROP_OF_SIZE.items() if size in given]
    if RECIPE not in given:
        config = keep_stored(config, clip_options(config, trained), given)
        if isinstance(config, EmbedConfig) and not is_within("features.pooling", given):
            config = config.replace(features=_fitting_features(config))
    print(describe_choice(config, trained, source))
    return config


def describe_choice(config: Reader, trained: ClipFormat, source: str) -> str:
    """Return a line about the clips of a config, and what differs from those of the training."""
    chosen = (
        ClipFormat.from_views(config.views)
        if isinstance(config, EmbedConfig)
        else config.clip_format
    )
    different = chosen.describe_differences(trained)
    if not different:
        return f"clips as {source} was trained on: {chosen.describe()}"
    return f"note: by your recipe or options, clips differ from {source}'s training: {different}"


def clip_options(config: Reader, clips: ClipFormat) -> dict[str, Any]:
    """Return the options that make these clips."""
    if isinstance(config, EmbedConfig):
        views = clips.views().model_dump(exclude={"num_clips", "placement"})
        return {"views": views}
    augment = clips.augment.model_dump(exclude={"flip_prob"})
    return {"sampling": clips.sampling.model_dump(), "augment": augment}


def _fitting_features(config: EmbedConfig) -> FeatureConfig:
    """Return how features are computed, without VCOP's pooling if it does not fit the clips."""
    architecture = stored_config(find_encoder(config.encoder).read_bytes(), config.encoder)
    assert architecture is not None, "a file with a clip format describes its encoder"
    try:
        check_poolings(config, architecture.replace(spatial_stride=DOWNSTREAM_SPATIAL_STRIDE))
    except ValueError:
        print("features.pooling is max: VCOP's own pooling does not fit clips of this size")
        return config.features.replace(pooling="max")
    return config.features
