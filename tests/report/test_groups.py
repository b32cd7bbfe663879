"""What is averaged, and what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ctp.report.groups import Mean, Setting, settings_of, together, told_apart
from ctp.report.runs import Run
from ctp.report.starts import with_starts
from ctp.storage import Storage

WriteRun = Callable[..., Storage]


def sorted_by(folders: list[Storage], *varied: str) -> list[Setting]:
    return settings_of(with_starts(map(Run.read, folders)), varied)


def names(setting: Setting) -> list[list[str]]:
    return [[each.run.config.name for each in group.runs] for group in setting.groups]


def test_mean_and_sample_standard_deviation() -> None:
    mean = Mean.of([0.5, 0.6, 0.7])
    assert mean == Mean(pytest.approx(0.6), pytest.approx(0.1), 3)
    assert mean.written(1, 100) == "60.0 ± 10.0"
    assert Mean.of([0.5]) == Mean(0.5, None, 1)
    assert Mean.of([0.5]).written(3) == "0.500"


def test_only_runs_that_differ_by_seed_are_averaged(finetuned: WriteRun) -> None:
    folders = [
        finetuned("a", 0.5, seed=0),
        finetuned("short", 0.2, seed=1, schedule={"length": 5, "decay_at": []}),
        finetuned("b", 0.6, seed=1, log_every_steps=3),  # which does not shape the result
        finetuned("few", 0.1, seed=2, data={"label_fraction": 0.1}),
        finetuned("c", 0.7, seed=2, scaling={"num_workers": 2}),
    ]
    first, short = sorted_by(folders, "data.label_fraction")
    assert names(first) == [["few"], ["a", "b", "c"]]
    assert names(short) == [["short"]]
    assert first.groups[1].mean("top1") == Mean(pytest.approx(0.6), pytest.approx(0.1), 3)
    assert first.groups[1].seeds == "0, 1, 2"
    assert told_apart([first, short]) == [
        "Setting 1: schedule.length 150, schedule.decay_at 60, 120.",
        "Setting 2: schedule.length 5, schedule.decay_at none.",
    ]
    assert told_apart([first]) == []


def test_a_field_that_is_not_varied_makes_another_setting(finetuned: WriteRun) -> None:
    folders = [
        finetuned(f"all-{share:g}", 0.5, data={"label_fraction": share}) for share in (1, 0.1)
    ]
    assert [names(each) for each in sorted_by(folders)] == [[["all-1"]], [["all-0.1"]]]


def test_the_same_run_again_tells_nothing_new(finetuned: WriteRun) -> None:
    folders = [finetuned(name, 0.5, seed=seed) for name, seed in (("a", 0), ("a2", 0), ("b", 1))]
    (setting,) = sorted_by(folders)
    assert names(setting) == [["a", "b"]]
    assert [each.run.config.name for each in setting.groups[0].repeated] == ["a2"]


def test_seeds_of_initial_weights_count(finetuned: WriteRun, encoder: Callable[..., str]) -> None:
    folders = [
        finetuned(
            f"ft-{seed}",
            0.5,
            seed=0,
            initial=encoder(f"pre-{seed}", seed=seed),
        )
        for seed in (3, 4)
    ]
    (setting,) = sorted_by(folders)
    assert names(setting) == [["ft-3", "ft-4"]]
    assert setting.groups[0].seeds == "0/3, 0/4"


def test_random_weights_come_first_and_few_before_many(finetuned: WriteRun) -> None:
    folders = [
        finetuned("k", 0.5, initial="kinetics400"),
        finetuned("r", 0.5),
        finetuned("r-few", 0.5, data={"label_fraction": 0.2}),
    ]
    (setting,) = sorted_by(folders, "data.label_fraction")
    assert names(setting) == [["r-few"], ["r"], ["k"]]


@pytest.mark.parametrize(
    ("uris", "text"),
    [
        (["/r/a/s.json"], "/r/a/s.json"),
        (["/r/a/s.json", "/r/b/s.json", "/r/a/s.json"], "/r/{a,b}/s.json"),
        (["/r/a/s.json", "/q/b/s.json"], "/r/a/s.json, /q/b/s.json"),
        (["/r/s.json", "s3://b/r/s.json"], "/r/s.json, s3://b/r/s.json"),
    ],
)
def test_places_as_one_text(uris: list[str], text: str) -> None:
    assert together(uris) == text
