"""The functions of `import ctp`, one for each job.

Options are keyword arguments. A section is a mapping, `schedule={"length": 500}`; `data` may be the
URI itself; dotted names are given as `**{"schedule.length": 500}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ctp import recipes
from ctp.cluster import build, extract, launch
from ctp.cluster import sweep as cluster_sweep
from ctp.cluster.launch import Run
from ctp.config import Config, flatten, merge, unflatten
from ctp.sweeps.folder import Sweep
from ctp.sweeps.recipes import SWEEP
from ctp.text import near_miss

C = TypeVar("C", bound=Config)


def pretrain(recipe: str = "tiny", *, from_run: str = "", **options: Any) -> Run:
    """Pretrain an encoder on a pretext task, as jobs/pretrain.py does.

    Args:
        recipe: name of the recipe to start from.
        from_run: start a new run from the newest checkpoint of this one, as --from does: its name
            below `storage`, or its folder. Options that are not given are those of that run.
        options: options that replace the recipe's.

    Returns:
        the finished run: its folder, metrics, scores and encoder.

    Raises:
        ValueError: an option, a video or the cluster does not fit.
        RunStoppedError: the run cannot continue.
        LeaseError: another process writes the run's folder.
        StorageError: the storage fails.
    """
    return launch.pretrain(_configure_kept(recipes.PRETRAIN, recipe, options, source=from_run))


def finetune(recipe: str | None = None, *, from_run: str = "", **options: Any) -> Run:
    """Fine-tune an encoder for action recognition and test it, as jobs/finetune.py does.

    Takes, returns and raises the same as `pretrain`. None is the recipe ucf101, but with clips as
    the encoder of `initial` was trained on.
    """
    config = _configure_kept(recipes.FINETUNE, recipe, options, "ucf101", from_run)
    return launch.finetune(config)


def track(recipe: str | None = None, *, from_run: str = "", **options: Any) -> Run:
    """Fine-tune tracking on annotated videos and test it, as jobs/track.py does.

    Takes, returns and raises the same as `pretrain`. None is the recipe got10k, but with clips as
    the encoder of `initial` was trained on.
    """
    return launch.track(_configure_kept(recipes.TRACK, recipe, options, "got10k", from_run))


def embed(recipe: str | None = None, **options: Any) -> str:
    """Compute features of videos with an encoder, as jobs/embed.py does.

    Args:
        recipe: name of the recipe to start from; None: retrieval, but with clips as the encoder was
            trained on.
        options: options that replace the recipe's; `encoder`, `data` and `out` are needed.

    Returns:
        the URI of the folder of features.

    Raises:
        ValueError: an option, the encoder or the cluster does not fit, or no video can be used.
        StoppedError: the storage fails, or a feature is not finite.
    """
    return extract.embed(_configure_kept(recipes.EMBED, recipe, options, "retrieval"))


def build_shards(recipe: str = "training", **options: Any) -> str:
    """Build the shards of a data set, as jobs/build_shards.py does.

    Args:
        recipe: name of the recipe to start from.
        options: options that replace the recipe's; `source` and `out` are needed.

    Returns:
        the URI of the folder of shards.

    Raises:
        ValueError: an option or the source does not fit, or no video can be used.
        StoppedError: the storage fails.
    """
    return build.build_shards(_configure_kept(recipes.BUILD, recipe, options))


def curate(recipe: str = "default", **options: Any) -> str:
    """Cut raw videos into segments worth training on, as jobs/curate.py does.

    Args:
        recipe: name of the recipe to start from.
        options: options that replace the recipe's; `source` and `out` are needed.

    Returns:
        the URI of the folder of shards.

    Raises:
        ValueError: an option or the source does not fit, no segment is kept, or a package of the
            extra curate is missing.
        StoppedError: the storage fails.
    """
    from ctp.cluster.curate import curate as curate_videos  # its packages are an extra

    return curate_videos(_configure_kept(recipes.CURATE, recipe, options))


def sweep(recipe: str = "grid", **options: Any) -> Sweep:
    """Run a sweep and write its table and plot, as jobs/sweep.py does.

    Args:
        recipe: name of the recipe to start from.
        options: options that replace the recipe's.

    Returns:
        the sweep at its end; some trials may have failed.

    Raises:
        ValueError: an option, a video or the cluster does not fit.
        StorageError: the storage fails.
    """
    return cluster_sweep.run_sweep(configure(SWEEP, recipe, options))


def configure(choices: Mapping[str, Callable[[], C]], recipe: str, options: Mapping[str, Any]) -> C:
    """Return the config of a recipe with options.

    Raises:
        ValueError: there is no such recipe or option, or a value does not fit.
    """
    if recipe not in choices:
        hint = near_miss(recipe, choices)
        raise ValueError(f"no recipe {recipe!r}{hint}; expected one of {', '.join(choices)}")
    config = choices[recipe]()
    values = config.model_dump()
    for name, value in _dotted(options).items():
        values = merge(type(config), values, unflatten({name: value}))
    return config.from_values(values)


def _configure_kept(
    choices: Mapping[str, Callable[[], C]],
    recipe: str | None,
    options: Mapping[str, Any],
    default: str = "",
    source: str = "",
) -> C:
    """Return the config of a recipe with options, and the stored values of what it resumes or, with
    a source, starts from."""
    name = recipe or default
    config = launch.named(configure(choices, name, options), name)
    given = [option for option, _ in flatten(unflatten(_dotted(options)))]
    return launch.with_stored_defaults(config, [*given, *(["recipe"] if recipe else [])], source)


def _dotted(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, with a `data` that is a URI as "data.uri"."""
    return {
        "data.uri" if name == "data" and isinstance(value, str | list | tuple) else name: value
        for name, value in options.items()
    }
