"""Storage: the same behaviour locally and in an object store, and errors that say what to do."""

from __future__ import annotations

import mmap
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs

from ctp.storage import FileInfo, Storage, StorageError, readable

ODD_NAME = "a b/#20 100% (x)[y]?y&z.bin"
NOT_UTF8 = os.fsdecode(b"f\xff/\xe9 b%20[1].bin")


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder."""
    if request.param == "local":
        return Storage.from_uri(tmp_path / "run folder")
    return Storage.from_uri(f"{request.getfixturevalue('s3_bucket')}/run folder")


def test_write_read_list_delete(place: Storage) -> None:
    assert not place.exists()
    assert place.list_files() == []
    assert place.list_folders() == []
    place.join("b", "2.bin").write_bytes(b"two")
    place.join("a/1.bin").write_bytes(b"")
    place.join("c.bin").write_bytes(b"c")
    assert place.exists()
    assert not place.is_file()
    assert place.join("c.bin").is_file()
    assert not place.join("d").exists()
    assert place.join("b/2.bin").read_bytes() == b"two"
    assert place.list_files() == [
        FileInfo("a/1.bin", 0), FileInfo("b/2.bin", 3), FileInfo("c.bin", 1)
    ]  # fmt: skip
    assert place.list_folders() == ["a", "b"]
    place.join("b").delete_folder()
    assert place.list_folders() == ["a"]
    place.check_writable()
    assert [info.path for info in place.list_files()] == ["a/1.bin", "c.bin"]


def test_a_uri_leads_back_to_any_name(place: Storage) -> None:
    place.join(ODD_NAME).write_bytes(b"odd")
    assert [info.path for info in place.list_files()] == [ODD_NAME]
    assert Storage.from_uri(place.join(ODD_NAME).uri).read_bytes() == b"odd"
    assert place.join(ODD_NAME).parent.path == place.join("a b").path
    assert Storage.from_uri(place.join(ODD_NAME).parent.uri).path == place.join("a b").path


def test_a_local_name_that_is_not_utf8(tmp_path: Path) -> None:
    place = Storage.from_uri(tmp_path)
    place.join("a.bin").write_bytes(b"a")
    place.join(NOT_UTF8).write_bytes(b"odd")
    assert os.path.isfile(os.fsencode(tmp_path) + b"/f\xff/\xe9 b%20[1].bin")
    assert place.list_files() == [FileInfo("a.bin", 1), FileInfo(NOT_UTF8, 3)]
    assert place.list_folders() == [os.fsdecode(b"f\xff")]
    assert place.find_files([NOT_UTF8, "missing", "a.bin"]) == place.list_files()[::-1]
    there = place.join(NOT_UTF8)
    assert there.uri == f"file://{tmp_path}/f%FF/%E9%20b%2520%5B1%5D.bin"
    for way in (
        there,
        Storage.from_uri(there.uri),
        Storage.from_uri(there.path),
        pickle.loads(pickle.dumps(there)),
    ):
        assert way == there
        assert way.read_bytes() == b"odd"
    assert there.parent.list_files() == [FileInfo(NOT_UTF8.partition("/")[2], 3)]
    assert there.parent.join("c").uri == f"file://{tmp_path}/f%FF/c"
    there.parent.delete_folder()
    assert place.list_folders() == []


def test_bytes_that_are_not_utf8_are_escaped() -> None:
    assert readable(NOT_UTF8) == r"f\xff/\xe9 b%20[1].bin"
    assert readable("日本/é ß.mp4") == "日本/é ß.mp4"


def test_pickles(place: Storage) -> None:
    place.join("x").write_bytes(b"x")
    there: Storage = pickle.loads(pickle.dumps(place))
    assert there == place
    assert there.join("x").read_bytes() == b"x"


def test_a_new_file_replaces_the_old_one(place: Storage) -> None:
    file = place.join("file")
    file.write_bytes(b"a long first version")
    file.write_bytes(b"short")
    assert place.list_files() == [FileInfo("file", 5)]


def test_the_bytes_read_are_those_written(place: Storage) -> None:
    data = bytes(range(256)) * 9
    for name in ("a.bin", "a.gz"):  # by default, pyarrow compresses .gz
        place.join(name).write_bytes(memoryview(data))
        assert place.join(name).read_bytes() == data
    with mmap.mmap(-1, len(data)) as memory:
        memory[:] = data
        place.join("b").write_bytes(memory)
    assert place.join("b").read_bytes() == data


def test_an_open_file(place: Storage) -> None:
    place.join("x").write_bytes(b"0123456789")
    with place.join("x").open() as file:
        assert file.size == 10
        assert [file.read(8, 5), file.read(), file.read(2, 3)] == [b"89", b"0123456789", b"234"]


def test_another_version_of_a_file_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123")
    os.utime(tmp_path / "x", ns=(0, 1000))
    assert Storage.from_uri(tmp_path / "x").version() == (4, 1000)


def test_readers_see_the_old_or_the_new_with_many_writers(tmp_path: Path) -> None:
    file = Storage.from_uri(tmp_path / "file")
    versions = [bytes([i]) * 300_000 for i in range(4)]
    file.write_bytes(versions[0])

    def write_often(version: bytes) -> None:
        for _ in range(20):
            file.write_bytes(version)

    writers = [threading.Thread(target=write_often, args=(version,)) for version in versions]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert file.read_bytes() in versions
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("offset", "size", "wanted"),
    [
        (0, None, b"0123456789"),
        (0, 3, b"012"),
        (4, 3, b"456"),
        (8, 5, b"89"),
        (7, None, b"789"),
        (5, 0, b""),
        (10, 1, b""),
        (20, None, b""),
    ],
)
def test_a_range_is_cut_at_the_end(
    offset: int, size: int | None, wanted: bytes, place: Storage
) -> None:
    place.join("x").write_bytes(b"0123456789")
    assert place.join("x").read_bytes(offset, size) == wanted


def test_a_missing_file_is_an_error(place: Storage) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*missing.*Check that it exists"):
        place.join("missing").read_bytes()
    with pytest.raises(StorageError, match=r"cannot delete .*missing"):
        place.join("missing").delete_folder()


def test_checking_an_output_leaves_no_folder(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for folder in (kept / "new" / "below", kept):
        Storage.from_uri(str(folder)).check_output()
    assert list(kept.iterdir()) == []
    with pytest.raises(StorageError, match="cannot write"):
        Storage.from_uri("/proc/ctp").check_output()


@pytest.mark.parametrize("folder", ["/proc/ctp", "{file}/below"])
def test_a_folder_that_cannot_be_written_to_is_an_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    place = Storage.from_uri(folder.format(file=tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot write .*user or role may write there"):
        place.check_writable()


def test_a_missing_bucket_is_an_error(s3_bucket: str) -> None:
    place = Storage.from_uri(f"{s3_bucket}-not/run")
    assert not place.exists()
    with pytest.raises(StorageError, match=r"cannot write s3://.*-not/run"):
        place.check_writable()


FULL_DISK = """
import resource, sys
from ctp.storage import Storage, StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = Storage.from_uri(sys.argv[1])
file.write_bytes(b"old")
try:
    file.write_bytes(bytes(5000))
