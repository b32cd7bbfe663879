"""S3 with faults: temporary ones are retried, permanent ones are errors that say what to do, and
none gives wrong bytes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
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
HEAD, GET = {"method": "HEAD"}, {"method": "GET", "path": "/file$"}


def code_of(fault: dict[str, Any]) -> str:
    return " ".join(map(str, fault.values()))


@pytest.fixture
def file(faulty_s3: Any) -> Storage:
    """An object that holds DATA."""
    place = Storage.from_uri(f"{faulty_s3.bucket}/folder/file")
    place.write_bytes(DATA)
    return place


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second attempt, so that lasting faults are errors without a wait."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def test_without_faults_everything_works(faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail()
    assert file.read_bytes() == DATA
    assert file.read_bytes(100, 50) == DATA[100:150]
    assert [entry["method"] for entry in faulty_s3.log()] == ["HEAD", "GET"] * 2
    assert faulty_s3.log()[-1]["range"] == "bytes=100-149"


def test_faults_are_counted(faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({"kind": "changed", "method": "GET", "every": 3, "times": 1})
    are_right = [file.read_bytes() == DATA for _ in range(7)]
    assert are_right == [True, True, False, True, True, True, True]
    assert len(file.read_bytes()) == len(DATA)


# reads


@pytest.mark.parametrize("request_", [HEAD, GET], ids=["head", "get"])
@pytest.mark.parametrize("fault", [*SERVICE_FAULTS, {"kind": "cut"}], ids=code_of)
def test_a_read_survives_a_fault(
    fault: dict[str, Any], request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail(fault | request_ | {"times": 1})
    assert file.read_bytes(10, 5000) == DATA[10:5010]
    assert [entry["fault"] for entry in faulty_s3.log()].count(fault["kind"]) == 1


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize("request_", [HEAD, GET], ids=["head", "get"])
@pytest.mark.parametrize("fault", SERVICE_FAULTS, ids=code_of)
def test_a_storage_that_keeps_failing_is_not_a_permanent_error(
    fault: dict[str, Any], request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    place = Storage.from_uri(file.uri)
    faulty_s3.fail(fault | request_)
    with pytest.raises(StorageError, match=r"cannot read s3://.*or try later") as caught:
        place.read_bytes()
    assert not caught.value.is_permanent


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize(("offset", "size"), [(0, None), (7, 1000)])
def test_a_body_that_is_cut_is_an_error(
    offset: int, size: int | None, faulty_s3: Any, file: Storage
) -> None:
    place = Storage.from_uri(file.uri)
    faulty_s3.fail({"kind": "cut", **GET})
    with pytest.raises(StorageError, match=r"cannot read s3://.*or try later") as caught:
        place.read_bytes(offset, size)
    assert not caught.value.is_permanent


def test_every_last_byte_can_be_read(tmp_path: Path) -> None:
    file = Storage.from_uri(tmp_path / "file")
    file.write_bytes(bytes(range(256)))
    assert b"".join(file.read_bytes(i, 1) for i in range(256)) == bytes(range(256))


@pytest.mark.parametrize("size", [1, 2, 3, 1000, None])
def test_an_object_that_becomes_shorter_while_it_is_read(
    size: int | None, faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail({"kind": "shorter", **GET})
    with pytest.raises(StorageError, match="it became shorter while it was read") as caught:
        file.read_bytes(0, size)
    assert not caught.value.is_permanent


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "REQUEST_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")  # a changed environment gives a new client


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("request_", [HEAD, GET], ids=["head", "get"])
def test_a_silent_storage_times_out(
    request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    place = Storage.from_uri(file.uri)
    faulty_s3.fail({"kind": "slow", "value": 600, "times": 1, **request_})
    assert place.read_bytes() == DATA


@pytest.mark.slow
@pytest.mark.usefixtures("short_timeout")
def test_a_body_that_stalls_is_requested_again(faulty_s3: Any, file: Storage) -> None:
    place = Storage.from_uri(file.uri)
    faulty_s3.fail({"kind": "stall", "value": 600, "times": 1, **GET})
    assert place.read_bytes() == DATA


@pytest.mark.usefixtures("one_attempt")
def test_a_video_survives_an_outage_longer_than_the_storages_attempts(
    faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RETRY_SECONDS", (0.0, 0.0))
    entry = VideoEntry("video", Storage.from_uri(file.uri).uri)
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
def test_refused_credentials_are_not_a_permanent_error(
    code: str, use: Use, faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail({"kind": "refused", "value": code})
    with pytest.raises(
        StorageError, match=r"Renew the credentials .*, or give .* a role"
    ) as caught:
        use(file)
    assert not caught.value.is_permanent


@pytest.mark.parametrize("code", CREDENTIAL_CODES)
def test_credentials_that_expire_before_the_fetch(code: str, faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({"kind": "refused", "value": code, "method": "GET"})
    with pytest.raises(StorageError, match="Renew the credentials") as caught:
        file.read_bytes()
    assert not caught.value.is_permanent


@pytest.mark.usefixtures("one_attempt")
def test_a_wrong_clock(faulty_s3: Any, file: Storage) -> None:
    place = Storage.from_uri(file.uri)
    faulty_s3.fail({"kind": "refused", "value": "RequestTimeTooSkewed"})
    with pytest.raises(StorageError, match="Set this machine's clock") as caught:
        place.read_bytes()
    assert not caught.value.is_permanent


@pytest.mark.parametrize("request_", [HEAD, GET], ids=["head", "get"])
@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState", "NoSuchKey"])
def test_a_refused_object_is_a_permanent_error(
    code: str, request_: dict[str, str], faulty_s3: Any, file: Storage
) -> None:
    faulty_s3.fail({"kind": "refused", "value": code, **request_})
    with pytest.raises(StorageError, match=r"Check that it exists and .* may read it") as caught:
        file.read_bytes()
    assert caught.value.is_permanent
    assert pickle.loads(pickle.dumps(caught.value)).is_permanent


def test_a_user_who_may_not_list_is_denied_one_object(faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({"kind": "refused", "value": "AccessDenied"})
    with pytest.raises(StorageError, match="may read it") as caught:
        file.read_bytes()
    assert caught.value.is_permanent


def test_refused_credentials_stop_a_run_and_a_refused_video_does_not(
    faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RETRY_SECONDS", ())
    entry = VideoEntry("video", file.uri)
    faulty_s3.fail({"kind": "refused", "value": "ExpiredToken"})
    with pytest.raises(StorageError):
        entry.read()
    monkeypatch.setattr(catalog, "RETRY_SECONDS", (600,))
    faulty_s3.fail({"kind": "refused", "value": "AccessDenied", **HEAD})
    with pytest.raises(VideoError):
        entry.read()


def test_renewed_credentials_are_used(
    faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_s3.fail()
    file.read_bytes()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")
    file.read_bytes()
    assert [entry["access_key"] for entry in faulty_s3.log()] == ["test"] * 2 + ["renewed"] * 2


# writes


@pytest.mark.parametrize("fault", SERVICE_FAULTS, ids=code_of)
def test_a_write_survives_a_fault(fault: dict[str, Any], faulty_s3: Any, file: Storage) -> None:
    faulty_s3.fail({**fault, "method": "PUT|POST", "times": 1})
    file.write_bytes(b"new")
    assert file.read_bytes() == b"new"


@pytest.mark.usefixtures("one_attempt")
@pytest.mark.parametrize("megabytes", [0, 25])
@pytest.mark.parametrize("fault", SERVICE_FAULTS, ids=code_of)
def test_a_write_that_fails_keeps_the_old_file(
    fault: dict[str, Any], megabytes: int, faulty_s3: Any, file: Storage
) -> None:
    place = Storage.from_uri(file.uri)
    faulty_s3.fail({**fault, "method": "PUT"})
    with pytest.raises(StorageError, match=r"cannot write s3://.*or try later") as caught:
        place.write_bytes(bytes(megabytes << 20 or 1))
    assert not caught.value.is_permanent
    faulty_s3.fail()
    assert place.read_bytes() == DATA


# attempts and credentials


@pytest.mark.parametrize("attempts", [1, 2])
def test_the_number_of_attempts_can_be_set(
    attempts: int, faulty_s3: Any, file: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts))
    for place in (
        Storage.from_uri(file.uri),
        pickle.loads(pickle.dumps(Storage.from_uri(file.uri))),
    ):
        faulty_s3.fail({"kind": "status", "value": 503})
        with pytest.raises(StorageError):
            place.read_bytes()
        assert len(faulty_s3.log()) == attempts


@pytest.mark.parametrize("attempts", ["0", "-1", "many", ""])
def test_a_malformed_number_of_attempts_is_refused(
    attempts: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
    with pytest.raises(ValueError, match=f"AWS_MAX_ATTEMPTS: expected .* got '{attempts}'"):
        Storage.from_uri(s3_bucket)


def test_a_bucket_shares_its_connections(
    faulty_s3: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = Storage.from_uri(f"{faulty_s3.bucket}/a/b")
    assert Storage.from_uri(f"{faulty_s3.bucket}/c").filesystem is behind.filesystem
    assert (
        Storage.from_uri(f"{faulty_s3.bucket}/c?region=eu-west-1").filesystem != behind.filesystem
    )
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_endpoint)
    Storage.from_uri(f"{faulty_s3.bucket}/a/b").write_bytes(b"b")
    assert faulty_s3.log() == []
    assert behind.read_bytes() == b"b"
    assert len(faulty_s3.log()) == 2


def test_only_secrets_of_the_uri_are_pickled(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret of the environment")
    assert b"secret of" not in pickle.dumps(Storage.from_uri(f"{s3_bucket}/a"))
