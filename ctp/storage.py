"""Read and write the bytes at a URI, local or in an object store, with pyarrow's filesystems."""

from __future__ import annotations

import io
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from threading import Lock
from typing import Any, Self
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

URI_CHARACTERS = "%/:?@!$&'()*+,;=~"
"""Characters of a URI that are not encoded. `#` is, because it is common in names and keys have no
fragments; brackets are, because pyarrow rejects them."""
ESCAPE = "surrogateescape"
"""The error handler that keeps bytes of a local path that are not UTF-8 in a str (PEP 383)."""
Buffer = bytes | memoryview | mmap

MAX_ATTEMPTS = 10
"""Attempts of a request to S3, unless AWS_MAX_ATTEMPTS is set. The pauses between them grow to
20 s, so that a request survives an outage of a minute."""
CONNECT_TIMEOUT_SECONDS = 10.0
REQUEST_TIMEOUT_SECONDS = 30.0
"""How long S3 may send nothing."""
MAX_S3_ERROR_BYTES = 4096
"""Upper bound on the length of an error response of S3."""
SETTLE_SECONDS = 3.0
"""Upper bound on the time in which a storage without conditional writes shows a new file to all."""
S3_ENVIRONMENT = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_MAX_ATTEMPTS"),
)
"""Variables that a client reads once, when it is created. It reads credentials again later."""

HTTP_EXISTS = (409, 412)
"""Another request wrote the object: at the same time, or before."""
HTTP_NOT_IMPLEMENTED = 501

