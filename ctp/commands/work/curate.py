"""Curate raw videos, if the packages for it are installed."""

from __future__ import annotations

from ctp.curation.config import CurateConfig


def run(config: CurateConfig) -> str:
    """Curate; see `ctp.cluster.curate.curate`.

    Raises:
        ValueError: a package is missing; names the extra to install.
    """
    try:
        from ctp.cluster.curate import curate
    except ModuleNotFoundError as error:
        if error.name not in {"cv2", "pdqhash", "scenedetect"}:
            raise
        raise ValueError(
            f"curating needs package {error.name}; install ctp with its extra: "
            "pip install -e '.[curate]'"
        ) from error
    return curate(config)
