"""An index of a folder's pictures: brought up to date with the folder, and asked by text or by picture."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from omniform.core.errors import InputError, OmniformError, RepoError
from omniform.inputs.images.load import ENDINGS, load_image
from omniform.search.catalogue import Catalogue, File
from omniform.search.near import NearFile
from omniform.search.towers import Array, Towers
from omniform.search.vectors import CHUNK, VectorFile, library

if TYPE_CHECKING:
    from PIL.Image import Image

TOGETHER: Final = 64
"""So many pictures go through the model at once, and are in the index together or not at all."""

ALIKE: Final = 1e-3
"""How far apart a model's vectors may lie that were computed on different machines; numbers of vectors of length 1."""

CATALOGUE: Final = "catalogue.sqlite"


@dataclass(frozen=True, slots=True)
class Found:
    """A picture that was found.

    Attributes:
        name: within the folder.
        path: of its file.
        score: the cosine of its vector and the query's.
    """

    name: str
    path: Path
    score: float


@dataclass(frozen=True, slots=True)
class Changes:
    """What bringing an index up to date came to.

    Attributes:
        pictures: how many are in it now.
        new, changed, removed: how many of the folder's were not in it, were in it as they had been, are there no more.
        failed: what is wrong with the pictures that cannot be read, by name, those of earlier times too.
    """

    pictures: int
    new: int
    changed: int
    removed: int
    failed: Mapping[str, str] = field(default_factory=dict)


