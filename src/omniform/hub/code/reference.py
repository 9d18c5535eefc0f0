"""Names of code: ``"file.Class"`` and ``"other/repo--file.Class"``, and what may stand in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from omniform.core.errors import CodeError, brief

_PART = re.compile(r"[^\W-][\w-]*")


_PAIRED = ("AutoTokenizer", "AutoImageProcessor", "AutoVideoProcessor")
"""Auto classes that may be given a slow class and a fast one."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A class in a file.

    Attributes:
        repo: the repository on the Hub, where it is another than the checkpoint's own.
        file: the file's path in its repository, with slashes.
        name: the class, or the function.
    """

    repo: str | None
    file: str
    name: str

    @classmethod
    def parse(cls, text: object, where: str) -> Reference:
        """Read a name.

        Args:
            where: who says it, for messages.

        Raises:
            CodeError: it is none, or leads out of its folder.
        """
        if not isinstance(text, str):
            raise _wrong("this names no class", where, text)
        repo, mark, rest = text.rpartition("--")
        path, _, name = rest.rpartition(".")
        if mark and not is_repo(repo):
            raise _wrong("this is no repository on the Hub", where, text)
        if not path or not name.isidentifier():
            raise _wrong("this names no class", where, text)
        return cls(repo if mark else None, code_file(path, where, text), name)

    def __str__(self) -> str:
        return f"{self.repo}--{self.file}: {self.name}" if self.repo else f"{self.file}: {self.name}"


def code_file(path: str, where: str, said: object = None) -> str:
    """The file of a module's path (``"modeling"``, ``"sub/modeling"``), which must lie in its repository.

    Raises:
        CodeError: it does not.
    """
    parts = path.removesuffix(".py").split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise _wrong("the name leads out of its folder, or to no Python file", where, path if said is None else said)
    return "/".join(parts) + ".py"


def is_repo(text: str) -> bool:
    """Whether this can be a repository's id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def named_in(auto_map: object, auto: str, where: str) -> Reference | None:
    """The class that a checkpoint's ``auto_map`` names for an Auto class; of a slow and a fast one the fast one.

    Raises:
        CodeError: the entry is no name.
    """
    if isinstance(auto_map, (list, tuple)):  # an older layout of tokenizer_config.json
        auto_map = {"AutoTokenizer": auto_map}
    if auto_map is None or auto_map == {}:
        return None
    if not isinstance(auto_map, Mapping):
        raise CodeError("auto_map is no object", where=where, found=brief(auto_map))
    said = auto_map.get(auto)
    if isinstance(said, (list, tuple)) and auto in _PAIRED and len(said) <= 2:
        said = next((one for one in reversed(said) if one is not None), None)
    elif isinstance(said, Mapping) and auto in _PAIRED[1:]:  # by what computes it
        said = said.get("torchvision") or next((one for one in said.values() if one is not None), None)
    return None if said is None else Reference.parse(said, f"{where}: auto_map[{auto!r}]")


def maps_in(file: Mapping[str, object]) -> list[object]:
    """What a file says under ``auto_map``: for itself, and in the parts of a processor that it holds."""
    parts = [file, *(one for name, one in file.items() if name in PARTS and isinstance(one, Mapping))]
    return [one["auto_map"] for one in parts if one.get("auto_map")]


PARTS = ("image_processor", "video_processor", "feature_extractor")
"""Parts that stand in a processor's own file."""


def _wrong(problem: str, where: str, found: object) -> CodeError:
    return CodeError(problem, where=where, expected="'file.Class' or 'other/repo--file.Class'", found=brief(found))
