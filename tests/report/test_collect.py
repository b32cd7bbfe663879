"""From folders to sections: what is shown, in which order, and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctp.report.collect import sections_of
from ctp.storage import Storage

WriteRun = Callable[..., Storage]


def titles(*places: str) -> list[str]:
    return [section.title for section in sections_of(places)]


def test_a_folder_of_runs_is_all_of_them(finetuned: WriteRun, pretrained: WriteRun) -> None:
    first = finetuned("b", 0.5)
    finetuned("a", None)
    pretrained("pre")
    (Path(first.parent.path) / "notes").mkdir()
    assert titles(first.parent.uri) == ["a", "b", "pre"]
    assert titles(first.uri, first.parent.uri) == ["b", "a", "pre"], "each once, in this order"


def test_comparisons_come_first(finetuned: WriteRun) -> None:
    folders = [finetuned(name, 0.5, seed=seed).uri for seed, name in enumerate("ab")]
    assert titles(*folders) == ["Accuracy by initial weights", "a", "b"]


def test_runs_on_s3(finetuned: WriteRun, pretrained: WriteRun, s3_bucket: str) -> None:
    """The initial weights' config is found there, too."""
    runs = f"{s3_bucket}/runs"
    for seed in (0, 1):
        uri = pretrained(f"pre-{seed}", seed=seed, storage=runs).join("encoder.safetensors").uri
        finetuned(f"ft-{seed}", 0.5 + seed / 10, seed=seed, storage=runs, initial=uri)
    comparison, *singles = sections_of([runs])
    assert [section.title for section in singles] == ["ft-0", "ft-1", "pre-0", "pre-1"]
    (row,) = comparison.tables[0].rows
    assert row.cells[0] == "pretrained"
    assert "55.0 ± 7.1" in row.cells
    assert row.cells[-1] == f"{runs}/{{ft-0,ft-1}}/scores.json"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("a: [", "is not YAML"),
        ("seed: 1", "of no kind of run that is known here"),
        ("views: {num_clip: 3}", "there is no option views.num_clip .did you mean views.num_clips"),
    ],
)
def test_configs_that_cannot_be_understood(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(ValueError, match=message):
        sections_of([str(tmp_path)])


def test_folders_without_runs(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match="is neither a run folder nor one of"):
            sections_of([str(place)])
