"""Fine-tune an encoder for action recognition and test it, from labelled videos to scores."""

from __future__ import annotations

import json

import numpy as np

from ctp import recipes
from ctp.cli import CommandLine
from ctp.cluster.launch import run_job, train_here
from ctp.downstream.classification import Finetuning
from ctp.downstream.config import FinetuneConfig
from ctp.downstream.initial import settled_encoder, settled_initial
from ctp.report.scores import confusion_png
from ctp.training.claim import run_storage
from ctp.training.run_folder import CONFUSION

ABOUT = """Fine-tune an encoder for action recognition, and test it as in the paper.

The run folder STORAGE/NAME gets scores.json, confusion.png, curves.png, classifier.safetensors,
and what a pretraining run has. The same --name continues a run where it was broken off."""


def main(argv: list[str] | None = None) -> None:
    """Parse, run, and say how it went."""
    run_job(CommandLine(recipes.FINETUNE, "ucf101", ABOUT), _run, argv)


def _run(config: FinetuneConfig) -> None:
    initial = settled_initial(config.initial)
    encoder = settled_encoder(config.encoder, initial)
    config = config.replace(initial=initial, encoder=encoder.model_dump())
    job = Finetuning.of(config)
    train_here(
        job,
        f"{len(job.train.catalog)} videos of {len(job.train.classes)} classes to train on, "
        f"{len(job.test.catalog)} to test on",
        note=f"weights to start from: {config.initial}",
    )
    folder = run_storage(config)
    scores = json.loads(folder.join(config.RESULT).read_bytes())
    counts = np.array(scores["confusion"], np.int64)
    folder.join(CONFUSION).write_bytes(confusion_png(counts, scores["classes"]))
    accuracy = {k: scores[f"top{k}"] for k in (1, 5) if f"top{k}" in scores}
    told = ", ".join(f"top-{k} {100 * share:.1f}%" for k, share in accuracy.items())
    print(
        f"{told} of {scores['tested']} videos; {len(scores['quarantined'])} more could not be read"
    )


if __name__ == "__main__":
    main()