NO_REASON = re.compile(
    r"AWS Error (ACCESS_DENIED|UNKNOWN \(HTTP status 400\)) during \w+ operation: "
    r"(No response body\.)?\s*$"
)
PERMANENT_ERROR = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_OBJECT_STATE|NO_SUCH_KEY|RESOURCE_NOT_FOUND)|"
    r"AWS Error .* not valid for the object's storage class"  # it is archived
)
CREDENTIALS_ERROR = re.compile(
    r"(AWS Error|ExceptionName:) (EXPIRED_TOKEN|ExpiredToken|INVALID_ACCESS_KEY_ID|"
    r"INVALID_CLIENT_TOKEN_ID|InvalidToken|REQUEST_EXPIRED|SIGNATURE_DOES_NOT_MATCH|"
    r"TokenRefreshRequired)"
)
BUCKET_ERROR = re.compile(r"AWS Error NO_SUCH_BUCKET")
CLOCK_ERROR = re.compile(r"AWS Error REQUEST_TIME_TOO_SKEWED")
SERVICE_ERROR = re.compile(
    r"AWS Error (INTERNAL_FAILURE|NETWORK_CONNECTION|REQUEST_TIMEOUT|SERVICE_UNAVAILABLE|"
    r"SLOW_DOWN|THROTTLING|UNKNOWN \(HTTP status 5)"
)
HINTS = {
    "read": "Check that it exists and that this user or role may read it",
    "write": "Check that there is space left and that this user or role may write there",
}
S3_HINTS = {
    CREDENTIALS_ERROR: "Renew the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
    "AWS_SESSION_TOKEN, or the profile's), or give the machine a role, which renews them itself",
    BUCKET_ERROR: "Create the bucket first",
    CLOCK_ERROR: "Set this machine's clock",
    SERVICE_ERROR: "All attempts failed. Check the network and the endpoint (AWS_ENDPOINT_URL), "
    "or try later",
}
PERMANENT_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class StorageError(OSError):
    """A URI that cannot be read or written; the message names it and says what to do."""

    @property
    def is_permanent(self) -> bool:
        """Return whether the file is the reason, so that a retry would fail too.

        Otherwise the reason is the storage or the credentials at this moment.
        """
        return PERMANENT_ERROR.search(str(self)) is not None or isinstance(
            self.__cause__, PERMANENT_ERRORS
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {"__cause__": self.__cause__}  # pickle drops the cause


def temporary_file_error(what: str, error: OSError) -> StorageError:
    """Return the error of a temporary file that cannot be written, with a hint.

    Args:
        what: the file, e.g. "a shard".
        error: of the disk.
    """
    return StorageError(
        f"cannot write {what} to {tempfile.gettempdir()}: {error}. {HINTS['write']}, or set TMPDIR "
        "to another folder"
    )


class FileChangedError(StorageError):
    """A file has changed since it was opened."""

    @property
    def is_permanent(self) -> bool:
        """Return True: the file is not the one that was opened, and will not be it again."""
        return True


@dataclass(frozen=True)
class FileInfo:
    """A file below a folder.

    Attributes:
        path: relative to the folder. Bytes that are not UTF-8 are escaped as in PEP 383; `readable`
            makes text of them.
        size: bytes, or None if it was not looked up.
    """

    path: str
    size: int | None


def readable(name: str) -> str:
    """Return a file name as valid text: bytes that are not UTF-8 become `\\xff`."""
    return _native(name).decode(errors="backslashreplace")


class ReadCounter:
    """Counts the bytes that this process reads, for metrics."""

    def __init__(self) -> None:
        self._lock, self._count = Lock(), 0

    def add(self, count: int) -> None:
        """Add to the count."""
        with self._lock:
            self._count += count

    def take(self) -> int:
        """Return the count since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count


BYTES_READ = ReadCounter()
"""Counts the bytes of all files and objects that were read."""


class OpenFile:
    """A file that is open for reading; `Storage.open` turns its errors into StorageError.

    Attributes:
        size: bytes of the file.
    """

    def __init__(self, file: pa.NativeFile):
        self._file = file
        self.size: int = file.size()

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from byte `offset` on, fewer at the file's end; None means all."""
        left = max(self.size - offset, 0)
        data = _read_all(self._file, offset, left if size is None else min(size, left))
        BYTES_READ.add(len(data))
        return data


class WatchedFile:
    """A file of which parts are read over a long time, and whose changes are noticed.

    Attributes:
        size: bytes of the file.
        version: identifies its content.
    """

    def __init__(self, place: Storage):
        """Open a file.

        Raises:
            StorageError: it does not exist or cannot be read.
        """
        self._place = place
        self._file, self.version = self._open()
        self._is_checked = True
        self.size: int = self._file.size()

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from byte `offset` on, fewer at the file's end.

        Raises:
            FileChangedError: they cannot be read, because the file has changed.
            StorageError: they cannot be read.
        """
        self._is_checked = False
        try:
            with self._place.storage_errors("read"):
                return OpenFile(self._file).read(offset, size)
        except StorageError:
            self._reopen()  # for the next try
            raise

    def check(self) -> None:
        """Check that the file did not change before the last `read`.

        Raises:
            FileChangedError: it did, so that the parts may belong to different files.
            StorageError: it does not exist any more, or cannot be read.
        """
        if not self._is_checked:
            self._reopen()
            self._is_checked = True

    def _reopen(self) -> None:
        self._file, version = self._open()
        if version != self.version:
            raise FileChangedError(f"{self._place.uri} has changed since it was opened")

    def _open(self) -> tuple[pa.NativeFile, str]:
        with self._place.storage_errors("read"):
            is_s3 = isinstance(self._place.filesystem, fs.S3FileSystem)
            # before opening: if it is replaced between the two, the next check fails
            version = "" if is_s3 else repr(self._place.version())
            file = self._place.filesystem.open_input_file(_native(self._place.path))
            # S3 gives the version with the size, by the same request
            return file, repr(sorted(file.metadata().items())) if is_s3 else version


class SeekableFile(io.RawIOBase):
    """An `OpenFile` as a Python file object. Wrap it in `io.BufferedReader` to read ahead."""

    def __init__(self, file: OpenFile):
        super().__init__()
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@dataclass(frozen=True)
class Storage:
    """A file or folder, local or in an object store. Picklable.

    Attributes:
        filesystem: any pyarrow filesystem.
        path: the path in it, without a trailing slash.
        uri: the absolute local path, or the URI, percent-encoded. It is valid text even if the path
            is not UTF-8, and holds no secrets except those it was created with.
    """

    filesystem: fs.FileSystem
    path: str
    uri: str

    @classmethod
    def from_uri(cls, uri: str | os.PathLike[str]) -> Self:
        """Create from a local path or a URI (`s3://bucket/prefix`, `file:///…`).

        S3 credentials, region and endpoint come from the environment (`AWS_…`,
        `AWS_ENDPOINT_URL`) or from the URI's query, as documented by pyarrow. Objects with the
        same bucket and query share their connections.

        Raises:
            ValueError: the scheme is unknown, or the URI or AWS_MAX_ATTEMPTS is malformed.
        """
        text = os.fspath(uri)
        if "://" not in text:
            path = Path(text).expanduser().absolute().as_posix()
            return cls(fs.LocalFileSystem(), path, _local_uri(path))
        text = quote(text, safe=URI_CHARACTERS, errors=ESCAPE)
        try:
            filesystem, path = _open(text)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"cannot open {text!r}: {error}. Expected a local path or s3://bucket/prefix"
            ) from error
        base, mark, query = text.partition("?")
        return cls(filesystem, path.rstrip("/"), base.rstrip("/") + mark + query)

    @property
    def is_local(self) -> bool:
        """Return whether it is on this machine's filesystem."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def join(self, *names: str) -> Self:
        """Return the file or folder `names` below this folder."""
        quoted = [quote(name, errors=ESCAPE) for name in names]
        path = "/".join([self.path, *names])
        return self._at(path, lambda uri: "/".join([uri, *quoted]))

    @property
    def parent(self) -> Self:
        """Return the folder that contains it."""
        return self._at(self.path.rpartition("/")[0], lambda uri: uri.rpartition("/")[0])

    def _at(self, path: str, change: Callable[[str], str]) -> Self:
        """Return another path of the filesystem; `change` makes the same change to a URI."""
        if "://" not in self.uri:
            return type(self)(self.filesystem, path, _local_uri(path))
        base, mark, query = self.uri.partition("?")
        return type(self)(self.filesystem, path, change(base) + mark + query)

    def exists(self) -> bool:
        """Return whether there is such a file or folder."""
        return bool(self._info().type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return bool(self._info().type == fs.FileType.File)

    def version(self) -> tuple[int | None, int | None]:
        """Return size in bytes and time of the last change in ns, which identify a version.

        Either is None if unknown.
        """
        info = self._info()
        return info.size, info.mtime_ns

    @contextmanager
    def open(self) -> Iterator[OpenFile]:
        """Open the file for reading, in a `with` statement that does nothing else.

        Raises:
            StorageError: it does not exist, cannot be read, or became shorter since it was opened.
        """
        with (
            self.storage_errors("read"),
            self.filesystem.open_input_file(_native(self.path)) as file,
        ):
            yield OpenFile(file)

    def read_bytes(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes from byte `offset` on, fewer at the file's end; None means all.

        Raises:
            StorageError: the file does not exist or cannot be read.
        """
        with self.open() as file:
            return file.read(offset, size)

    def write_bytes(self, data: Buffer) -> None:
        """Write the whole file and create its folder. A reader sees either the old or new bytes.

        Raises:
            StorageError: the file cannot be written.
        """
        with self.storage_errors("write"):
            if self.is_local:
                self._write_local(data)
            else:  # an object becomes visible when it is whole
                self._write(self.path, data)

    def create(self, data: bytes) -> bool:
        """Write a new file, unless there is one; of several processes that try, one succeeds.

        Locally this is an exclusive open, which NFS has too. On S3 it is a conditional put. A
        storage that has none gets the file, and after `SETTLE_SECONDS` the last one counts.

        Args:
            data: the whole file. It must differ from what any other process would write: a reply
                that is lost makes this process find its own file.

        Returns:
            whether the file that is there is this one.

        Raises:
            StorageError: the file cannot be written.
        """
        with self.storage_errors("write"):
            if self.is_local:
                return self._create_local(data)
            if isinstance(self.filesystem, fs.S3FileSystem):
                created = self._put_if_absent(data)
                # an old server ignores the condition; then the same put succeeds again
                if created is False or (created and not self._put_if_absent(data)):
                    return self.read_bytes() == data
            elif self.exists():
                return self.read_bytes() == data
            self._write(self.path, data)
            time.sleep(SETTLE_SECONDS)
            return self.read_bytes() == data

    def _create_local(self, data: bytes) -> bool:
        self.filesystem.create_dir(_native(self.path.rpartition("/")[0]), recursive=True)
        try:
            with open(self.path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return self.read_bytes() == data  # NFS may have repeated a request that succeeded
        return True

    def _put_if_absent(self, data: bytes) -> bool | None:
        """Put an object unless there is one; pyarrow has no conditional put.

        Returns:
            whether it was put; None if the server does not know the condition.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # most processes need no boto3

        bucket, _, key = self.path.partition("/")
        try:
            _s3_client(self.filesystem).put_object(
                Bucket=bucket, Key=key, Body=data, IfNoneMatch="*"
            )
        except BotoCoreError as error:
            raise OSError(str(error)) from error
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in HTTP_EXISTS:
                return False
            if status == HTTP_NOT_IMPLEMENTED:
                return None
            raise OSError(str(error)) from error
        return True

    def _write_local(self, data: Buffer) -> None:
        self.filesystem.create_dir(_native(self.path.rpartition("/")[0]), recursive=True)
        # a unique name, because others may write the same file
        # in the same folder, since a rename across disks is a copy
        part = f"{self.path}.{uuid.uuid4().hex}.part"
        try:
            self._write(part, data)
            os.replace(part, self.path)
        except BaseException:
            with suppress(OSError):
                os.remove(part)
            raise

    def _write(self, path: str, data: Buffer) -> None:
        # by default, pyarrow compresses files whose names end in .gz
        with self.filesystem.open_output_stream(_native(path), compression=None) as file:
            file.write(data)

    def list_files(self) -> list[FileInfo]:
        """Return the files below, at any depth, sorted by path; none if the folder does not exist.

        Raises:
            StorageError: the folder cannot be listed.
        """
        return sorted(self._files(self._list(recursive=True)), key=lambda info: info.path)

    def find_files(self, paths: Sequence[str]) -> list[FileInfo]:
        """Return those of the paths below this folder that are files, in the given order.

        Raises:
            StorageError: they cannot be looked up.
        """
        with self.storage_errors("look up"):
            wanted = [_native(f"{self.path}/{path}") for path in paths]
            return list(self._files(self.filesystem.get_file_info(wanted)))

    def list_folders(self) -> list[str]:
        """Return the sorted names of the subfolders; none if the folder does not exist."""
        found = [i for i in self._list() if i.type == fs.FileType.Directory]
        return sorted(_path_of(info).rpartition("/")[2] for info in found)

    def forget_listing(self) -> None:
        """Let the next look at this local folder see what other machines have written to it.

        An NFS client may answer from its cache for up to a minute. A request that changes the
        folder brings its state from the server.
        """
        if self.is_local:
            with suppress(OSError):  # it does not exist, or may only be read
                os.utime(self.path)

    def _info(self) -> fs.FileInfo:
        with self.storage_errors("look up"):
            return self.filesystem.get_file_info(_native(self.path))

    def _list(self, recursive: bool = False) -> list[fs.FileInfo]:
        selector = fs.FileSelector(_native(self.path), recursive=recursive, allow_not_found=True)
        with self.storage_errors("list"):
            found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
            return found

    def _files(self, found: Iterable[fs.FileInfo]) -> Iterator[FileInfo]:
        prefix = len(self.path) + 1
        files = (info for info in found if info.type == fs.FileType.File)
        return (FileInfo(_path_of(info)[prefix:], info.size) for info in files)

    def delete_file(self) -> None:
        """Delete the file.

        Raises:
            StorageError: it does not exist or cannot be deleted.
        """
        with self.storage_errors("delete"):
            self.filesystem.delete_file(_native(self.path))

    def delete_folder(self) -> None:
        """Delete the folder and its contents."""
        with self.storage_errors("delete"):
            self.filesystem.delete_dir(_native(self.path))

    def check_writable(self) -> None:
        """Write and delete a small file, so that a run fails at its start if it cannot save.

        Raises:
            StorageError: the folder cannot be written to.
        """
        probe = self.join(f".probe-{uuid.uuid4().hex}")
        probe.write_bytes(b"ctp")
        probe.delete_file()

    def check_output(self) -> None:
        """Check that a job can write to this folder, and delete it if it was made for this: a job
        that fails later leaves no empty folder. No other process may write to it meanwhile.

        Raises:
            StorageError: see `check_writable`.
        """
        missing, path = list[str](), self.path
        while self.is_local and path and not os.path.lexists(path):
            missing.append(path)
            path = os.path.dirname(path)
        self.check_writable()
        for folder in missing:  # the innermost first
            with suppress(OSError):  # it is not empty
                os.rmdir(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.filesystem, self.path, self.uri)

    @contextmanager
    def storage_errors(self, verb: str) -> Iterator[None]:
        """Turn OSError into StorageError with the URI, the reason and a hint."""
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            reason = self._reason(error)
            default = HINTS["read" if verb in {"read", "list", "look up"} else "write"]
            hints = (hint for pattern, hint in S3_HINTS.items() if pattern.search(reason))
            hint = next(hints, default)
            raise StorageError(
                f"cannot {verb} {self.uri}: {reason.rstrip(' .:')}. {hint}"
            ) from error

    def _reason(self, error: OSError) -> str:
        """Return the reason for an error, asking S3 again if it gave none.

        A HEAD request that S3 refuses has no body, and that of a GET may get lost. If the
        credentials or the clock are wrong, listing fails as well, and its body says why.
        """
        if NO_REASON.search(str(error)):
            selector = fs.FileSelector(_native(self.path), allow_not_found=True)
            try:
                self.filesystem.get_file_info(selector)
            except OSError as second:
                if CREDENTIALS_ERROR.search(str(second)) or CLOCK_ERROR.search(str(second)):
                    return str(second)
        return str(error)


def _read_all(file: pa.NativeFile, offset: int, size: int) -> bytes:
    """Read `size` bytes, or fail if not all arrive.

    pyarrow does not count the bytes that S3 sends. If an object is replaced by a shorter one after
    it was opened, the end of the buffer is never written. To detect this, set the buffer's last
    byte before reading and compare it afterwards, with a second value if it is unchanged.
    """
    if not size:
        return b""
    # bytes that can be written to: getvalue() does not copy them, which matters for large videos
    data = io.BytesIO(bytes(size))
    with data.getbuffer() as view:
        is_whole = _read_into(view, file, offset)
    if not is_whole:
        raise OSError("it became shorter while it was read")
    return data.getvalue()


def _read_into(view: memoryview, file: pa.NativeFile, offset: int) -> bool:
    """Fill a buffer from byte `offset` on; return whether all bytes arrived."""
    for last in (0xB9, 0x46):
        # an error response is read into the same buffer, and its text must end in zeros
        view[:MAX_S3_ERROR_BYTES] = bytes(min(MAX_S3_ERROR_BYTES, len(view)))
        view[-1] = last
        file.seek(offset)
        if file.readinto(view) == len(view) and view[-1] != last:
            return True
    return False


def _native(path: str) -> bytes:
    """Return a path as bytes, because pyarrow rejects a str with escaped bytes."""
    return path.encode(errors=ESCAPE)


def _path_of(info: fs.FileInfo) -> str:
    try:
        return str(info.path)
    except UnicodeDecodeError as error:  # the only way to get such a path from pyarrow
        return error.object.decode(errors=ESCAPE)


def _local_uri(path: str) -> str:
    return path if readable(path) == path else f"file://{quote(path, errors=ESCAPE)}"


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    base, mark, query = uri.partition("?")
    if base.startswith("file:///"):  # pyarrow requires UTF-8
        return fs.LocalFileSystem(), unquote(base.removeprefix("file://"), errors=ESCAPE)
    if not base.startswith("s3://"):
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    authority, _, path = base.removeprefix("s3://").partition("/")
    environment = tuple(map(os.environ.get, S3_ENVIRONMENT))
    filesystem = _s3_filesystem(f"s3://{authority}/{mark}{query}", environment)
    return filesystem, unquote(f"{authority.rpartition('@')[2]}/{path}")


@lru_cache(maxsize=64)
def _s3_filesystem(uri: str, environment: tuple[str | None, ...]) -> fs.S3FileSystem:
    """Return the filesystem of a bucket and query, which is shared while `environment` stays."""
    filesystem, _ = fs.FileSystem.from_uri(uri)
    return _with_retries(filesystem)


def _with_retries(filesystem: fs.S3FileSystem) -> fs.S3FileSystem:
    """Return the same filesystem with timeouts and retries.

    Neither a URI nor a pickle can hold these. The pickle holds all other options, also the bucket's
    region.
    """
    _, (options,) = filesystem.__reduce__()
    retries = {
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_max_attempts()),
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "request_timeout": REQUEST_TIMEOUT_SECONDS,
        "allow_delayed_open": True,  # a small object is written by one request instead of three
    }
    return fs.S3FileSystem(**(options | retries))


def _s3_client(filesystem: fs.S3FileSystem) -> Any:
    """Return a boto3 client with the same endpoint, region and credentials."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    _, (options,) = filesystem.__reduce__()
    endpoint = options["endpoint_override"]
    if endpoint and "://" not in endpoint:
        endpoint = f"{options['scheme']}://{endpoint}"
    style = {"addressing_style": "virtual"} if options["force_virtual_addressing"] else None
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=REQUEST_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _max_attempts()},
        signature_version=UNSIGNED if options["anonymous"] else None,
        s3=style,
    )
    return boto3.session.Session().client(
        "s3",
        config=config,
        endpoint_url=endpoint or None,
        region_name=options["region"] or None,
        # those of the environment or the role, if the URI has none
        aws_access_key_id=options["access_key"] or None,
        aws_secret_access_key=options["secret_key"] or None,
        aws_session_token=options["session_token"] or None,
    )


def _max_attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS", str(MAX_ATTEMPTS))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"AWS_MAX_ATTEMPTS: expected a number of at least 1, got {text!r}")
    return int(text)


def _unpickled(kind: type[Storage], filesystem: fs.FileSystem, path: str, uri: str) -> Storage:
    if isinstance(filesystem, fs.S3FileSystem):
        filesystem = _with_retries(filesystem)
    return kind(filesystem, path, uri)
