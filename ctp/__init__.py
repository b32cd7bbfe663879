"""ctp: pretrain video encoders, and measure them, from Python.

    import ctp

    run = ctp.pretrain(recipe="small", data="path/to/videos", name="mine")
    ctp.finetune(recipe="small", initial=run.folder)

The functions take the options of the jobs of the same name, write the same folders, and run on this
machine or on the Ray cluster that `RAY_ADDRESS` names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctp.cluster.api import build_shards, embed, finetune, pretrain, sweep, track
    from ctp.encoders.weights import load_encoder

__all__ = ["build_shards", "embed", "finetune", "load_encoder", "pretrain", "sweep", "track"]


def __getattr__(name: str) -> Any:
    # imported when they are used: many processes of a run need neither torch nor Ray
    if name not in __all__:
        raise AttributeError(f"module 'ctp' has no attribute {name!r}")
    module = "ctp.encoders.weights" if name == "load_encoder" else "ctp.cluster.api"
    return getattr(import_module(module), name)
