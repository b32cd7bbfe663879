"""Which initial weights are the same but for the seed, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ctp.report.runs import Run
from ctp.report.starts import Started, with_starts
from ctp.storage import Storage

WriteRun = Callable[..., Storage]
Encoder = Callable[..., str]


def started(*folders: Storage) -> list[Started]:
    return with_starts(map(Run.read, folders))


def names(*folders: Storage) -> list[str]:
    return [each.name for each in started(*folders)]


def test_encoders_of_several_seeds_are_the_same(finetuned: WriteRun, encoder: Encoder) -> None:
    runs = started(
        finetuned("a", 0.5, seed=7, initial=encoder("pre-s0", seed=0)),
        finetuned("b", 0.5, seed=8, initial=encoder("pre-s1", seed=1, log_every_steps=3)),
        finetuned("c", 0.5),
    )
    assert [each.name for each in runs] == ["pretrained", "pretrained", "random"]
    assert [each.seeds for each in runs] == [(7, 0), (8, 1), (0,)]


def test_encoders_that_differ_by_more_are_told_apart(finetuned: WriteRun, encoder: Encoder) -> None:
    folders = [
        finetuned("a", 0.5, initial=encoder("three")),
        finetuned("b", 0.5, initial=encoder("one", game={"num_patches": 1})),
    ]
    told = ["pretrained (game.num_patches 3)", "pretrained (game.num_patches 1)"]
    assert names(*folders) == told


def test_many_differences_are_left_out_of_the_name(finetuned: WriteRun, encoder: Encoder) -> None:
    other = {"game": {"num_patches": 1, "hidden_prob": 0}, "optimizer": {"learning_rate": 0.1}}
    folders = [
        finetuned("a", 0.5, initial=encoder("usual")),
        finetuned("b", 0.5, initial=encoder("other", **other)),
    ]
    assert names(*folders) == ["pretrained 1", "pretrained 2"]
    assert started(*folders)[1].about == (
        "optimizer.learning_rate 0.1, game.num_patches 1, game.hidden_prob 0"
    )


def test_what_an_encoder_itself_started_from_counts(finetuned: WriteRun, encoder: Encoder) -> None:
    first = [encoder(f"first-s{seed}", seed=seed) for seed in (0, 1)]
    second = [encoder(f"second-{at}", initial_encoder=uri) for at, uri in enumerate(first)]
    folders = [finetuned(f"ft-{at}", 0.5, initial=uri) for at, uri in enumerate(second)]
    runs = started(*folders, finetuned("once", 0.5, initial=first[0]))
    assert [each.seeds for each in runs] == [(0, 0, 0), (0, 0, 1), (0, 0)]
    assert runs[0].name == runs[1].name != runs[2].name


def test_a_fine_tuned_encoder_is_no_pretrained_one(finetuned: WriteRun, encoder: Encoder) -> None:
    before = finetuned("before", 0.5, initial=encoder("pre"))
    uri = before.join("encoder.safetensors").uri
    assert names(finetuned("a", 0.5, initial=uri)) == ["fine-tuned before"]


def test_files_of_which_nothing_is_known_stand_for_themselves(
    finetuned: WriteRun, pretrained: WriteRun, tmp_path: Path
) -> None:
    """Whatever their names are alike."""
    forgotten = []
    for seed in (0, 1):
        folder = pretrained(f"pre-s{seed}", seed=seed)
        Path(folder.join("config.yaml").path).unlink()
        forgotten.append(folder.join("encoder.safetensors").uri)
    uris = [*forgotten, *(str(tmp_path / name / "r3d.pth") for name in ("x", "y"))]
    found = names(*(finetuned(f"ft-{at}", 0.5, initial=uri) for at, uri in enumerate(uris)))
    assert found[:2] == ["pre-s0", "pre-s1"]
    assert found[2:] == [f"r3d.pth (initial {uri})" for uri in uris[2:]]


def test_named_weights(finetuned: WriteRun) -> None:
    """Their ε goes with them, and is part of no name."""
    initial = {"random": 1e-3, "imagenet": 1e-5, "kinetics400": 1e-5}
    folders = [
        finetuned(name, 0.5, initial=name, encoder={"norm_eps": eps})
        for name, eps in initial.items()
    ]
    runs = started(*folders)
    told = ["random", "ImageNet, inflated", "Kinetics-400, supervised"]
    assert [each.name for each in runs] == told
    papers = ["none", "ImageNet, supervised", "Kinetics-400, supervised"]
    assert [each.start.method for each in runs] == papers
    other = finetuned("eps", 0.5, encoder={"norm_eps": 1e-5})
    assert names(folders[0], other) == [
        "random (encoder.norm_eps 0.001)",
        "random (encoder.norm_eps 1e-05)",
    ]


def test_a_head_that_comes_along_makes_another_start(tracked: WriteRun, encoder: Encoder) -> None:
    uri = encoder("pre")
    folders = [tracked(str(head), 0.5, initial=uri, with_head=head) for head in (False, True)]
    assert names(*folders) == ["pretrained", "pretrained (with_head True)"]
