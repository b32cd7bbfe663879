"""Bytes in and out of a URI: a local path or an object store, through pyarrow's filesystems."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

URI_CHARACTERS = "%/:?@!$&'()*+,;=~"
"""What a URI may hold as it is. A # is encoded: it is common in names, and no key has fragments;
brackets are, for pyarrow takes them nowhere."""
ESCAPE = "surrogateescape"
"""How bytes of a local path that are not UTF-8 become part of a str, and bytes again."""
Buffer = bytes | memoryview | mmap
"""What can be written as it lies in memory."""

MAX_ATTEMPTS = 10
"""How often S3 is asked before it counts as failed, unless AWS_MAX_ATTEMPTS says otherwise. The
pauses grow to 20 s, so an outage of a minute is waited for."""
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
"""How long S3 may take for a connection, and how long it may send nothing."""
ERROR_BYTES = 4096
"""More than S3 needs to say what is wrong."""
S3_ENVIRONMENT = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_MAX_ATTEMPTS"),
)
"""What a client takes from the environment when it is made. Credentials it looks up as it goes."""

UNEXPLAINED = re.compile(
    r"AWS Error (ACCESS_DENIED|UNKNOWN \(HTTP status 400\)) during \w+ operation: "
    r"(No response body\.)?\s*$"
)
OF_THE_FILE = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_OBJECT_STATE|NO_SUCH_KEY|RESOURCE_NOT_FOUND)|"
    r"AWS Error .* not valid for the object's storage class"  # it lies in an archive
)
OF_THE_CREDENTIALS = re.compile(
    r"(AWS Error|ExceptionName:) (EXPIRED_TOKEN|ExpiredToken|INVALID_ACCESS_KEY_ID|"
    r"INVALID_CLIENT_TOKEN_ID|InvalidToken|REQUEST_EXPIRED|SIGNATURE_DOES_NOT_MATCH|"
    r"TokenRefreshRequired)"
)
OF_THE_BUCKET = re.compile(r"AWS Error NO_SUCH_BUCKET")
OF_THE_CLOCK = re.compile(r"AWS Error REQUEST_TIME_TOO_SKEWED")
OF_THE_SERVICE = re.compile(
    r"AWS Error (INTERNAL_FAILURE|NETWORK_CONNECTION|REQUEST_TIMEOUT|SERVICE_UNAVAILABLE|"
    r"SLOW_DOWN|THROTTLING|UNKNOWN \(HTTP status 5)"
)
HINTS = {
    "read": "Check that it exists and that this user or role may read it",
    "write": "Check that there is space left and that this user or role may write there",
}
S3_HINTS = {
    OF_THE_CREDENTIALS: "Renew the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
    "AWS_SESSION_TOKEN, or the profile's), or give the machine a role, which renews them by itself",
    OF_THE_BUCKET: "Create the bucket first",
    OF_THE_CLOCK: "Set this machine's clock",
    OF_THE_SERVICE: "It was tried again and again. Check the network and the endpoint "
    "(AWS_ENDPOINT_URL), or try later",
}
LASTING_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class StorageError(OSError):
    """Storage that cannot be read or written; says which URI and what to do."""

    @property
    def is_lasting(self) -> bool:
        """Whether it says something of the file, rather than of the storage, or of who asks, at
        this moment."""
        return OF_THE_FILE.search(str(self)) is not None or isinstance(
            self.__cause__, LASTING_ERRORS
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {"__cause__": self.__cause__}  # crosses processes whole


@dataclass(frozen=True)
class FileInfo:
    """A file below a folder: its path relative to it, and its size in bytes. What is not UTF-8 in
    a local path is escaped as Python does it (PEP 383); `readable` turns it into text."""

    path: str
    size: int


def readable(name: str) -> str:
    """A file's name as text that can be stored: what is not UTF-8 in it is written as `\\xff`."""
    return _native(name).decode(errors="backslashreplace")


class OpenFile:
    """A file that is open for reading; errors are told by `Storage.opened`.

    Attributes:
        size: its bytes.
    """

    def __init__(self, file: pa.NativeFile):
        self._file = file
        self.size: int = file.size()

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """The file from byte `offset` on: `size` bytes, or fewer where it ends; None is all."""
        left = max(self.size - offset, 0)
        return _read_all(self._file, offset, left if size is None else min(size, left))


