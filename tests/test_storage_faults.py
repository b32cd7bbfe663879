"""S3 on its bad days: what fails for a moment is waited for, what fails for good says what to do,
and no fault gives wrong bytes in silence."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp import storage
from ctp.data import catalog
from ctp.data.catalog import VideoEntry
from ctp.storage import Storage, StorageError
from ctp.video.encoded import VideoError

DATA = bytes(range(256)) * 400
SERVICE_FAULTS = [
    {"kind": "status", "value": 500},
    {"kind": "refused", "value": "SlowDown"},
    {"kind": "reset"},
]
CREDENTIAL_CODES = ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"]
LOOK, FETCH = {"method": "HEAD"}, {"method": "GET", "path": "/file$"}


def code_of(fault: dict[str, Any]) -> str:
    return " ".join(map(str, fault.values()))


@pytest.fixture
def file(faulty_s3: Any) -> Storage:
    """An object that holds DATA."""
    place = Storage.of(f"{faulty_s3.bucket}/folder/file")
    place.write_bytes(DATA)
    return place


@pytest.fixture
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second attempt, so that what lasts is known at once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def test_without_faults_all_goes_through(faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail()
    assert file.read_bytes() == DATA
    assert file.read_bytes(100, 50) == DATA[100:150]
    assert [entry["method"] for entry in faulty_s3.log()] == ["HEAD", "GET"] * 2
    assert faulty_s3.log()[-1]["range"] == "bytes=100-149"


def test_faults_are_counted(faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({"kind": "changed", "method": "GET", "every": 3, "times": 1})
    came = [file.read_bytes() == DATA for _ in range(7)]
    assert came == [True, True, False, True, True, True, True]
    assert len(file.read_bytes()) == len(DATA)


# reads


@pytest.mark.parametrize("request_", [LOOK, FETCH], ids=["look", "fetch"])
@pytest.mark.parametrize("fault", [*SERVICE_FAULTS, {"kind": "cut"}], ids=code_of)
def test_a_read_outlasts_a_fault(
    fault: dict[str, Any], request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail(fault | request_ | {"times": 1})
    assert file.read_bytes(10, 5000) == DATA[10:5010]
    assert [entry["fault"] for entry in faulty_s3.log()].count(fault["kind"]) == 1


@pytest.mark.usefixtures("asked_once")
@pytest.mark.parametrize("request_", [LOOK, FETCH], ids=["look", "fetch"])
@pytest.mark.parametrize("fault", SERVICE_FAULTS, ids=code_of)
def test_a_storage_that_goes_on_failing_is_no_fault_of_the_file(
    fault: dict[str, Any], request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    place = Storage.of(file.uri)
    faulty_s3.fail(fault | request_)
    with pytest.raises(StorageError, match=r"cannot read s3://.*or try later") as caught:
        place.read_bytes()
    assert not caught.value.is_lasting


@pytest.mark.usefixtures("asked_once")
@pytest.mark.parametrize(("offset", "size"), [(0, None), (7, 1000)])
def test_a_body_that_is_cut_is_an_error(
    offset: int, size: int | None, faulty_s3: Any, file: Storage
) -> None:
    place = Storage.of(file.uri)
    faulty_s3.fail({"kind": "cut", **FETCH})
    with pytest.raises(StorageError, match=r"cannot read s3://.*or try later") as caught:
        place.read_bytes(offset, size)
    assert not caught.value.is_lasting


def test_every_last_byte_can_be_read(tmp_path: Path) -> None:
    file = Storage.of(tmp_path / "file")
    file.write_bytes(bytes(range(256)))
    assert b"".join(file.read_bytes(i, 1) for i in range(256)) == bytes(range(256))


@pytest.mark.parametrize("size", [1, 2, 3, 1000, None])
def test_an_object_that_becomes_shorter_while_it_is_read(
    size: int | None, faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail({"kind": "shorter", **FETCH})
    with pytest.raises(StorageError, match="it became shorter while it was read") as caught:
        file.read_bytes(0, size)
    assert not caught.value.is_lasting


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(storage, "SILENT_SECONDS", 1.0)
    storage._s3_filesystem.cache_clear()  # for it holds clients that are patient
    yield
    storage._s3_filesystem.cache_clear()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("request_", [LOOK, FETCH], ids=["look", "fetch"])
def test_silence_is_not_waited_for_without_end(
    request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    place = Storage.of(file.uri)
    faulty_s3.fail({"kind": "slow", "value": 600, "times": 1, **request_})
    assert place.read_bytes() == DATA


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_body_that_stalls_is_asked_for_again(faulty_s3: Any, file: Storage) -> None:
    place = Storage.of(file.uri)
    faulty_s3.fail({"kind": "stall", "value": 600, "times": 1, **FETCH})
    assert place.read_bytes() == DATA


@pytest.mark.usefixtures("asked_once")
def test_a_video_outlives_an_outage_that_storage_does_not(
    faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RETRY_SECONDS", (0.0, 0.0))
    entry = VideoEntry("video", Storage.of(file.uri).uri)
    for times in (1, 2):
        faulty_s3.fail({"kind": "status", "value": 503, "times": times})
        assert entry.read().data == DATA
        assert len(faulty_s3.log()) == times + 2
    faulty_s3.fail({"kind": "status", "value": 503})
    with pytest.raises(StorageError, match="or try later"):
        entry.read()
    assert len(faulty_s3.log()) == 3


# refusals

Use = Callable[[Storage], object]
USES: dict[str, Use] = {
    "read": Storage.read_bytes,
    "look": Storage.exists,
    "list": Storage.list_files,
    "write": lambda place: place.write_bytes(b"new"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("code", CREDENTIAL_CODES)
def test_credentials_that_are_refused_are_no_fault_of_the_file(
    code: str, use: Use, faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail({"kind": "refused", "value": code})
    with pytest.raises(
        StorageError, match=r"Renew the credentials .*, or give .* a role"
    ) as caught:
        use(file)
    assert not caught.value.is_lasting


@pytest.mark.parametrize("code", CREDENTIAL_CODES)
def test_credentials_that_expire_before_the_fetch(code: str, faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({"kind": "refused", "value": code, "method": "GET"})
    with pytest.raises(StorageError, match="Renew the credentials") as caught:
        file.read_bytes()
    assert not caught.value.is_lasting


@pytest.mark.usefixtures("asked_once")
def test_a_wrong_clock(faulty_s3: Any, file: Storage) -> None:
    place = Storage.of(file.uri)
    faulty_s3.fail({"kind": "refused", "value": "RequestTimeTooSkewed"})
    with pytest.raises(StorageError, match="Set this machine's clock") as caught:
        place.read_bytes()
    assert not caught.value.is_lasting


@pytest.mark.parametrize("request_", [LOOK, FETCH], ids=["look", "fetch"])
@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState", "NoSuchKey"])
def test_one_object_that_is_refused_is_the_files_fault(
    code: str, request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail({"kind": "refused", "value": code, **request_})
    with pytest.raises(StorageError, match=r"Check that it exists and .* may read it") as caught:
        file.read_bytes()
    assert caught.value.is_lasting
    assert pickle.loads(pickle.dumps(caught.value)).is_lasting


def test_a_user_who_may_not_list_is_denied_one_object(faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({"kind": "refused", "value": "AccessDenied"})
    with pytest.raises(StorageError, match="may read it") as caught:
        file.read_bytes()
    assert caught.value.is_lasting


def test_a_run_stops_for_credentials_and_goes_on_without_one_video(
    faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RETRY_SECONDS", ())
    entry = VideoEntry("video", file.uri)
    faulty_s3.fail({"kind": "refused", "value": "ExpiredToken"})
    with pytest.raises(StorageError):
        entry.read()
    monkeypatch.setattr(catalog, "RETRY_SECONDS", (600,))
    faulty_s3.fail({"kind": "refused", "value": "AccessDenied", **LOOK})
    with pytest.raises(VideoError):
        entry.read()


def test_renewed_credentials_are_taken_up(
    faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_s3.fail()
    file.read_bytes()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
    file.read_bytes()
    assert [entry["access_key"] for entry in faulty_s3.log()] == ["test"] * 2 + ["renewed"] * 2


# writes


@pytest.mark.parametrize("fault", SERVICE_FAULTS, ids=code_of)
def test_a_write_outlasts_a_fault(fault: dict[str, Any], faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({**fault, "method": "PUT|POST", "times": 1})
    file.write_bytes(b"new")
    assert file.read_bytes() == b"new"


@pytest.mark.usefixtures("asked_once")
@pytest.mark.parametrize("megabytes", [0, 25])
@pytest.mark.parametrize("fault", SERVICE_FAULTS, ids=code_of)
def test_a_write_that_fails_leaves_what_was_there(
    fault: dict[str, Any], megabytes: int, faulty_s3: Any, file: Storage
) -> None:
    place = Storage.of(file.uri)
    faulty_s3.fail({**fault, "method": "PUT"})
    with pytest.raises(StorageError, match=r"cannot write s3://.*or try later") as caught:
        place.write_bytes(bytes(megabytes << 20 or 1))
    assert not caught.value.is_lasting
    faulty_s3.fail()
    assert place.read_bytes() == DATA


# how often, and by whom


@pytest.mark.parametrize("attempts", [1, 2])
def test_attempts_are_the_users_choice(
    attempts: int, faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts))
    for place in (Storage.of(file.uri), pickle.loads(pickle.dumps(Storage.of(file.uri)))):
        faulty_s3.fail({"kind": "status", "value": 503})
        with pytest.raises(StorageError):
            place.read_bytes()
        assert len(faulty_s3.log()) == attempts


@pytest.mark.parametrize("attempts", ["0", "-1", "many", ""])
def test_attempts_that_are_no_number(
    attempts: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
    with pytest.raises(ValueError, match=f"AWS_MAX_ATTEMPTS: wanted .* got '{attempts}'"):
        Storage.of(s3_bucket)


def test_places_in_a_bucket_share_their_connections(
    faulty_s3: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = Storage.of(f"{faulty_s3.bucket}/a/b")
    assert Storage.of(f"{faulty_s3.bucket}/c").filesystem is behind.filesystem
    assert Storage.of(f"{faulty_s3.bucket}/c?region=eu-west-1").filesystem != behind.filesystem
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    Storage.of(f"{faulty_s3.bucket}/a/b").write_bytes(b"b")
    assert faulty_s3.log() == []
    assert behind.read_bytes() == b"b"
    assert len(faulty_s3.log()) == 2


def test_no_secret_is_pickled_but_what_the_uri_holds(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret of the environment")
    assert b"secret of" not in pickle.dumps(Storage.of(f"{s3_bucket}/a"))
