"""`FolderStore`: a folder for each download, below a root that a fleet shares."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import msgspec

from pyregistry.errors import ClaimLost, ConfigurationError, InvalidArgument
from pyregistry.models import Claim, ModelRecord, ModelRef
from pyregistry.stores import disk, manifest, mark, staged
from pyregistry.stores.disk import log
from pyregistry.stores.mark import CacheMark
from pyregistry.stores.names import (
    BY_NAME,
    FILES,
    MANIFEST,
    OURS,
    TOKEN,
    folder_of,
    former_folder_of,
    manifest_of,
    plain,
)
from pyregistry.stores.probe import probe
from pyregistry.stores.sharing import Sharing, make

Publish = Literal["rename", "manifest"]

_RENAME_AGAIN = 10  # tries; a sweep may remove the empty folder of a model just before the rename into it


class Published(msgspec.Struct, frozen=True):
    """The published files of a model.

    Attributes:
        location: Folder of the files, relative to the root, with ``/`` between its parts.
        size_bytes: Total size of the files in bytes. The targets of symbolic links do not count.
    """

    location: str
    size_bytes: int


class FolderStore:
    """A folder for each model, below a root that a fleet shares. All of it blocks.

    What is made below the root gets its mode and group, whatever the umask. Each `OSError` names its path.

    Attributes:
        root: the root, as an absolute path.

    Args:
        root: the folder that the fleet shares. It must be there.
        publish: how files come to be seen. ``"rename"``, the default: a staging folder is renamed. ``"manifest"``, for
            mounts that can't rename a folder: files are downloaded where they stay, and count once a list of
            them is written. Records of both kinds may share a root, and every `FolderStore` reads both.
        outside_links: whether a symbolic link may lead out of a download. Defaults to no: the download then fails.
        by_name: whether ``<root>/by-name/<model>`` links to the newest files of each model, for people.

    Raises:
        ConfigurationError: the root is not there, or is not a folder.
        InvalidArgument: `publish` is another word.
    """

    __slots__ = ("_by_name", "_outside_links", "_publish", "root")

    root: Path

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        publish: Publish = "rename",
        outside_links: bool = False,
        by_name: bool = False,
    ) -> None:
        if publish not in get_args(Publish):
            raise InvalidArgument("publish", f"must be one of {', '.join(get_args(Publish))}")
        self.root = Path(root).absolute()  # not resolved, because the target of a link may change later
        self._publish = publish
        self._outside_links = outside_links
        self._by_name = by_name
        if not self.root.is_dir():
            raise ConfigurationError(f"the root of the store is not a folder: {self.root}")

    def check(self) -> None:
        """Try the operations of a download below the root: make, flush, rename and remove folders and files.

        Any number of processes may check at once. The check removes its files. A check one hour later removes the
        leftovers of a killed process.

        Raises:
            LocalFault: An operation fails on this machine.
        """
        probe(self.root, rename=self._publish == "rename")

    # A download

    def staging(self, claim: Claim) -> Path:
        """Return the staging folder of a claim, made if needed. Idempotent; it keeps the folder's content.

        Raises:
            OSError: The folder can't be made.
        """
        folder = self._staging(folder_of(claim.ref), claim.token)
        make(self.root, *folder.relative_to(self.root).parts)
        Sharing.of(self.root).pass_on(folder)
        return folder

    def publish(self, claim: Claim, prove: Callable[[], bool]) -> Published:
        """Make the staged files durable, then visible by one rename or one manifest. Idempotent.

        First, folders and files get the rights of the root. Absolute links to files of the download become relative.

        Args:
            claim: Claim of the download.
            prove: Function that renews the claim, called last before the files are visible. It returns ``False`` if
                the claim is lost.

        Returns:
            The location and size of the published files.

        Raises:
            ClaimLost: `prove` returned ``False``. The staged files stay.
            InvalidArgument: Only empty folders were staged, a link is dangling, or a forbidden link leads out of the
                folder.
            FileExistsError: This claim has published already, and has staged more since.
            FileNotFoundError: The staging folder was never made, or was discarded or swept.
            OSError: An operation on the disk failed. Files that can't be made durable are not published.
        """
        model = folder_of(claim.ref)
        staging, target = self._staging(model, claim.token), self.root / model / str(claim.token)
        if self._publish == "manifest":
            published = self._write_manifest(claim, staging, prove)
        else:
            published = self._rename(claim, staging, target, prove)
        # Repeated on a second call, because the first may have been interrupted before this line.
        disk.sync(target.parent)
        disk.sync(self.root)
        self._remove_empty(model)
        return published

    def discard(self, claim: Claim) -> None:
        """Remove the staged files of a claim, if any. A sweep removes what remains. Idempotent."""
        model = folder_of(claim.ref)
        staging = self._staging(model, claim.token)
        listed = manifest_of(staging)
        if listed is None or manifest.read(listed) is None:
            self._remove_files(staging)
            self._remove_empty(model)

    # Published files

    def path(self, record: ModelRecord) -> Path:
        """Return the absolute path of a model's files.

        Raises:
            InvalidArgument: The record has no location, or one that is not below the root.
        """
        return self.root / plain(record.location)

    def contains(self, record: ModelRecord) -> bool:
        """Return whether a model's folder exists, as far as this machine knows.

        A folder with a manifest must contain all files that the manifest lists.

        Raises:
            InvalidArgument: As for `path`.
            OSError: The folder can't be examined (a dead mount, no rights). The files may exist.
        """
        return self._is_whole(self.path(record))

    def look_again(self, record: ModelRecord) -> bool:
        """Check again like `contains`, after listing the parent folders.

        An NFS client caches negative lookups for a while. A listing makes it query the server.

        Raises:
            InvalidArgument: As for `path`.
            OSError: The folder can't be examined, or the root does not exist.
        """
        path = self.path(record)
        folder = self.root
        os.listdir(folder)  # noqa: PTH208  # only for its effect: it reads the folder to its end
        with suppress(FileNotFoundError, NotADirectoryError):
            for part in path.relative_to(self.root).parts[:-1]:
                folder /= part
                os.listdir(folder)  # noqa: PTH208  # as above
        return self._is_whole(path)

    def find(self, ref: ModelRef) -> Published | None:
        """Find the newest files of a model, for use while the registry is unavailable.

        Returns:
            The newest files, or ``None`` if there are none.

        Raises:
            InvalidArgument: `ref` is invalid or has no provider.
        """
        for _, path in self._published(ref):
            with suppress(FileNotFoundError):  # swept or evicted meanwhile
                return Published(path.relative_to(self.root).as_posix(), disk.size(path))
        return None

    # Leftovers

    def sweep(self, ref: ModelRef, token: int, location: str | None) -> list[Path]:
        """Remove the leftovers of a model's dead claims. Failures are logged and left to the next sweep.

        Args:
            ref: The model, with its provider.
            token: Token of the record. Only folders with a smaller token are removed.
            location: Location of the record, whose files stay. With ``None``, only unpublished files are removed:
                during a claim the record does not name the last files.

        Returns:
            The folders that were moved away or removed.

        Raises:
            InvalidArgument: `ref` is invalid or has no provider, or `location` is not below the root.
        """
        models = self._folders(ref)
        kept = None if location is None else PurePosixPath(*plain(location).parts[:2])
        if kept is not None and self._by_name:
            self._link_by_name(ref)
        doomed = [each for model in models for each in _leftovers(self.root, model, kept)]
        removed = []
        for of, path in sorted(doomed):
            if of >= token or path.is_symlink():  # the store makes no links here, so another program owns it
                continue
            if self._clear(path, of):
                removed.append(path)
        for model in models:
            trash = self.root / OURS / "trash" / model
            for path in disk.entries(trash):  # includes leftovers of earlier sweeps
                disk.remove(path)
            self._remove_empty(model)
        return removed

    # The mark of the cache

    def read_mark(self) -> CacheMark | None:
        """Return the mark of the root, or ``None`` if there is none yet.

        Raises:
            CacheMismatch: The mark can't be parsed.
        """
        return mark.read(self.root)

    def write_mark(self, cache: CacheMark) -> CacheMark:
        """Write the mark, unless the root has one. Returns the mark that the root has now.

        Raises:
            CacheMismatch: The existing mark can't be parsed.
        """
        return mark.write(self.root, cache)

    def draft_mark(self, cache: CacheMark) -> Path:
        """Write a file that `replace_mark` can make the mark. Returns its path."""
        return mark.write_draft(self.root, cache)

    def replace_mark(self, draft: Path) -> None:
        """Replace a damaged mark with a draft."""
        mark.replace(self.root, draft)

    # Implementation

    def _staged(self, model: str) -> Path:
        return self.root / OURS / "staging" / model

    def _remove_empty(self, model: str) -> None:
        """Remove a model's empty folders. If another process is about to use one, its `make` tries again."""
        for folder in (self.root / OURS / "trash" / model, self._staged(model)):
            disk.remove_empty(folder, folder.parent)
        disk.remove_empty(self.root / model)

    def _staging(self, model: str, token: int) -> Path:
        if self._publish == "manifest":
            return self.root / model / f"{token}{FILES}"
        return self._staged(model) / str(token)

    def _rename(self, claim: Claim, staging: Path, target: Path, prove: Callable[[], bool]) -> Published:
        if disk.is_folder(staging):
            if disk.is_folder(target):
                raise FileExistsError(errno.EEXIST, "the claim has published already", str(target))
            staged.settle(staging, target, self.root, outside_links=self._outside_links)
            size = disk.size(staging)
            for left in reversed(range(_RENAME_AGAIN)):
                make(self.root, target.parent.name)
                _prove(claim, prove)
                try:
                    staging.rename(target)
                    break
                except FileNotFoundError:
                    if disk.is_folder(target):
                        break  # NFS lost the reply and repeated the rename
                    if not left or not disk.is_folder(staging):
                        raise
        elif disk.is_folder(target):
            size = disk.size(target)
        else:
            raise _nothing_at(staging)
        return Published(target.relative_to(self.root).as_posix(), size)

    def _write_manifest(self, claim: Claim, staging: Path, prove: Callable[[], bool]) -> Published:
        path = staging.with_name(f"{claim.token}{MANIFEST}")
        listed = manifest.read(path)
        if not disk.is_folder(staging):
            raise _nothing_at(staging)
        if listed is None:
            staged.settle(staging, staging, self.root, outside_links=self._outside_links)
            listed = manifest.Manifest.of(staging)
            _prove(claim, prove)
            manifest.write(self.root, path, listed)
        elif listed != manifest.Manifest.of(staging):
            raise FileExistsError(errno.EEXIST, "the claim has published already", str(path))
        return Published(staging.relative_to(self.root).as_posix(), listed.size_bytes)

    def _is_whole(self, path: Path) -> bool:
        listed_at = manifest_of(path)
        if listed_at is None:
            return disk.is_folder(path)
        listed = manifest.read(listed_at)
        return listed is not None and listed.fits(path)

    def _folders(self, ref: ModelRef) -> list[str]:
        """Return the names of a model's folders. The name of older versions counts only if no other model has it."""
        model, former = folder_of(ref), former_folder_of(ref)
        if former == model:
            return [model]
        if (self.root / former.swapcase()).exists():  # a case-insensitive file system
            return [model]
        return [model, former]

    def _published(self, ref: ModelRef) -> list[tuple[int, Path]]:
        """Return the complete downloads of a model, newest first."""
        found = [each for model in self._folders(ref) for each in _by_token(self.root / model)]
        return [each for each in sorted(found, reverse=True) if self._is_whole(each[1])]

    def _clear(self, path: Path, token: int) -> bool:
        """Remove a folder of a dead claim. Returns whether the folder is gone from its path."""
        if path.name.endswith(FILES):
            was_there = path.exists()
            self._remove_files(path)
            return was_there and not path.exists()
        # Moved first, so that no half-removed folder can be published or found.
        model = path.parent.name
        for left in reversed(range(_RENAME_AGAIN)):
            try:
                disk.own(path)
                path.rename(make(self.root, OURS, "trash", model) / f"{token}-{os.urandom(8).hex()}")
                return True
            except FileNotFoundError as error:
                if not path.exists():
                    return False  # another sweep has moved it, or its stale owner has just published it
                if not left:
                    log.warning("%s is left to the next sweep: %s", path, error)
            except OSError as error:
                log.warning("%s is left to the next sweep: %s", path, error)
                return False
        return False

    def _remove_files(self, folder: Path) -> None:
        listed = manifest_of(folder)
        try:
            if listed is not None:
                listed.unlink(missing_ok=True)  # removed first, so that no half-removed folder is found
        except OSError as error:
            log.warning("%s is left to the next sweep: %s", folder, error)
        else:
            disk.remove(folder)

    def _link_by_name(self, ref: ModelRef) -> None:
        """Point the ``by-name`` link of a model to its newest files."""
        link = self.root / BY_NAME / folder_of(ref)
        try:
            done: list[Path | None] = []
            while True:
                newest = next((path for _, path in self._published(ref)), None)
                if newest in done[-1:]:
                    return
                # Checked again after the change, because another process may link to an older one at the same time.
                done.append(newest)
                if link.exists() and not link.is_symlink():
                    raise FileExistsError(errno.EEXIST, "it is no link", str(link))
                if newest is None:
                    link.unlink(missing_ok=True)
                    continue
                make(self.root, BY_NAME)
                draft = make(self.root, OURS) / f"link-{os.urandom(8).hex()}"
                draft.symlink_to(Path("..") / newest.relative_to(self.root))
                draft.replace(link)
        except OSError as error:
            log.warning("%s does not lead to the newest files: %s", link, error)