@dataclass(frozen=True)
class Storage:
    """A place: a filesystem and a path in it. Picklable; holds no secrets but those in its URI.

    Attributes:
        filesystem: any pyarrow filesystem.
        path: the path in it, without a trailing slash.
        uri: what leads here from anywhere: an absolute local path, or a URI, percent-encoded. It
            is text, whatever bytes are in the path.
    """

    filesystem: fs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, uri: str | os.PathLike[str]) -> Self:
        """The place that a local path or URI (`s3://bucket/prefix`, `file:///…`) names.

        S3 credentials, region and endpoint come from the environment (`AWS_…`,
        `AWS_ENDPOINT_URL`) or from the URI's query, as pyarrow takes them. Places in a bucket
        share their connections.

        Raises:
            ValueError: the scheme is unknown, or the URI or AWS_MAX_ATTEMPTS malformed.
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
                f"cannot open {text!r}: {error}. Wanted: a local path or s3://bucket/prefix"
            ) from error
        base, mark, query = text.partition("?")
        return cls(filesystem, path.rstrip("/"), base.rstrip("/") + mark + query)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's filesystem."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def join(self, *names: str) -> Self:
        """The place `names` below this one."""
        path = "/".join([self.path, *names])
        if "://" not in self.uri:
            return type(self)(self.filesystem, path, _local_uri(path))
        base, mark, query = self.uri.partition("?")
        quoted = [quote(name, errors=ESCAPE) for name in names]
        return type(self)(self.filesystem, path, "/".join([base, *quoted]) + mark + query)

    @property
    def parent(self) -> Self:
        """The folder that it lies in."""
        base, mark, query = self.uri.partition("?")
        path = self.path.rpartition("/")[0]
        uri = base.rpartition("/")[0] + mark + query if "://" in self.uri else path
        return type(self)(self.filesystem, path, uri)

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return bool(self._info().type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return bool(self._info().type == fs.FileType.File)

    def version(self) -> tuple[int | None, int | None]:
        """Bytes and time of the last change (ns), if known: another version has others."""
        info = self._info()
        return info.size, info.mtime_ns

    @contextmanager
    def opened(self) -> Iterator[OpenFile]:
        """The file, open for reading in a `with` statement that does nothing else.

        Raises:
            StorageError: it is not there, cannot be read, or became shorter since it was opened.
        """
        with self._said("read"), self.filesystem.open_input_file(_native(self.path)) as file:
            yield OpenFile(file)

    def read_bytes(self, offset: int = 0, size: int | None = None) -> bytes:
        """The file from byte `offset` on: `size` bytes, or fewer where it ends; None is all.

        Raises:
            StorageError: it is not there or cannot be read.
        """
        with self.opened() as file:
            return file.read(offset, size)

    def write_bytes(self, data: Buffer) -> None:
        """Write the whole file, making its folder. A reader sees the old bytes or the new.

        Raises:
            StorageError: it cannot be written.
        """
        with self._said("write"):
            if self.is_local:
                self._write_local(data)
            else:  # an object is seen when it is whole
                self._write(self.path, data)

    def _write_local(self, data: Buffer) -> None:
        self.filesystem.create_dir(_native(self.path.rpartition("/")[0]), recursive=True)
        # a name of its own, for others may write the same file
        part = f"{self.path}.{uuid.uuid4().hex}.part"
        try:
            self._write(part, data)
            os.replace(part, self.path)
        except BaseException:
            with suppress(OSError):
                os.remove(part)
            raise

    def _write(self, path: str, data: Buffer) -> None:
        # or pyarrow would compress what is named .gz
        with self.filesystem.open_output_stream(_native(path), compression=None) as file:
            file.write(data)

    def list_files(self) -> list[FileInfo]:
        """The files below, at any depth, sorted by path; none if there is no such folder.

        Raises:
            StorageError: it cannot be listed.
        """
        return sorted(self._files(self._listed(recursive=True)), key=lambda info: info.path)

    def find_files(self, paths: Sequence[str]) -> list[FileInfo]:
        """Those of the paths below that are files, in their order.

        Raises:
            StorageError: they cannot be looked at.
        """
        with self._said("look at"):
            wanted = [_native(f"{self.path}/{path}") for path in paths]
            return list(self._files(self.filesystem.get_file_info(wanted)))

    def list_folders(self) -> list[str]:
        """Names of the folders right below, sorted; none if there is no such folder."""
        found = [i for i in self._listed() if i.type == fs.FileType.Directory]
        return sorted(_path_of(info).rpartition("/")[2] for info in found)

    def _info(self) -> fs.FileInfo:
        with self._said("look at"):
            return self.filesystem.get_file_info(_native(self.path))

    def _listed(self, recursive: bool = False) -> list[fs.FileInfo]:
        selector = fs.FileSelector(_native(self.path), recursive=recursive, allow_not_found=True)
        with self._said("list"):
            found: list[fs.FileInfo] = self.filesystem.get_file_info(selector)
            return found

    def _files(self, found: Iterable[fs.FileInfo]) -> Iterator[FileInfo]:
        prefix = len(self.path) + 1
        files = (info for info in found if info.type == fs.FileType.File)
        return (FileInfo(_path_of(info)[prefix:], info.size) for info in files)

    def delete_file(self) -> None:
        """Delete the file.

        Raises:
            StorageError: it is not there, or cannot be deleted.
        """
        with self._said("delete"):
            self.filesystem.delete_file(_native(self.path))

    def delete_folder(self) -> None:
        """Delete the folder and all in it."""
        with self._said("delete"):
            self.filesystem.delete_dir(_native(self.path))

    def check_writable(self) -> None:
        """Write, read and delete a small file, so that a run learns at once that it can save.

        Raises:
            StorageError: it cannot.
        """
        probe = self.join(f".probe-{uuid.uuid4().hex}")
        probe.write_bytes(b"ctp")
        probe.delete_file()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.filesystem, self.path, self.uri)

    @contextmanager
    def _said(self, verb: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            said = self._reason(error)
            usual = HINTS["read" if verb in {"read", "list", "look at"} else "write"]
            hints = (hint for pattern, hint in S3_HINTS.items() if pattern.search(said))
            hint = next(hints, usual)
            raise StorageError(f"cannot {verb} {self.uri}: {said.rstrip(' .:')}. {hint}") from error

    def _reason(self, error: OSError) -> str:
        """What is wrong. S3 refuses a look at an object without a reason, and from a read it may
        get lost; credentials that S3 refuses, it refuses to list with, too, and then says so."""
        if UNEXPLAINED.search(str(error)):
            selector = fs.FileSelector(_native(self.path), allow_not_found=True)
            try:
                self.filesystem.get_file_info(selector)
            except OSError as reason:
                if OF_THE_CREDENTIALS.search(str(reason)) or OF_THE_CLOCK.search(str(reason)):
                    return str(reason)
        return str(error)


def _read_all(file: pa.NativeFile, offset: int, size: int) -> bytes:
    """Bytes that did all come.

    pyarrow does not count what S3 sends: if an object is replaced by a shorter one after it was
    opened, what lay in memory would stand for the rest. So see whether the last byte was written,
    and if it stayed what it was, whether it does so again when it was another.
    """
    if not size:
        return b""
    data = pa.allocate_buffer(size)
    with memoryview(data).cast("B") as view:
        for last in (0xB9, 0x46):
            # zeros, for S3's error is read from here, too, and must not end in rubbish
            view[:ERROR_BYTES] = bytes(min(ERROR_BYTES, size))
            view[-1] = last
            file.seek(offset)
            if file.readinto(data) == size and view[-1] != last:
                return bytes(view)
    raise OSError("it became shorter while it was read")


def _native(path: str) -> bytes:
    """A path as the filesystem has it: pyarrow itself takes no str that holds escaped bytes."""
    return path.encode(errors=ESCAPE)


def _path_of(info: fs.FileInfo) -> str:
    try:
        return str(info.path)
    except UnicodeDecodeError as error:  # all that pyarrow gives of such a path
        return error.object.decode(errors=ESCAPE)


def _local_uri(path: str) -> str:
    return path if readable(path) == path else f"file://{quote(path, errors=ESCAPE)}"


def _open(uri: str) -> tuple[fs.FileSystem, str]:
    base, mark, query = uri.partition("?")
    if base.startswith("file:///"):  # pyarrow takes none that is not UTF-8
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
    """One for all places with this bucket and query, for as long as `environment` stays."""
    filesystem, _ = fs.FileSystem.from_uri(uri)
    return _patient(filesystem)


def _patient(filesystem: fs.S3FileSystem) -> fs.S3FileSystem:
    """The same filesystem, which waits for S3 and tries again. Neither a URI nor a pickle can say
    that, but the pickle holds all else, the bucket's region too."""
    _, (options,) = filesystem.__reduce__()
    patience = {
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_max_attempts()),
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": SILENT_SECONDS,
        "allow_delayed_open": True,  # a small object is written by one request, not three
    }
    return fs.S3FileSystem(**(options | patience))


def _max_attempts() -> int:
    text = os.environ.get("AWS_MAX_ATTEMPTS", str(MAX_ATTEMPTS))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"AWS_MAX_ATTEMPTS: wanted a number from 1 on, got {text!r}")
    return int(text)


def _unpickled(kind: type[Storage], filesystem: fs.FileSystem, path: str, uri: str) -> Storage:
    if isinstance(filesystem, fs.S3FileSystem):
        filesystem = _patient(filesystem)
    return kind(filesystem, path, uri)
