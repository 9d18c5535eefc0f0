"""Writing a checkpoint: beside its place, in a thread, into its place in one step.

What is written is copied to the host's memory first, and training goes on meanwhile. A checkpoint that cannot be
written for lack of room, or because its disk fails, is told at once and given up; those there are stay whole, and
training goes on: its weights are worth more than a stop, and the next checkpoint may fit again. Any other error is
raised when the next checkpoint is due, or when training ends.
"""

from __future__ import annotations

import errno
import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from torch import Tensor

from omniform.core.background import Background
from omniform.core.errors import RepoError, WeightsError
from omniform.core.logs import get_logger
from omniform.hub.folders import exchange, files_in, sync
from omniform.train.rotation import hidden

logger = get_logger(__name__)

MANIFEST: Final = "checkpoint_files.json"
"""Sizes and checksums (CRC-32) of a checkpoint's files of numbers."""

_NUMBERS: Final = (".safetensors", ".pt", ".pth", ".bin")
_BLOCK: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Part:
    """Some files of a checkpoint.

    Attributes:
        write: writes them into the folder that it is given.
        nbytes: about how many bytes they take.
    """

    write: Callable[[Path], object]
    nbytes: int = 0


class Staging:
    """A checkpoint that is being written, beside its place.

    Args:
        target: its place.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = hidden(target)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, parts: Iterable[Part]) -> None:
        """Write some of its files.

        Raises:
            RepoError: there is no room, or the disk fails.
        """
        for part in parts:
            try:
                part.write(self.folder)
            except OSError as error:
                raise self._failed(error) from error
            except SafetensorError as error:  # a full disk is no OSError to that library
                raise self._failed(OSError(errno.EIO, str(error))) from error

    def finish(self) -> None:
        """Put it into its place; what was there goes.

        Raises:
            RepoError: the disk fails.
        """
        try:
            _write_manifest(self.folder)
            for path in self.folder.rglob("*"):
                sync(path)
            sync(self.folder)
            if self.target.exists():
                exchange(self.folder, self.target)
            else:
                self.folder.rename(self.target)
            sync(self.target.parent)
        except OSError as error:
            raise self._failed(error) from error
        self.discard()

    def discard(self) -> None:
        """Remove what lies beside."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _failed(self, error: OSError) -> RepoError:
        found = error.strerror or str(error)
        if room := _free(self.target.parent):
            found = f"{found} ({_size(room)} are free there)"
        return RepoError("the checkpoint cannot be written", where=str(self.target), found=found)


def check_room(target: Path, parts: Sequence[Part]) -> None:
    """Raise :class:`RepoError` if a checkpoint's parts will not fit on the disk of its place."""
    needed, free = sum(part.nbytes for part in parts), _free(target.parent)
    if free is not None and needed > free:
        raise RepoError(
            "there is no room for the checkpoint",
            where=str(target),
            expected=f"{_size(needed)} free",
            found=f"{_size(free)} free",
            remedy="Earlier checkpoints are whole. Make room, set save_total_limit, or save_only_model=True.",
        )


class Writer:
    """Runs one piece of writing at a time beside the training."""

    def __init__(self) -> None:
        self._thread: Background | None = None
        self._error: BaseException | None = None
        self.refused: RepoError | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, once what was begun before is done."""
        self.wait()
        self._thread = Background(lambda: self._run(work), lambda: None, "omniform-checkpoint")

    def run(self, work: Callable[[], None]) -> None:
        """Do it now."""
        self.wait()
        self._run(work)
        self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written; raise what went wrong, if it was not the disk's fault."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.end()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        self.refused = None
        try:
            work()
        except RepoError as error:
            self.refused = error
            logger.error("Training goes on without this checkpoint: %s", error)
        except BaseException as error:
            self._error = error

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: object) -> None:
        self.__init__()  # type: ignore[misc]


def host_copy(value: object) -> object:
    """The same nested value with its tensors copied to the host's memory; tensors that are one stay one."""
    seen: dict[tuple[object, ...], Tensor] = {}
    copied = _copied(value, seen)
    if any(key[0] == "cuda" for key in seen):
        torch.cuda.current_stream().synchronize()
    return copied


def _copied(value: object, seen: dict[tuple[object, ...], Tensor]) -> object:
    if isinstance(value, Tensor):
        key = (value.device.type, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() == 0 or key not in seen:
            seen[key] = _tensor_copy(value.detach())
        return seen[key]
    if isinstance(value, Mapping):
        return {name: _copied(one, seen) for name, one in value.items()}
    if isinstance(value, list):
        return [_copied(one, seen) for one in value]
    if type(value) is tuple:
        return tuple(_copied(one, seen) for one in value)
    return value


def _tensor_copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.to("cpu", copy=True)
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def nbytes_of(value: object) -> int:
    """How many bytes the tensors in a nested value take."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(nbytes_of(one) for one in value.values())
    if isinstance(value, list | tuple):
        # States of generators are long rows of numbers.
        return 8 * len(value) if value and isinstance(value[0], int) else sum(nbytes_of(one) for one in value)
    return 0


def fits_in_memory(nbytes: int) -> bool:
    """Whether a copy of so many bytes leaves the host half of what it has free; True where that is not told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return True
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    return free is None or nbytes <= free // 2


# -- checksums ---------------------------------------------------------------------------------------------------------


def _write_manifest(folder: Path) -> None:
    sums = {name: _sum(folder / name) for name in files_in(folder) if name.endswith(_NUMBERS)}
    listed = {name: {"size": size, "crc32": crc} for name, (size, crc) in sums.items()}
    (folder / MANIFEST).write_text(json.dumps({"files": listed}, indent=2) + "\n")


def _sum(path: Path) -> tuple[int, int]:
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def check_files(checkpoint: Path) -> None:
    """Raise :class:`WeightsError` if files of a checkpoint are not what was written; it names the first."""
    path = checkpoint / MANIFEST
    if not path.is_file():
        return
    try:
        wanted = json.loads(path.read_text())["files"]
        sums = {str(name): (int(one["size"]), int(one["crc32"])) for name, one in wanted.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError("the list of files is damaged", where=str(path), found=str(error)) from error
    for name, (size, crc) in sums.items():
        file = checkpoint / name
        if not file.is_file():
            raise WeightsError("a file of the checkpoint is missing", where=str(file), expected=f"{size} bytes")
        found = file.stat().st_size
        if found != size:
            raise WeightsError(
                "a file of the checkpoint is cut or changed", where=str(file), expected=f"{size} bytes", found=found
            )
        if _sum(file)[1] != crc:
            raise WeightsError(
                "a file of the checkpoint is damaged or was changed after it was written",
                where=str(file),
                remedy=f"Go on from another checkpoint; if the change is meant, remove {MANIFEST}.",
            )


def _free(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _size(nbytes: int) -> str:
    size, unit = float(nbytes), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.{0 if unit == 'bytes' else 1}f} {unit}"
