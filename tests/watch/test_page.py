"""The page in a real Chromium: it follows runs, compares them, and shows their predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ctp.lease import hold
from ctp.pretext.config import PretrainConfig
from ctp.pretext.pretraining import open_pretraining
from ctp.storage import Storage
from ctp.training.run_folder import create_or_resume, folder_of
from ctp.watch.run import WatchedRun
from ctp.watch.server import serving

AddLines = Callable[..., Path]
Line = Callable[..., dict[str, Any]]
CURVES = "document.querySelectorAll('#panels figure:first-child .curve')"
"""The curves of the loss."""
LOST = "document.getElementById('lost')"
"""What says that the server is no longer reached."""


@pytest.fixture(scope="module")
def chromium() -> Any:
    path = Path(__file__).with_name("chromium.py")
    spec = spec_from_file_location("chromium", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Any]:
    program = chromium.find_chromium()
    if program is None:
        pytest.skip("no chromium: Debian has it in chromium; CTP_CHROMIUM names the program")
    with chromium.opened(program) as page:
        yield page


@contextmanager
def watching(page: Any, *folders: Path, with_pictures: bool = False) -> Iterator[str]:
    runs = [WatchedRun(Storage.from_uri(folder), folder.name) for folder in folders]
    with serving(runs, port=0, with_pictures=with_pictures) as url:
        page.open("about:blank", 1400, 900)  # which ends the page of the test before
        page.run("1")
        page.complaints.clear()
        page.open(url, 1400, 900)
        page.wait_for("document.querySelectorAll('.run').length", lambda n: n == len(folders))
        yield url
        assert page.complaints == []


def test_the_page_follows_a_run_to_its_end(
    page: Any, small_run: PretrainConfig, add_lines: AddLines, line: Line
) -> None:
    folder = Path(folder_of(small_run).path)
    with watching(page, folder):
        assert "not started" in page.text(".run")
        with hold(folder_of(small_run), "pretrain"):
            create_or_resume(small_run)
            add_lines([line(1, 3.0), line(2, 2.0, iou=0.25, still_iou=0.5)])
            page.wait_for(f"{CURVES}.length", lambda number: number == 1)
            assert page.text(".state") == "running"
            assert "step 2 of 6 (33%)" in page.text(".run")
            assert "2 s left" in page.text(".run")
            before = page.run(f"{CURVES}[0].getAttribute('d')")
            page.run("window.is_same_page = true")
            add_lines([line(3, 1.0, iou=0.75, still_iou=0.5, quarantined=2)])
            page.wait_for(f"{CURVES}[0].getAttribute('d')", lambda now: now != before)
            for text in ("tracking IoU\n0.750", "still box\n0.500", "2 videos quarantined"):
                assert text in page.text(".run")
            assert "ago" in page.text(".age")
        (folder / "encoder.safetensors").write_bytes(b"")
        (folder / "curves.png").write_bytes(b"")
        page.wait_for("document.querySelector('.state').textContent", lambda s: s == "finished")
        assert page.run("window.is_same_page")  # it was never loaded again


def test_runs_are_compared_in_their_own_colours(
    page: Any, small_run: PretrainConfig, add_lines: AddLines, line: Line
) -> None:
    first = add_lines([line(1, 3.0), line(4, 1.0)], "first")
    task = small_run.task.replace(num_patches=3)
    with watching(page, first, add_lines([line(1, 2.0), line(3, 2.0)], "second", task=task)):
        page.wait_for(f"{CURVES}.length", lambda number: number == 2)
        colors = page.run(f"[...{CURVES}].map((curve) => getComputedStyle(curve).stroke)")
        swatches = "[...document.querySelectorAll('.run .swatch')]"
        legend = page.run(f"{swatches}.map((each) => getComputedStyle(each).backgroundColor)")
        assert colors == legend
        assert len({*colors}) == 2
        ends = page.run(f"[...{CURVES}].map((curve) => curve.getBBox().width)")
        assert ends[0] == pytest.approx(1.5 * ends[1], rel=0.02)  # 3 steps and 2, on one axis
        assert page.text("#differences table").split("\n")[-1].split("\t") == [
            "number of patches", "2", "3",
        ]  # fmt: skip
        page.run("document.querySelectorAll('.run .name')[0].click()")
        assert page.run(f"[...{CURVES}].map((curve) => curve.dataset.run)") == ["1"]


def test_predictions_are_shown_by_step(
    page: Any, small_run: PretrainConfig, train_alone: Callable[..., None]
) -> None:
    create_or_resume(small_run)
    train_alone(open_pretraining(small_run))
    folder = Path(folder_of(small_run).path)
    with watching(page, folder, with_pictures=True):
        page.wait_for("Number(document.getElementById('steps').max)", lambda last: last == 3)
        page.wait_for("document.getElementById('step').value", lambda step: step == "6")
        page.run("document.getElementById('play').click()")
        sums = "[...document.querySelectorAll('canvas')].map((canvas) => canvas.getContext('2d')"
        sums += ".getImageData(0, 0, canvas.width, canvas.height).data.reduce((a, b) => a + b))"
        end = page.wait_for(sums, lambda all_: len(all_) == 4 and min(all_) > 0)
        assert "after step 6" in page.text("#clips h3")
        assert page.text("#clips figcaption").count("IoU") == 1
        page.run(
            "const slider = document.getElementById('steps'); slider.value = 0;"
            "slider.dispatchEvent(new Event('input'))"
        )
        assert "before training" in page.text("#clips h3")
        page.wait_for(sums, lambda all_: min(all_) > 0 and all_ != end)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_server_that_ends_is_reported_and_found_again(
    page: Any, add_lines: AddLines, line: Line
) -> None:
    folder = add_lines([line(1, 3.0)])
    with watching(page, folder) as url:
        assert page.run(f"{LOST}.hidden")
    page.wait_for(f"{LOST}.hidden", lambda is_hidden: not is_hidden)
    assert "no longer reached" in page.text("#lost")
    assert "step 1" in page.text(".run")
    add_lines([line(2, 2.0)])
    runs = [WatchedRun(Storage.from_uri(folder), "run")]
    with serving(runs, urlsplit(url).port, with_pictures=False):
        page.wait_for("document.querySelector('.steps').textContent", lambda s: "step 2" in s)
        assert page.run(f"{LOST}.hidden")


def test_text_of_a_run_folder_is_no_code(page: Any, tmp_path: Path) -> None:
    attack = "<img src=x onerror=hacked=1>"
    folder = tmp_path / attack
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps({"kind": attack}))
    with watching(page, folder):
        assert attack in page.text(".name")
        assert attack in page.text(".note")
        assert page.run("typeof hacked") == "undefined"


def test_a_phone_shows_all_without_scrolling_sideways(
    page: Any, add_lines: AddLines, line: Line
) -> None:
    name = "a_long_name_without_any_place_to_break_it_" * 3
    folder = add_lines([line(n, 1 / n, iou=n / 9, still_iou=0.5) for n in range(1, 6)], name)
    with watching(page, folder) as url:
        page.open(url, 400, 800, is_phone=True)
        page.wait_for("document.querySelectorAll('.curve').length", lambda number: number > 3)
        assert page.run("document.documentElement.scrollWidth") == 400
