"""Files that a fleet shares: each download in a folder of its own, named by its fencing token.

::

    <root>/<model>/<token>/                         published, whole, never written to again
    <root>/.pyregistry/staging/<model>/<token>/     being downloaded
    <root>/.pyregistry/trash/<model>/<token>-<..>/  being removed
    <root>/.pyregistry/cache_id                     which cache this is, and whose

A lease stops nobody from writing to a disk. What keeps files whole is that no two claims share a path: a
process that was stopped beyond its lease, and goes on, publishes to a path of its own that no record names.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import msgspec

from pyregistry import _checks as checks
from pyregistry.errors import CacheMismatch, ClaimLost, ConfigurationError, InvalidArgument, LocalFault
from pyregistry.models import Claim, ModelRecord, ModelRef

__all__ = ["CacheMark", "FolderStore", "Published"]

_log = logging.getLogger("pyregistry.store")

_OURS = ".pyregistry"
_TOKEN = re.compile(r"0|[1-9][0-9]*")
_FOLDER_BYTES = 180  # with what is appended to a longer one, and to that in turn, below the usual 255

# Where links are not supported, the mark is empty for a moment after it was made (seconds).
_READ_AGAIN = (0.01, 0.05, 0.25)

_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Published(msgspec.Struct, frozen=True):
    """A model's files, whole.

    Attributes:
        location: their folder, relative to the root, with ``/`` between its parts.
        size_bytes: the sum of the sizes of the files in it; what a symbolic link points to does not count.
    """

    location: str
    size_bytes: int


class CacheMark(msgspec.Struct, frozen=True):
    """What the file ``cache_id`` in a root says.

    Attributes:
        cache_id: which cache this is.
        namespace: the namespace that it belongs to.
    """

    cache_id: str
    namespace: str


class FolderStore:
    """A folder for each model, below a root that a fleet shares. All of it blocks.

    Attributes:
        root: the root, as an absolute path.

    Raises:
        ConfigurationError: the root is not there, or is not a folder.
    """

    __slots__ = ("root",)

    root: Path

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()  # not resolved: a link may be pointed elsewhere later
        if not self.root.is_dir():
            raise ConfigurationError(f"the root of the store is not a folder: {self.root}")

    # A download

    def staging(self, claim: Claim) -> Path:
        """The folder that this claim downloads into. Called again, it keeps what is in it."""
        return self._made(_OURS, "staging", _folder_of(claim.ref), str(claim.token))

    def publish(self, claim: Claim, prove: Callable[[], bool]) -> Published:
        """Makes what was staged durable, then visible by one rename. May be called again.

        Args:
            claim: whose download it is.
            prove: renews the claim; called last before the rename. ``False``: the claim is lost.

        Raises:
            ClaimLost: `prove` said no. What was staged is still there.
            InvalidArgument: nothing was staged but empty folders.
            FileExistsError: this claim has published already, and has staged more since.
            FileNotFoundError: there is no staging folder: none was made, or it was discarded or swept.
            OSError: the disk refused. What can't be made durable is not published.
        """
        model, token = _folder_of(claim.ref), str(claim.token)
        staging = self._staging(model) / token
        target = self.root / model / token
        if _is_folder(staging):
            if _is_folder(target):
                raise FileExistsError(errno.EEXIST, "the claim has published already", str(target))
            size = _flushed(staging)
            self._made(model)
            if not prove():
                raise ClaimLost(
                    f"{claim.model_name!r} is not published: the claim with token {token} is lost",
                    model_name=claim.model_name,
                    provider=str(claim.provider),
                )
            try:
                staging.rename(target)
            except FileNotFoundError:
                if not _is_folder(target):  # else NFS lost the answer, and asked again
                    raise
        elif _is_folder(target):
            size = _size(target)
        else:
            raise FileNotFoundError(
                errno.ENOENT, "nothing to publish: not staged, or discarded, or swept since", str(staging)
            )
        # Also when called again: the first call may have ended just before.
        _sync(target.parent)
        _sync(self.root)
        return Published(f"{model}/{token}", size)

    def discard(self, claim: Claim) -> None:
        """Removes this claim's staging folder, if there is one. What can't be removed is left to a sweep."""
        _remove(self._staging(_folder_of(claim.ref)) / str(claim.token))

    def check(self) -> None:
        """Try what a download needs of the root: to write, to make durable, to rename a folder, to remove.

        Raises:
            LocalFault: it can't be done here.
        """
        probe = f"{os.getpid()}-{os.urandom(8).hex()}"
        try:
            folder = self._made(_OURS, "probe", probe)
            try:
                _create(folder / "file", b"x")
                moved = folder.with_name(f"{probe}-moved")
                folder.rename(moved)
                folder = moved
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise LocalFault(
                f"the root of the store can't be written to: {error}; it needs the rights to write, and space"
            ) from error

    # What is there

    def path(self, record: ModelRecord) -> Path:
        """Where a model's files are, as an absolute path.

        Raises:
            InvalidArgument: the record has no location, or one that is not below the root.
        """
        return self.root / _plain(record.location)

    def contains(self, record: ModelRecord) -> bool:
        """Whether a model's folder is there, as far as this machine knows.

        Raises:
            InvalidArgument: as for `path`.
            OSError: it can't be told (a dead mount, no rights). That is not a no.
        """
        return _is_folder(self.path(record))

    def look_again(self, record: ModelRecord) -> bool:
        """Like `contains`, but lists the folders on the way first.

        An NFS client remembers for a while what was not there; a listing makes it ask the server.

        Raises:
            InvalidArgument: as for `path`.
            OSError: it can't be told; also if the root itself is gone.
        """
        path = self.path(record)
        folder = self.root
        os.listdir(folder)  # noqa: PTH208  # read to its end, and for that alone
        with suppress(FileNotFoundError, NotADirectoryError):
            for part in path.relative_to(self.root).parts[:-1]:
                folder /= part
                os.listdir(folder)  # noqa: PTH208  # as above
        return _is_folder(path)

    def find(self, ref: ModelRef) -> Published | None:
        """The newest files of a model, for when the registry is away.

        Raises:
            InvalidArgument: `ref` is not valid, or has no provider.
        """
        model = _folder_of(ref)
        for token, path in sorted(_by_token(self.root / model), reverse=True):
            with suppress(FileNotFoundError):  # swept, or evicted, under our eyes
                return Published(f"{model}/{token}", _size(path))
        return None

    # Leftovers

    def sweep(self, ref: ModelRef, token: int, location: str | None) -> list[Path]:
        """Removes what dead claims of a model left. What can't be removed is logged, and left to the next.

        Args:
            ref: the model, with its provider.
            token: the record's; only folders with a smaller one are removed.
            location: the record's, which stays. ``None`` (a claim is under way, and the record does not say
                where the last files are): only staging folders are removed.

        Returns:
            The folders that are gone from their places.

        Raises:
            InvalidArgument: `ref` is not valid, or has no provider; `location` is not below the root.
        """
        model = _folder_of(ref)
        doomed = list(_by_token(self._staging(model)))
        if location is not None:
            kept = _plain(location).parts[:2]
            published = _by_token(self.root / model)
            doomed += [(of, path) for of, path in published if (model, path.name) != kept]
        removed = []
        for of, path in sorted(doomed):
            if of >= token or path.is_symlink():  # a link is somebody's own work
                continue
            # Moved first: what is half removed must never stand where it could be published, or found.
            try:
                path.rename(self._made(_OURS, "trash", model) / f"{of}-{os.urandom(8).hex()}")
                removed.append(path)
            except FileNotFoundError:
                pass  # another sweeper has it, or its stale owner has just published it
            except OSError as error:
                _log.warning("%s is left to the next sweep: %s", path, error)
        for path in _entries(self.root / _OURS / "trash" / model):  # an earlier sweep's too
            _remove(path)
        return removed

    # Which cache this is

    def read_mark(self) -> CacheMark | None:
        """What the root says of itself; ``None``: nothing yet.

        Raises:
            CacheMismatch: the mark can't be understood.
        """
        path = self.root / _OURS / "cache_id"
        for pause in (*_READ_AGAIN, None):
            try:
                mark = msgspec.json.decode(path.read_bytes(), type=CacheMark)
                if mark.cache_id:
                    return mark
            except FileNotFoundError:
                return None
            except (msgspec.MsgspecError, UnicodeDecodeError):
                pass
            if pause is not None:
                time.sleep(pause)
        raise CacheMismatch(f"{path} is damaged: if this is the right folder, remove that file")

    def write_mark(self, mark: CacheMark) -> CacheMark:
        """Says which cache this is, unless that was said before. Returns what the root says of itself now.

        Raises:
            CacheMismatch: there is a mark that can't be understood.
        """
        path = self._made(_OURS) / "cache_id"
        content = msgspec.json.encode(mark)
        draft = path.with_name(f"cache_id-{os.urandom(8).hex()}")
        try:
            _create(draft, content)
            try:
                os.link(draft, path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _create(path, content)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
        _sync(path.parent)
        _sync(self.root)
        return self.read_mark() or self.write_mark(mark)  # the latter if somebody removed it

    def _staging(self, model: str) -> Path:
        return self.root / _OURS / "staging" / model

    def _made(self, *parts: str) -> Path:
        """A folder below the root, made if need be; but never the root: what is gone was unmounted."""
        folder = self.root
        for part in parts:
            folder /= part
            folder.mkdir(exist_ok=True)
        return folder


def _folder_of(ref: ModelRef) -> str:
    """A model's folder: no other model's, and never ours, as it begins with the letter of a provider."""
    entry = checks.target(ref.name, ref.provider or "", ref.revision, ref.subset).entry
    folder = quote(entry, safe="").replace("~", "%7E")
    if len(folder) > _FOLDER_BYTES:  # longer still afterwards, so it is nobody's whole name
        folder = f"{folder[:_FOLDER_BYTES]}-{hashlib.sha256(entry.encode()).hexdigest()[:32]}"
    return folder


def _plain(location: str | None) -> PurePosixPath:
    """A location, checked as text; where links lead is their maker's business."""
    path = PurePosixPath(location or "")
    if not path.parts:
        raise InvalidArgument("location", "there is none")
    if path.is_absolute() or ".." in path.parts or path.parts[0] == _OURS or "\0" in str(path):
        raise InvalidArgument("location", f"must be a folder of a model below the root, not {location!r}")
    return path


