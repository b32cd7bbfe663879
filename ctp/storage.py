"""Bytes in and out of a URI: a local path or an object store, through pyarrow's filesystems."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

URI_CHARACTERS = "%/:?[]@!$&'()*+,;=~"
"""What a URI may hold as it is. A # is encoded: it is common in names, and no key has fragments."""


HINTS = {
    "read": "Check that it exists and that this user or role may read it",
    "write": "Check that there is space left and that this user or role may write there",
}


class StorageError(OSError):
    """Storage that cannot be read or written; says which URI and what to do."""

    @property
    def is_lasting(self) -> bool:
        """Whether it says something of the file, rather than of the storage at this moment."""
        is_denied = "ACCESS_DENIED" in str(self)  # as S3 says it
        return is_denied or isinstance(
            self.__cause__,
            FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError,
        )


@dataclass(frozen=True)
class FileInfo:
    """A file below a folder: its path relative to it, and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Storage:
    """A place: a filesystem and a path in it. Picklable; holds no connection secrets of its own.

    Attributes:
        filesystem: any pyarrow filesystem.
        path: the path in it, without a trailing slash.
        uri: what leads here from anywhere: an absolute local path, or a URI, percent-encoded.
    """

    filesystem: fs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, uri: str | os.PathLike[str]) -> Self:
        """The place that a local path or URI (`s3://bucket/prefix`, `file:///…`) names.

        S3 credentials, region and endpoint come from the environment (`AWS_…`,
        `AWS_ENDPOINT_URL`) or from the URI's query, as pyarrow takes them.

        Raises:
            ValueError: the scheme is unknown or the URI malformed.
        """
        text = os.fspath(uri)
        if "://" not in text:
            path = Path(text).expanduser().absolute().as_posix()
            return cls(fs.LocalFileSystem(), path, path)
        text = quote(text, safe=URI_CHARACTERS)
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
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
            return type(self)(self.filesystem, path, path)
        base, mark, query = self.uri.partition("?")
        uri = "/".join([base, *map(quote, names)]) + mark + query
        return type(self)(self.filesystem, path, uri)

    @property
    def parent(self) -> Self:
        """The folder that it lies in."""
        base, mark, query = self.uri.partition("?")
        path = self.path.rpartition("/")[0]
        uri = base.rpartition("/")[0] + mark + query if "://" in self.uri else path
        return type(self)(self.filesystem, path, uri)

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        with self._said("look at"):
            return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Whether it is a file."""
        with self._said("look at"):
            return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.File)

    def read_bytes(self) -> bytes:
        """The whole file.

        Raises:
            StorageError: it is not there or cannot be read.
        """
        with self._said("read"), self.filesystem.open_input_file(self.path) as file:
            return bytes(file.readall())

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file, making its folder. A reader sees the old bytes or the new.

        Raises:
            StorageError: it cannot be written.
        """
        with self._said("write"):
            if self.is_local:
                self._write_local(data)
            else:  # an object is seen when it is whole
                with self.filesystem.open_output_stream(self.path) as file:
                    file.write(data)

    def _write_local(self, data: bytes) -> None:
        self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
        # a name of its own, for others may write the same file
        part = f"{self.path}.{uuid.uuid4().hex}.part"
        try:
            with self.filesystem.open_output_stream(part) as file:
                file.write(data)
            os.replace(part, self.path)
        except BaseException:
            with suppress(OSError):
                os.remove(part)
            raise

    def list_files(self) -> list[FileInfo]:
        """The files below, at any depth, sorted by path; none if there is no such folder.

        Raises:
            StorageError: it cannot be listed.
        """
        selector = fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        with self._said("list"):
            found = self.filesystem.get_file_info(selector)
        prefix = len(self.path) + 1
        return sorted(
            (FileInfo(i.path[prefix:], i.size) for i in found if i.type == fs.FileType.File),
            key=lambda info: info.path,
        )

    def list_folders(self) -> list[str]:
        """Names of the folders right below, sorted; none if there is no such folder."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        with self._said("list"):
            found = self.filesystem.get_file_info(selector)
        return sorted(i.base_name for i in found if i.type == fs.FileType.Directory)

    def delete_folder(self) -> None:
        """Delete the folder and all in it."""
        with self._said("delete"):
            self.filesystem.delete_dir(self.path)

    def check_writable(self) -> None:
        """Write, read and delete a small file, so that a run learns at once that it can save.

        Raises:
            StorageError: it cannot.
        """
        probe = self.join(f".probe-{uuid.uuid4().hex}")
        probe.write_bytes(b"ctp")
        with self._said("write"):
            self.filesystem.delete_file(probe.path)

    @contextmanager
    def _said(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            hint = HINTS["read" if verb in {"read", "list", "look at"} else "write"]
            raise StorageError(f"cannot {verb} {self.uri}: {error}. {hint}") from error
