"""A folder of an object store, or of another file system that has a URI: see `storage`."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow import ArrowInvalid
from pyarrow.fs import (
    AwsStandardS3RetryStrategy,
    FileInfo,
    FileSelector,
    FileSystem,
    FSSpecHandler,
    PyFileSystem,
    S3FileSystem,
    resolve_s3_region,
)

from bdbench.errors import StorageError, UsageError, first_line, in_one_line
from bdbench.files import unfinished

T = TypeVar("T")

OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "az")  # a put is atomic, and a folder needs a bucket around it
READERS = 16  # requests at a time: most of a small one's time is waiting
CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 5, 30, 3  # of S3: a wrong address is told of in seconds, not in minutes
S3_QUERY = ("endpoint_override", "region", "scheme")
CURE = "check the address, the credentials and that the bucket is there"


def opened(uri: str) -> RemotePlace:
    """The place at a URI. Raises UsageError, which shows no secret of it, if there can be none."""
    shown = in_one_line(re.sub(r"[?#].*", "", re.sub(r"(?<=://)[^/?#]*@", "", uri)).rstrip("/"))
    try:
        parts = urlsplit(uri)
        files, path = _file_system(uri)
    except Exception as error:  # pyarrow, fsspec and what fsspec imports have kinds of their own
        reason = in_one_line(first_line(error)).replace(uri, shown)
        raise UsageError(f"{shown}: no storage that can be opened ({reason}); {CURE}") from None
    return RemotePlace(shown, path.rstrip("/"), files, parts.scheme in OBJECT_STORES)


def _file_system(uri: str) -> tuple[FileSystem, str]:
    """The file system of a URI, and the path there. Raises whatever the libraries raise."""
    if urlsplit(uri).scheme == "s3":
        return _s3(uri)
    try:
        return FileSystem.from_uri(uri)
    except ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
    from fsspec.core import url_to_fs

    files, path = url_to_fs(uri)
    return PyFileSystem(FSSpecHandler(files)), path


def _s3(uri: str) -> tuple[FileSystem, str]:
    """As `FileSystem.from_uri`, which cannot set the time that a request may take."""
    parts, options = urlsplit(uri), dict(parse_qsl(urlsplit(uri).query))
    if unknown := sorted(options.keys() - set(S3_QUERY)):
        raise ValueError(f"unknown in its query: {', '.join(unknown)}; known: {', '.join(S3_QUERY)}")
    bucket = parts.netloc.rpartition("@")[2]
    if not bucket:
        raise ValueError("it names no bucket")
    if "endpoint_override" not in options and "region" not in options:
        options["region"] = resolve_s3_region(bucket)
    files = S3FileSystem(
        access_key=parts.username and unquote(parts.username),
        secret_key=parts.password and unquote(parts.password),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **options,
    )
    return files, f"{bucket}{unquote(parts.path)}"


@dataclass(frozen=True)
class RemotePlace:
    """A folder of a file system that pyarrow or fsspec reach. `path` is its path there."""

    shown: str
    path: str
    files: FileSystem = field(repr=False)
    is_object_store: bool

    def __str__(self) -> str:
        return self.shown

    def at(self, name: str) -> str:
        return f"{self.shown}/{name}"

    def sub(self, name: str) -> RemotePlace:
        return replace(self, shown=self.at(name), path=self._path(name))

    def beside(self, name: str) -> RemotePlace:
        parent, _, _ = self.path.rpartition("/")
        if self.is_object_store and not parent:
            raise UsageError(f"{self.shown}: a whole bucket; name a folder in it, such as {self.shown}/run")
        return replace(self, shown=f"{self.shown.rpartition('/')[0]}/{name}", path=f"{parent}/{name}")

    def absolute(self) -> RemotePlace:
        return self

    def prepare(self, flag: str) -> None:
        probe = unfinished(Path()).name
        try:
            self._asked(lambda: self.files.create_dir(self.path, recursive=True))
            self.names()
            self._put(self._path(probe), b"")
            self.remove(probe)
        except OSError as error:
            raise UsageError(f"{flag} {self.shown}: cannot be written to ({error.strerror}); {CURE}") from error

    def names(self) -> list[str]:
        infos = self._asked(lambda: self.files.get_file_info(FileSelector(self.path)))
        return sorted(info.base_name for info in infos)

    def read(self, name: str) -> bytes:
        def content() -> bytes:
            with self.files.open_input_stream(self._path(name)) as stream:
                return stream.read()

        try:
            return self._asked(content)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"{self.at(name)}: cannot be read ({error.strerror}); {CURE}") from error

    def write(self, name: str, content: bytes) -> str:
        temporary = None if self.is_object_store else self._path(unfinished(Path()).name)
        try:
            self._put(temporary or self._path(name), content)
            if temporary:
                self._asked(lambda: self.files.move(temporary, self._path(name)))
        except OSError as error:
            raise self._unwritten(name, error) from error
        return self.at(name)

    def exists(self, name: str) -> bool:
        return self._info(name).is_file

    def stamp(self, name: str) -> None:
        return None

    def modified(self, name: str) -> float | None:
        """When a file was written, in seconds, by the store's clock; None if it is gone or the store does not say."""
        moment = self._info(name).mtime
        return None if moment is None else moment.timestamp()

    def rename(self, name: str, new_name: str) -> None:
        try:
            self._asked(lambda: self.files.move(self._path(name), self._path(new_name)))
        except OSError as error:
            raise self._unwritten(name, error) from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises OSError."""
        with suppress(FileNotFoundError):
            self._asked(lambda: self.files.delete_file(self._path(name)))

    def map(self, function: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(function, names)

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _put(self, path: str, content: bytes) -> None:
        def put() -> None:
            with self.files.open_output_stream(path) as stream:
                stream.write(content)

        self._asked(put)

    def _info(self, name: str) -> FileInfo:
        try:
            return self._asked(lambda: self.files.get_file_info(self._path(name)))
        except OSError as error:
            raise StorageError(f"{self.at(name)}: cannot be read ({error.strerror}); {CURE}") from error

    def _unwritten(self, name: str, error: OSError) -> StorageError:
        return StorageError(
            f"{self.at(name)}: cannot be written ({error.strerror}); what ended before is kept: {CURE}, and run the same "
            "command again"
        )

    @staticmethod
    def _asked(question: Callable[[], T]) -> T:
        """What the libraries answer; whatever they raise is an OSError with a reason in one line."""
        try:
            return question()
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, in_one_line(first_line(error))) from error
        except Exception as error:  # fsspec's kinds are those of many libraries
            raise OSError(errno.EIO, in_one_line(_gist(error))) from error


def _gist(error: Exception) -> str:
    """The last clause of a library's message: Arrow's begin with every name that took part."""
    return first_line(error) if len(str(error)) < 200 else f"{type(error).__name__}: …{str(error).strip()[-200:]}"
