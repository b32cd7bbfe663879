"""ctp: pretrain video encoders, and measure them, from Python.

    import ctp

    run = ctp.pretrain(recipe="small", data="path/to/videos", name="mine")
    ctp.finetune(recipe="small", initial=run.folder)

The functions take the options of the jobs of the same name, write the same folders, and run on this
machine or on the Ray cluster that `RAY_ADDRESS` names.

These modules are the rest of the public API. A module that is not listed may change at any time.

* Results: a finished run in `ctp.cluster.launch`, a sweep in `ctp.sweeps.folder`, an encoder in
  `ctp.encoders.encoder`, clips of its training in `ctp.video.transform`.
* Options: `ctp.pretext.config`, `ctp.pretext.ctp.config`, `ctp.encoders.config`,
  `ctp.video.config`, `ctp.training.config`, `ctp.training.schedule`, `ctp.downstream.config`,
  `ctp.downstream.track_config`, `ctp.downstream.embed_config`, `ctp.build.config`,
  `ctp.curation.config`, `ctp.sweeps.config`. Complete sets of them: `ctp.recipes`.
* For a pretext task of your own: `ctp.pretext.task`, `ctp.pretext.task_config`,
  `ctp.pretext.registry`, `ctp.data.stream`, `ctp.training.step`, `ctp.score`.
* For an encoder of your own: `ctp.encoders.encoder`, `ctp.encoders.registry`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctp.cluster.api import build_shards, curate, embed, finetune, pretrain, sweep, track
    from ctp.encoders.weights import load_encoder

__all__ = [
    "build_shards",
    "curate",
    "embed",
    "finetune",
    "load_encoder",
    "pretrain",
    "sweep",
    "track",
]


def __getattr__(name: str) -> Any:
    # imported when they are used: many processes of a run need neither torch nor Ray
    if name not in __all__:
        raise AttributeError(f"module 'ctp' has no attribute {name!r}")
    module = "ctp.encoders.weights" if name == "load_encoder" else "ctp.cluster.api"
    return getattr(import_module(module), name)
