"""The option that a user means who writes the name of another program's option."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from ctp.text import near_miss

_OPTION = re.compile(r"--([\w.]+)")
_LENGTH = "--schedule.unit {} --schedule.length VALUE"
_WEIGHTS = ("--initial VALUE", "--initial_encoder VALUE", "--encoder VALUE")
_SCORED = ("--data.test_uri VALUE", "--data.heldout_uri VALUE")
_FOLDER = ("--out VALUE", "--storage FOLDER --name NAME")
_VIDEOS = ("--data.uri VALUE", "--source VALUE", "--uri VALUE")
_SHAPE = ("--sampling.", "--task.sampling.", "--views.")
_FRAMES = tuple(f"{section}num_frames VALUE" for section in _SHAPE)
_SIZE = tuple(
    f"{section}frame_size_px VALUE" for section in ("--augment.", "--task.augment.", "--views.")
)
COMMON_NAMES: dict[str, Sequence[str]] = {
    "lr learning-rate base-lr": ("--optimizer.learning_rate VALUE",),
    "wd weight-decay": ("--optimizer.weight_decay VALUE",),
    "opt optim optimizer": ("--optimizer.name VALUE",),
    "epochs epoch num-epochs max-epochs e": (_LENGTH.format("epochs"),),
    "steps max-steps num-steps iterations iters max-iters": (_LENGTH.format("steps"),),
    "warmup warmup-steps": ("--schedule.warmup_steps VALUE",),
    "b batch batch-size bs": (
        "--compute.total_batch VALUE (of all workers together)",
        "--ray.total_batch VALUE --step.clips VALUE",
        "--scaling.clips_at_once VALUE",
    ),
    "amp fp16 bf16 precision": ("--compute.precision bf16", "--features.precision bf16"),
    "compile": ("--compute.compile true",),
    "gpus gpu num-gpus devices ngpus nproc-per-node": (
        "--scaling.use_gpu true --scaling.num_workers VALUE (one worker on each GPU)",
        "--scaling.use_gpu true --scaling.num_encoders VALUE (one encoder on each GPU)",
        "--use_gpu true",
    ),
    "device cuda accelerator use-gpu": ("--scaling.use_gpu true", "--use_gpu true"),
    "cpu no-cuda": ("--scaling.use_gpu false", "--use_gpu false"),
    "j workers num-workers data-workers loader-workers": (
        "--scaling.num_actors VALUE (processes that load videos), or --scaling.num_workers VALUE "
        "(processes that train)",
        "--scaling.num_readers VALUE (processes that load videos)",
        "--num_tasks VALUE",
    ),
    "data dataset data-dir data-path input videos train train-dir train-data root": _VIDEOS,
    "test test-data test-uri val val-data val-dir validation": _SCORED,
    "output out out-dir output-dir save-dir work-dir logdir log-dir": _FOLDER,
    "run-name exp-name experiment": ("--name VALUE",),
    "resume": ("--name NAME (the name of the run that is to be resumed)",),
    "model arch backbone net architecture": ("--encoder VALUE", "--architecture VALUE"),
    "method pretext pretext-task": ("--task VALUE",),
    "weights pretrained checkpoint ckpt init load finetune": _WEIGHTS,
    "frames num-frames clip-len clip-length": _FRAMES,
    "size image-size img-size crop-size input-size resolution": _SIZE,
    "random-seed": ("--seed VALUE",),
    "log-interval log-every print-freq": ("--log_every_steps VALUE",),
    "mlflow tracking-uri": ("--mlflow_uri VALUE",),
    "linear linear-probe freeze": ("--protocol linear",),
    "labels label-fraction": ("--data.label_fraction VALUE",),
}
"""Names that other programs use, and how the option is written here: the first whose options the
command has."""


def describe_unknown(
    words: Sequence[str], names: Collection[str], sections: Collection[str] = ()
) -> str:
    """Return a line for each unknown option. It names a similar option, if there is one.

    Args:
        words: arguments, options and their values.
        names: the command's options, as "--data.uri".
        sections: its sections, as "--data", which are known with a value in JSON or "none".
    """
    lines = []
    for option, value in _pairs(words):
        is_section = option in sections and value.startswith(("{", "none"))
        if option not in names and not is_section:
            hint = _meant(option, value, names) or near_miss(option, names)
            lines.append(f"there is no option {option}{hint}")
    return "\n  ".join(lines)


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option and its value, "" without one."""
    for number, word in enumerate(words):
        if not _is_option(word):
            continue
        option, equals, value = word.partition("=")
        following = words[number + 1] if number + 1 < len(words) else ""
        yield option, value if equals or _is_option(following) else following


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.match(r"-[\d.]", word)  # a negative number is a value


def _meant(option: str, value: str, names: Collection[str]) -> str:
    """Return ' (write …)' for a name of another program, or for the last part of an option."""
    plain = _plain(option)
    candidates = [
        text for keys, each in COMMON_NAMES.items() if plain in keys.split() for text in each
    ]
    lookalikes = [
        name for name in names if plain in (_plain(name), _plain(name.rpartition(".")[2]))
    ]
    candidates += [" or ".join(f"{name} VALUE" for name in lookalikes)]
    for text in filter(None, candidates):
        if all(f"--{name}" in names for name in _OPTION.findall(text)):
            return f" (write {text.replace('VALUE', value) if value else text})"
    return ""


def _plain(option: str) -> str:
    return option.lstrip("-").lower().replace("_", "-")