def _is_folder(path: Path) -> bool:
    """Unlike `Path.is_dir`, takes only absence for a no: what can't be told must not read as gone."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing, if there is none."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _by_token(folder: Path) -> Iterator[tuple[int, Path]]:
    """The folders in it that are named by a token, in any order."""
    for path in _entries(folder):
        if _TOKEN.fullmatch(path.name) and _is_folder(path):
            yield int(path.name), path


def _tree(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that is in a folder, at any depth; links are not followed."""
    pending = [os.fspath(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    pending.append(entry.path)
                yield entry.path, info


def _size(folder: Path) -> int:
    return sum(info.st_size for _, info in _tree(folder) if stat.S_ISREG(info.st_mode))


def _flushed(staging: Path) -> int:
    """The size of what was staged, once it is on the disk."""
    tree = list(_tree(staging))
    if all(stat.S_ISDIR(info.st_mode) for _, info in tree):
        raise InvalidArgument("staging", f"there is no file in it: {staging}")
    for path, info in tree:
        if stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
            _sync(path)
    _sync(staging)
    return _size(staging)


def _sync(path: str | Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_FSYNC:  # folders on some file systems
            raise
    finally:
        os.close(opened)


def _create(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
    _sync(path)


def _remove(folder: Path) -> None:
    """Removes a folder, or as much of it as can be; the rest is logged."""
    try:
        shutil.rmtree(folder, ignore_errors=True)  # goes on past what stands in the way (.nfsXXXX, no rights)
        shutil.rmtree(folder)  # says what that was
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s is left to the next sweep: %s", folder, error)