class PictureIndex:
    """The vectors of a folder's pictures, kept on disk.

    Pictures are indexed a few at a time, each few at once or not at all: whoever is cut off goes on from there. A
    picture is known by its name, size and time; one that is new or has changed is indexed when :meth:`update` is called
    next, and one that is gone is no longer found. One that cannot be read is named, and passed over.

    Args:
        folder: of the pictures; folders within it are looked through, hidden ones are not.
        towers: the model that makes vectors.
        place: the folder of the index.
        deep: how many folders are looked through that lie within one another; None for all of them.
        near: a kind of index in faiss's words (``"IVF1024,SQ8"``) by which searches look at some of the vectors; None:
            all are compared.

    Raises:
        RepoError: there is no such folder, or the index cannot be read or written.
        InputError: the index was made by another model; faiss knows no such kind.
        DependencyError: faiss is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        towers: Towers,
        place: Path,
        *,
        deep: int | None = None,
        near: str | None = None,
    ) -> None:
        library()  # what is missing is told before anybody waits
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise RepoError("there is no such folder", where=str(folder))
        self.towers, self.place, self.deep, self.near = towers, place, deep, near
        self.catalogue = Catalogue(place / CATALOGUE)
        if "print" in self.catalogue.about():
            self._check_model()
        self.vectors = self._opened()
        if near is not None:
            NearFile(self.vectors, near)  # a mistake is told before anybody waits

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.towers.print.shape[1])

    def __len__(self) -> int:
        return self.catalogue.counts()[0]

    # -- what it was made by -----------------------------------------------------------------------------------------

    def _check_model(self) -> None:
        about = self.catalogue.about()
        kept = np.frombuffer(about.get("print", b""), np.float32)
        mine = self.towers.print.ravel()
        alike = kept.shape == mine.shape and np.abs(kept - mine).max() < ALIKE
        if alike and about.get("dtype") == self.towers.dtype.encode():
            return
        raise InputError(
            "the index was made by another model, or by other weights",
            where=str(self.place),
            expected=f"{about.get('model', b'?').decode()} in {about.get('dtype', b'?').decode()}",
            found=f"{self.towers.name} in {self.towers.dtype}",
            remedy="Index anew, or in another place.",
        )

    def _describe(self) -> None:
        self.catalogue.set_about(
            model=self.towers.name.encode("utf-8", "replace"),
            dtype=self.towers.dtype.encode(),
            print=self.towers.print.astype("<f4").tobytes(),
        )

    def _opened(self) -> VectorFile:
        generation = int(self.catalogue.about().get("generation", b"0"))
        return VectorFile(self.place / f"vectors-{generation}.faiss", self.width, self.catalogue.rows)

    @staticmethod
    def forget(place: Path) -> None:
        """Delete the index that is at a place, so that the next one there begins anew.

        Raises:
            RepoError: its files cannot be deleted.
        """
        try:
            for file in (place / CATALOGUE, *place.glob("vectors-*.faiss"), *place.glob(f"{CATALOGUE}-*")):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise RepoError("the index cannot be deleted", where=str(place), found=error.strerror) from None

    # -- bringing it up to date --------------------------------------------------------------------------------------

    def leave_out(self, file: Path) -> None:
        """Never index a file that is not one of the folder's pictures, though it lies among them."""
        kept = {*self._left_out(), os.path.realpath(file)}
        self.catalogue.set_about(left_out=json.dumps(sorted(kept)).encode())

    def _left_out(self) -> list[str]:
        return list(json.loads(self.catalogue.about().get("left_out", b"[]")))

    def update(self, told: Callable[[int, int], None] | None = None) -> Changes:
        """Index what is new or has changed, forget what is gone.

        Args:
            told: called with how many of the pictures that waited are done, and how many waited.

        Raises:
            RepoError: the folder cannot be read, the index not written.
        """
        if "print" not in self.catalogue.about():
            self._describe()
        self.catalogue.compare(pictures_in(self.folder, self.deep, besides=(str(self.place), *self._left_out())))
        new, changed, removed = self.catalogue.differences()
        if removed:
            self.catalogue.forget_gone()
        files, done = self.catalogue.waiting(), 0
        while some := list(islice(files, TOGETHER)):
            self._index(some)
            done += len(some)
            if told is not None:
                told(done, new + changed)
        dead = len(self.catalogue.dead())
        if dead > TOGETHER and 2 * dead > self.catalogue.rows:
            self._compact()
        return Changes(len(self), new, changed, removed, self.catalogue.failed())

    def _index(self, files: Sequence[File]) -> None:
        images: list[Image] = []
        errors: list[str | None] = []
        for file in files:
            try:
                images.append(load_image(self.folder / file.name))
                errors.append(None)
            except (OmniformError, OSError, MemoryError, ValueError) as error:
                errors.append(plain(error))
        vectors = iter(self._vectors(images, errors))
        made = [next(vectors) if error is None else None for error in errors]
        good = [vector for vector in made if vector is not None]
        with self.catalogue.changing():
            self.vectors = self._opened()  # another process may have added some meanwhile
            numbers = iter(self.vectors.add(np.stack(good)) if good else ())
            self.catalogue.put(files, [None if vector is None else next(numbers) for vector in made], errors)
            self.catalogue.set_about(rows=str(len(self.vectors)).encode())

    def _vectors(self, images: Sequence[Image], errors: list[str | None]) -> list[Array]:
        """The vectors of pictures; where one of them is the trouble, of each by itself."""
        if not images:
            return []
        try:
            return [*self.towers.pictures(images)]
        except (OmniformError, ValueError):
            found: list[Array] = []
            places = [at for at, error in enumerate(errors) if error is None]
            for at, image in zip(places, images, strict=True):
                try:
                    found.append(self.towers.pictures([image])[0])
                except (OmniformError, ValueError) as error:
                    errors[at] = plain(error)
            return found

    def _compact(self) -> None:
        """Write the vectors that pictures have into a new file, in the order that they have, and use that."""
        old = self.vectors
        with self.catalogue.changing():
            generation = int(self.catalogue.about().get("generation", b"0")) + 1
            made = VectorFile(self.place / f"vectors-{generation}.faiss", self.width, 0)
            names: list[bytes] = []

            def chunks() -> Iterator[Array]:
                living, held = self.catalogue.living(), old.all()
                while some := list(islice(living, max(1, CHUNK // (4 * self.width)))):
                    names.extend(name for _, name in some)
                    yield held[[row for row, _ in some]]

            made.extend(chunks())
            self.catalogue.renumber(names)
            self.catalogue.set_about(rows=str(len(made)).encode(), generation=str(generation).encode())
        self.vectors = made
        for file in (old.path, *self.place.glob(f"{old.path.stem}.near-*.faiss")):
            file.unlink(missing_ok=True)

    # -- asking ------------------------------------------------------------------------------------------------------

    def find(self, *, text: str | None = None, image: Image | None = None, k: int = 10) -> list[Found]:
        """The pictures that are nearest to a text or to a picture, the best first.

        Args:
            text: what to look for.
            image: a picture that they should be like.
            k: how many are wanted.

        Raises:
            InputError: neither is given, or both; fewer than one is wanted.
        """
        if (text is None) == (image is None):
            raise InputError("one thing is looked for at a time", where="find", expected="a text or a picture")
        if k < 1:
            raise InputError("nothing is wanted", where="k", expected="at least 1", found=k)
        query = self.towers.texts([text]) if text is not None else self.towers.pictures([image])  # type: ignore[list-item]
        among = self.vectors if self.near is None else NearFile(self.vectors, self.near)
        scores, rows = among.search(query, k, self.catalogue.dead())
        names = self.catalogue.names([int(row) for row in rows[0]])
        pairs = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
        return [Found(names[row], self.folder / names[row], score) for score, row in pairs if row in names]


def plain(error: BaseException) -> str:
    """What went wrong, in one line."""
    said = str(error) if isinstance(error, OmniformError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:500]


def pictures_in(folder: Path, deep: int | None = None, *, besides: Collection[str] = ()) -> Iterator[File]:
    """A folder's pictures, by the endings of their names, those of the folders in it too; hidden ones are left out.

    Args:
        deep: so many folders within one another, 0 for none; None for all.
        besides: files and folders that are left out.

    Raises:
        RepoError: the folder cannot be read.
    """
    own = {os.path.realpath(one) for one in besides}

    def counts(place: str, name: str) -> bool:
        return not name.startswith(".") and os.path.realpath(os.path.join(place, name)) not in own

    def refused(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise RepoError("the folder cannot be read", where=str(folder), found=error.strerror)

    for place, folders, names in os.walk(folder, onerror=refused):
        within = Path(place).relative_to(folder)
        deeper = deep is None or len(within.parts) < deep
        folders[:] = sorted(name for name in folders if deeper and counts(place, name))
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() not in ENDINGS or not counts(place, name):
                continue
            try:
                told = os.stat(os.path.join(place, name))
                stamp = f"{told.st_size}-{told.st_mtime_ns}"
            except OSError:
                stamp = "unread"
            yield File((within / name).as_posix(), stamp)
