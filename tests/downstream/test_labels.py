"""The labelled videos to train on and to test on, and those that are refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ctp.data.catalog import Catalog
from ctp.downstream.config import LabeledVideosConfig
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


def with_label(video: str) -> str:
    """Return a line of a .txt list."""
    return f"{video}\t{video.partition('/')[0]}"


def test_test_videos_may_come_from_another_source(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "walk"
    other.mkdir(parents=True)
    (other / "a.mp4").write_bytes(b"x")
    data = LabeledVideosConfig(uri=str(folder / "*" / "*.mp4"), test_uri=str(tmp_path / "other"))
    found = open_labeled(data, 0)
    assert found.classes == tuple(CLASSES)
    assert ids(found.test) == ["walk/a.mp4"]
    assert len(found.train) == sum(CLASSES.values())


def test_txt_lists_choose_videos_and_give_their_labels(folder: Path) -> None:
    train = write(folder / "train.txt", "jump/0.mp4\tA", "run/3.mp4\tB", "jump/2.mp4\tA")
    test = write(folder / "test.txt", "run/0.mp4\tB", "jump/7.mp4\tA", "")
    found = open_labeled(LabeledVideosConfig(uri=train, test_uri=test), 0)
    assert found.classes == ("A", "B")
    assert ids(found.train) == ["jump/0.mp4", "jump/2.mp4", "run/3.mp4"]
    assert labels(found.train) == ["A", "A", "B"]
    assert labels(found.test) == ["A", "B"]


def test_a_share_of_each_class_is_tested_on_and_not_trained_on(folder: Path) -> None:
    found = open_labeled(LabeledVideosConfig(uri=str(folder), test_share=0.4), seed=1)
    assert Counter(labels(found.test)) == {"jump": 3, "run": 2, "walk": 1}
    assert not set(ids(found.train)) & set(ids(found.test))
    assert len(found.train) == sum(CLASSES.values()) - 6


def test_fractions_are_stratified_nested_and_follow_the_seed(folder: Path) -> None:
    def used(fraction: float, seed: int = 0) -> list[str]:
        data = LabeledVideosConfig(uri=str(folder), test_share=0.1, label_fraction=fraction)
        found = open_labeled(data, seed)
        assert found.classes == tuple(CLASSES)
        return ids(found.train)

    assert Counter(name.partition("/")[0] for name in used(0.5)) == {"jump": 4, "run": 2, "walk": 1}
    assert Counter(name.partition("/")[0] for name in used(0.01)) == dict.fromkeys(CLASSES, 1)
    assert set(used(0.01)) < set(used(0.3)) < set(used(0.6)) < set(used(1.0))
    assert len(used(1.0)) == sum(CLASSES.values()) - len(CLASSES)
    assert len({tuple(used(0.5, seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["walk/0.mp4", "run/1.mp4"], [], r"2 training videos and 0 test videos.*data\.test_uri"),
        (["walk/0.mp4", "walk/1.mp4"], ["walk/1.mp4"], "'walk'"),
        (
            ["walk/0.mp4", "run/1.mp4"],
            ["jump/1.mp4", "jump/2.mp4", "walk/1.mp4"],
            r"2 test videos .*'jump'.*'run', 'walk'",
        ),
    ],
    ids=["nothing to test on", "one class", "unknown class"],
)
def test_videos_that_cannot_be_learnt_from_are_refused(
    folder: Path, train: list[str], test: list[str], message: str
) -> None:
    data: dict[str, Any] = {"uri": write(folder / "train.txt", *map(with_label, train))}
    if test:
        data["test_uri"] = write(folder / "test.txt", *map(with_label, test))
    with pytest.raises(ValueError, match=message):
        open_labeled(LabeledVideosConfig.model_validate(data), 0)


def test_videos_without_a_label_are_refused(folder: Path) -> None:
    (folder / "loose.mp4").write_bytes(b"x")
    test = write(folder / "test.txt", with_label("walk/0.mp4"))
    with pytest.raises(ValueError, match=r"1 of 16 .* no label.*'loose\.mp4'"):
        open_labeled(LabeledVideosConfig(uri=str(folder), test_uri=test), 0)


def test_videos_that_are_trained_on_are_not_tested_on(folder: Path) -> None:
    """The same file under two ids, and by a share of sources that both name it."""
    test = write(folder / "test.txt", "walk/0.mp4\twalk", "run/4.mp4\trun")
    message = r"2 of 2 test videos \(knn\.test_uri\) .*\(knn\.uri\), such as '.*mp4' of .*mp4: .* d"
    for uri in (str(folder), str(folder / "*" / "*.mp4")):
        with pytest.raises(ValueError, match=message):
            open_labeled(LabeledVideosConfig(uri=uri, test_uri=test), 0, "knn")
    twice = (str(folder), str(folder / "*" / "*.mp4"))
    with pytest.raises(ValueError, match=r"test videos \(data\.test_share\) are also training"):
        open_labeled(LabeledVideosConfig(uri=twice, test_share=0.4), 0)
