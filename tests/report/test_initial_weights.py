"""Which initial weights are the same but for the seed, and their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ctp.report.initial_weights import InitialWeights, initial_weights, names_of
from ctp.report.runs import Run
from ctp.storage import Storage

WriteRun = Callable[..., Storage]
Encoder = Callable[..., str]


def weights(*folders: Storage) -> list[InitialWeights]:
    return [initial_weights(Run.read(folder).config) for folder in folders]


def names(*folders: Storage) -> list[str]:
    found = weights(*folders)
    return [names_of(found)[each.key][0] for each in found]


def test_encoders_of_several_seeds_are_the_same(finetuned: WriteRun, encoder: Encoder) -> None:
    folders = [
        finetuned("a", 0.5, initial=encoder("pre-s0", seed=4)),
        finetuned("b", 0.5, initial=encoder("pre-s1", seed=5, log_every_steps=3)),
        finetuned("c", 0.5),
    ]
    assert names(*folders) == ["pretrained", "pretrained", "random"]
    assert [each.seeds for each in weights(*folders)] == [(4,), (5,), ()]


def test_encoders_that_differ_by_more_have_other_names(
    finetuned: WriteRun, encoder: Encoder
) -> None:
    folders = [
        finetuned("a", 0.5, initial=encoder("three")),
        finetuned("b", 0.5, initial=encoder("one", task={"num_patches": 1})),
    ]
    found = ["pretrained (number of patches 3)", "pretrained (number of patches 1)"]
    assert names(*folders) == found


def test_many_differences_are_left_out_of_the_name(finetuned: WriteRun, encoder: Encoder) -> None:
    other = {"task": {"num_patches": 1, "hidden_prob": 0}, "optimizer": {"learning_rate": 0.1}}
    found = weights(
        finetuned("a", 0.5, initial=encoder("usual")),
        finetuned("b", 0.5, initial=encoder("other", **other)),
    )
    assert [name for name, _ in names_of(found).values()] == ["pretrained 1", "pretrained 2"]
    assert names_of(found)[found[1].key][1] == (
        "optimizer, learning rate 0.1, number of patches 1, hidden probability 0"
    )


def test_the_initial_weights_of_an_encoder_itself_count(
    finetuned: WriteRun, encoder: Encoder
) -> None:
    first = [encoder(f"first-s{seed}", seed=seed) for seed in (0, 1)]
    second = [encoder(f"second-{at}", initial_encoder=uri) for at, uri in enumerate(first)]
    folders = [
        *(finetuned(f"ft-{at}", 0.5, initial=uri) for at, uri in enumerate(second)),
        finetuned("once", 0.5, initial=first[0]),
    ]
    assert [each.seeds for each in weights(*folders)] == [(0, 0), (0, 1), (0,)]
    assert len(set(names(*folders[:2]))) == 1
    assert len(set(names(*folders))) == 2


def test_a_fine_tuned_encoder_is_not_a_pretrained_one(
    finetuned: WriteRun, encoder: Encoder
) -> None:
    before = finetuned("before", 0.5, initial=encoder("pre"))
    uri = before.join("encoder.safetensors").uri
    assert names(finetuned("a", 0.5, initial=uri)) == ["fine-tuned before"]


def test_files_without_a_config_are_kinds_of_their_own(
    finetuned: WriteRun, pretrained: WriteRun, tmp_path: Path
) -> None:
    """Even if their names are equal."""
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
    """Their ε follows from them, and is not part of the name."""
    initial = {"random": 1e-3, "imagenet": 1e-5, "kinetics400": 1e-5}
    folders = [
        finetuned(name, 0.5, initial=name, encoder={"norm_eps": eps})
        for name, eps in initial.items()
    ]
    assert names(*folders) == ["random", "ImageNet, inflated", "Kinetics-400, supervised"]
    papers = ["none", "ImageNet, supervised", "Kinetics-400, supervised"]
    assert [each.method for each in weights(*folders)] == papers
    other = finetuned("eps", 0.5, encoder={"norm_eps": 1e-5})
    assert names(folders[0], other) == [
        "random (encoder, norm eps 0.001)",
        "random (encoder, norm eps 1e-05)",
    ]


def test_weights_with_a_head_are_different_weights(tracked: WriteRun, encoder: Encoder) -> None:
    uri = encoder("pre")
    folders = [tracked(str(head), 0.5, initial=uri, with_head=head) for head in (False, True)]
    assert names(*folders) == ["pretrained", "pretrained (with head yes)"]
