"""Which labelled videos are trained on and tested on, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ctp.data.catalog import Catalog
from ctp.downstream.config import LabeledDataConfig
from ctp.downstream.labels import labels, open_labeled

CLASSES = {"jump": 8, "run": 5, "walk": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in CLASSES.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.mp4").write_bytes(b"x")
    return tmp_path


def ids(catalog: Catalog) -> list[str]:
    return [entry.id for entry in catalog]


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_lists_part_the_videos_as_ucf101s_do(folder: Path) -> None:
    train = write(folder / "train.txt", "jump/0.mp4 1", "run/3.mp4 2", "jump/2.mp4 1")
    test = write(folder / "test.txt", "run/0.mp4", "jump/7.mp4", "")
    found = open_labeled(LabeledDataConfig(uri=str(folder), train_list=train, test_list=test), 0)
    assert found.classes == ("jump", "run")
    assert ids(found.train) == ["jump/0.mp4", "jump/2.mp4", "run/3.mp4"]
    assert labels(found.train) == ["jump", "jump", "run"]
    assert ids(found.test) == ["jump/7.mp4", "run/0.mp4"]


@pytest.mark.parametrize("which", ["train_list", "test_list"])
def test_one_list_leaves_the_rest_to_the_other_side(folder: Path, which: str) -> None:
    kept = [f"{name}/0.mp4" for name in CLASSES]
    uri = write(folder / "list.txt", *kept)
    found = open_labeled(LabeledDataConfig.model_validate({"uri": str(folder), which: uri}), 0)
    named, others = found.train, found.test
    if which == "test_list":
        named, others = others, named
    assert ids(named) == kept
    assert len(others) == sum(CLASSES.values()) - len(kept)
    assert not set(ids(named)) & set(ids(others))


def test_other_sources_and_shares(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "walk"
    other.mkdir(parents=True)
    (other / "a.mp4").write_bytes(b"x")
    config = LabeledDataConfig(uri=str(folder / "*" / "*.mp4"), test_uri=str(tmp_path / "other"))
    assert ids(open_labeled(config, 0).test) == ["walk/a.mp4"]
    found = open_labeled(LabeledDataConfig(uri=str(folder / "*/*.mp4"), test_share=0.4), seed=1)
    assert Counter(labels(found.test)) == {"jump": 3, "run": 2, "walk": 1}
    assert not set(ids(found.train)) & set(ids(found.test))
    assert len(found.train) == sum(CLASSES.values()) - 6


def test_fractions_are_stratified_nested_and_follow_the_seed(folder: Path) -> None:
    test = write(folder / "test.txt", "walk/1.mp4")

    def kept(fraction: float, seed: int = 0) -> list[str]:
        data = LabeledDataConfig(uri=str(folder), test_list=test, label_fraction=fraction)
        found = open_labeled(data, seed)
        assert found.classes == tuple(CLASSES)
        return ids(found.train)

    assert Counter(name.partition("/")[0] for name in kept(0.5)) == {"jump": 4, "run": 3, "walk": 1}
    assert Counter(name.partition("/")[0] for name in kept(0.01)) == dict.fromkeys(CLASSES, 1)
    assert set(kept(0.01)) < set(kept(0.3)) < set(kept(0.6)) < set(kept(1.0))
    assert len(kept(1.0)) == sum(CLASSES.values()) - 1
    assert len({tuple(kept(0.5, seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "15 videos to train on and 0 to test on. Say which .* data.test_uri"),
        ({"test_list": ["walk/7.mp4", "gone.mp4 3"]}, r"names 2 video\(s\) of 2 .*'gone.mp4'"),
        ({"train_list": ["walk/0.mp4", "walk/1.mp4"]}, "all 2 videos .* of class 'walk'"),
        (
            {"train_list": ["walk/0.mp4", "run/1.mp4"]},
            r"8 videos to test on are of 1 class\(es\) that none .*: 'jump'; .* 'run', 'walk'",
        ),
    ],
    ids=str,
)
def test_what_is_refused(folder: Path, data: dict[str, Any], message: str) -> None:
    lists = {name: write(folder / f"{name}.txt", *lines) for name, lines in data.items()}
    with pytest.raises(ValueError, match=message):
        open_labeled(LabeledDataConfig.model_validate({"uri": str(folder), **lists}), 0)


def test_videos_without_a_label_are_refused(folder: Path) -> None:
    (folder / "loose.mp4").write_bytes(b"x")
    test = write(folder / "test.txt", "walk/0.mp4")
    with pytest.raises(ValueError, match=r"1 of 15 videos to train on have no label: 'loose.mp4'"):
        open_labeled(LabeledDataConfig(uri=str(folder), test_list=test), 0)