def _prove(claim: Claim, prove: Callable[[], bool]) -> None:
    if not prove():
        raise ClaimLost(
            f"{claim.model_name!r} is not published: the claim with token {claim.token} is lost",
            model_name=claim.model_name,
            provider=str(claim.provider),
        )


def _nothing_at(staging: Path) -> FileNotFoundError:
    return FileNotFoundError(
        errno.ENOENT, "nothing to publish: not staged, or discarded, or swept since", str(staging)
    )


def _by_token(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the folders that are named by a token, in any order."""
    for path in disk.entries(folder):
        token = path.name.removesuffix(FILES)
        if TOKEN.fullmatch(token) and disk.is_folder(path):
            yield int(token), path


def _without_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the folders that the manifests name. A stale owner may write a manifest after a sweep of its files."""
    for path in disk.entries(folder):
        token = path.name.removesuffix(MANIFEST)
        if token != path.name and TOKEN.fullmatch(token):
            yield int(token), path.with_name(token + FILES)


def _leftovers(root: Path, model: str, kept: PurePosixPath | None) -> Iterator[tuple[int, Path]]:
    """Yield the removable folders of a model, with any token."""
    yield from _by_token(root / OURS / "staging" / model)
    for token, path in {*_by_token(root / model), *_without_files(root / model)}:
        listed = manifest_of(path)
        if kept is not None:
            if PurePosixPath(model, path.name) != kept:
                yield token, path
        elif listed is not None and manifest.read(listed) is None:
            yield token, path
