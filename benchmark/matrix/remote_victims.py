"""Victims that lie in an object store or another place that no process opens as a folder: they are fetched and sent as a whole.

<place>/<key>/    the files of `victim_store`

meta.json is written last and names the SHA-256 of each other file: without it there is no victim. Processes work on local
stores. Who holds the run's lock fetches for them and sends what they made.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from bdbench.errors import StorageError
from bdbench.matrix.remote_place import RemotePlace
from bdbench.matrix.storage import LocalPlace, Place
from bdbench.matrix.victim_store import META, VictimStore, checked_meta, warn_of_damage

MOST_VICTIMS = 4  # kept at hand at a time, in a folder or in Ray's memory; one of base size takes 440 MB


class RemoteVictims:
    """Victims by key in a place that is no folder here. Raises StorageError where the place does not answer."""

    def __init__(self, place: RemotePlace) -> None:
        self._place = place
        self._damaged: set[str] = set()  # as found by this process: nothing but reading all of a victim shows it

    def prepare(self) -> Self:
        """Make the place. Raises UsageError if it cannot be listed or written to."""
        self._place.prepare("--victims")
        return self

    def sweep(self) -> None:
        """Files that were sent without a meta.json stay: they are written over when their victim is made."""

    def is_whole(self, key: str) -> bool:
        """Whether the victim of this key is there, as its meta.json says; what its files hold only `pack` knows."""
        return key not in self._damaged and self._meta(key) is not None

    def pack(self, key: str) -> dict[str, bytes] | None:
        """The files of a victim by name; None, with a warning, if one is gone or has another SHA-256 than meta.json says."""
        meta_and_content = self._meta(key)
        if meta_and_content is None:
            return None
        (meta, content), home, files = meta_and_content, self._place.sub(key), {}
        for name, digest in meta["sha256"].items():
            try:
                files[name] = home.read(name)
            except FileNotFoundError:
                files[name] = b""
            if hashlib.sha256(files[name]).hexdigest() != digest:
                warn_of_damage(key, [name])
                self._damaged.add(key)
                return None
        return files | {META: content}

    def unpack(self, key: str, files: Mapping[str, bytes]) -> None:
        """Send a victim that was packed, meta.json last. A whole copy that another run sent meanwhile stays."""
        if self.is_whole(key):
            return
        home = self._place.sub(key)
        try:
            home.remove(META)
        except OSError as error:
            raise StorageError(f"{home.at(META)}: cannot be written ({error.strerror})") from error
        for name in sorted(files.keys() - {META}):
            home.write(name, files[name])
        home.write(META, files[META])
        self._damaged.discard(key)

    def _meta(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """What meta.json says, and its content; None without one, or, with a warning, if it is damaged or a file is gone."""
        home = self._place.sub(key)
        try:
            content = home.read(META)
            names = home.names()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{home}: cannot be read ({error.strerror})") from error
        meta, problems = checked_meta(key, content, names)
        if problems:
            warn_of_damage(key, problems)
            return None
        return meta, content


AnyStore = VictimStore | RemoteVictims


def victims_at(place: Place) -> AnyStore:
    """The victims in a place."""
    return VictimStore(place.folder) if isinstance(place, LocalPlace) else RemoteVictims(place)


class Errands:
    """Fetches victims into the folder that this process works on, and sends those that it made.

    The folder holds MOST_VICTIMS at a time.
    """

    def __init__(self, remote: RemoteVictims, folder: Path) -> None:
        self._remote, self._folder, self._store = remote, folder, VictimStore(folder)

    def has(self, key: str) -> bool:
        """Whether the victim of this key is stored already."""
        return self._remote.is_whole(key)

    def fetch(self, keys: Iterable[str]) -> None:
        """Put these victims into the folder. One that is gone or damaged stays away, and who loads it will say so."""
        keys = list(keys)
        for key in keys:
            if not self._store.is_whole(key) and (files := self._remote.pack(key)) is not None:
                self._store.unpack(key, files)
        self._tidy(keys)

    def send(self, key: str) -> None:
        """Store the victim that this process has just made. Raises StorageError if it cannot be written."""
        files = self._store.pack(key)
        if files is None:
            raise StorageError(f"{self._folder / key}: the victim is gone or damaged; run the same command again")
        self._remote.unpack(key, files)

    def _tidy(self, needed: Iterable[str]) -> None:
        """Remove the oldest victims of the folder beyond MOST_VICTIMS, but none that is `needed`."""
        if not self._folder.is_dir():
            return
        others = sorted(
            (home for home in self._folder.iterdir() if home.name not in set(needed)), key=lambda home: home.stat().st_mtime
        )
        for home in others[:-MOST_VICTIMS]:
            shutil.rmtree(home, ignore_errors=True)
