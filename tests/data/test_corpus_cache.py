"""The cache of the corpus: each video is rendered once, and an unusable cache stops nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ctp.data import corpus
from ctp.data.sources import open_catalog, prepare_corpus


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos that are rendered in this process."""
    names: list[str] = []
    render = corpus.render_video

    def noted(name: str, *, seed: int) -> bytes:
        names.append(name)
        return render(name, seed=seed)

    monkeypatch.setattr(corpus, "render_video", noted)
    return names


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_video_is_rendered_once(cache: Path, rendered: list[str]) -> None:
    entry = open_catalog("corpus:3")[0]
    first, again = entry.read(), entry.read()
    assert first == again
    assert rendered == [entry.id]
    assert first.data == corpus.render_video(entry.id, seed=corpus.CORPUS_SEED)
    [file] = cache.glob(f"ctp/corpus-*-seed{corpus.CORPUS_SEED}/{entry.id}.mp4")
    assert file.read_bytes() == first.data
    assert files(cache) == [file.name]


def test_many_readers_at_once(cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        data = set(pool.map(corpus.read_video, ["orbit/00000"] * 8))
    assert data == {corpus.render_video("orbit/00000", seed=corpus.CORPUS_SEED)}
    assert files(cache) == ["00000.mp4"]


@pytest.mark.parametrize("folder", ["/proc/nowhere", "{file}"])
def test_a_cache_that_cannot_be_written_stops_nothing(
    folder: str, tmp_path: Path, rendered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", folder.format(file=tmp_path / "file"))
    catalog = open_catalog("corpus:2")
    assert all(entry.read().data == entry.read().data for entry in catalog)
    assert len(rendered) == 4


@pytest.mark.parametrize("cache_home", [None, "", "relative"])
def test_the_cache_is_in_the_home(
    cache_home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache_home is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    corpus.read_video("orbit/00000")
    assert files(tmp_path / "home/.cache/ctp") == files(tmp_path) == ["00000.mp4"]


def test_preparing_renders_each_video_once(cache: Path, rendered: list[str]) -> None:
    catalog = open_catalog(["corpus:5", "corpus:3"])
    catalog[-1].read()
    for _ in range(2):
        prepare_corpus(catalog)
        assert sorted(rendered) == sorted(corpus.video_names(5))
        assert len(files(cache)) == 5


def test_preparing_does_not_touch_other_videos(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    prepare_corpus(open_catalog(str(tmp_path)))
    assert not cache.exists()