except StorageError as error:
    assert file.read_bytes() == b"old" and len(file.parent.list_files()) == 1
    print(error)
"""


def test_a_full_disk_is_an_error_and_keeps_the_old_file(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    said = run_python("-c", FULL_DISK, str(tmp_path / "file"))
    assert f"cannot write {tmp_path}/file" in said
    assert "space left" in said


def test_endpoint_in_the_query(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    address = s3_endpoint.removeprefix("http://")
    query = f"?endpoint_override={address}&scheme=http&region=us-east-1"
    place = Storage.from_uri(f"{s3_bucket}/some folder/{query}")
    place.join("a b", "c").write_bytes(b"c")
    assert place.join("a b", "c").uri == f"{s3_bucket}/some%20folder/a%20b/c{query}"
    assert place.join("a b", "c").parent.uri == f"{s3_bucket}/some%20folder/a%20b{query}"
    assert Storage.from_uri(place.join("a b", "c").uri).read_bytes() == b"c"


def test_local_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("x", "./x", "~/x", tmp_path / "x", f"file://{tmp_path}/x"):
        assert Storage.from_uri(name).path == f"{tmp_path}/x"
    assert Storage.from_uri(f"file://{tmp_path}/a[0]%20#").path == f"{tmp_path}/a[0] #"
    assert Storage.from_uri("x").uri == f"{tmp_path}/x"
    assert Storage.from_uri("x").is_local
    assert Storage.from_uri(f"file://{tmp_path}/x").is_local


@pytest.mark.parametrize(
    "uri", ["nonsense://bucket/x", "s3://bucket/x?nonsense=1", "file://host/x"]
)
def test_a_malformed_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"cannot open .*Expected a local path or s3://"):
        Storage.from_uri(uri)


def test_a_file_is_created_once(place: Storage) -> None:
    file = place.join("deep", "claim.json")
    assert file.create(b"the first")
    assert not file.create(b"the second")
    assert file.create(b"the first"), "a repeated request finds its own file"
    assert file.read_bytes() == b"the first"


def test_of_many_creators_one_succeeds(place: Storage) -> None:
    file = place.join("claim.json")
    start = threading.Barrier(6)

    def create(number: int) -> bool:
        start.wait()
        return file.create(b"%d" % number)

    with ThreadPoolExecutor(6) as pool:
        created = list(pool.map(create, range(6)))
    assert sum(created) == 1
    assert file.read_bytes() == b"%d" % created.index(True)


def test_a_storage_without_conditional_writes_keeps_the_last_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ctp.storage.SETTLE_SECONDS", 0.5)
    filesystem, _ = fs.FileSystem.from_uri("mock://bucket")  # as other object stores of pyarrow
    file = Storage(filesystem, "bucket/claim.json", "mock://bucket/claim.json")
    filesystem.create_dir("bucket")
    with ThreadPoolExecutor(2) as pool:
        created = list(pool.map(file.create, (b"one", b"two")))
    assert sum(created) == 1
    assert file.read_bytes() == (b"one", b"two")[created.index(True)]
    assert not file.create(b"three")


def test_credentials_and_endpoint_of_a_uri_create_files_too(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    bucket, address = s3_bucket.removeprefix("s3://"), s3_endpoint.removeprefix("http://")
    uri = f"s3://key:secret@{bucket}/claim?scheme=http&endpoint_override={address}"
    assert Storage.from_uri(uri).create(b"mine")
    assert not Storage.from_uri(uri).create(b"yours")
    missing = Storage.from_uri(uri.replace(bucket, f"{bucket}-not"))
    with pytest.raises(StorageError, match=r"cannot write .*NoSuchBucket"):
        missing.create(b"mine")
