"""The code of the user's own classes, copied beside what they made, and named there in ``auto_map``."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

from omniform.core.auto_class import AutoNamed
from omniform.core.config import ModelConfig
from omniform.core.errors import CodeError, InputError, OutsideError
from omniform.hub.code import importer
from omniform.hub.code.closure import Files, Repository
from omniform.hub.code.reference import PARTS, Reference, is_repo
from omniform.hub.files import Source, read_json

log = logging.getLogger("omniform")

_HOMES = {
    "AutoTokenizer": ("tokenizer_config.json",),
    "AutoProcessor": ("processor_config.json",),
    "AutoImageProcessor": ("preprocessor_config.json", "processor_config.json"),
    "AutoFeatureExtractor": ("preprocessor_config.json", "processor_config.json"),
    "AutoVideoProcessor": ("video_preprocessor_config.json", "processor_config.json"),
}
"""The files that name a class for an Auto class, the first that is there; ``config.json`` for all others."""


def custom_object_save(obj: object, folder: str | os.PathLike[str], config: object = None) -> list[Path]:
    """Copy the code of an object's class, and what it imports from beside it, to a folder.

    Args:
        obj: an instance of a class of the user's own.
        config: a config, a mapping or several of them whose ``auto_map`` is to name the class.

    Returns:
        The files written; none for a class that stands in no file (in a notebook, for one), which is logged.

    Raises:
        CodeError, RepoError: its code cannot stand by itself.
    """
    found = code_of(type(obj))
    if found is None:
        return []
    entry, files = found
    named = _named(obj, entry)
    if named is not None:
        for one in config if isinstance(config, (list, tuple)) else [] if config is None else [config]:
            _note(one, *named)
    return _write(Path(folder), files)


def write_code(folder: Path, *saved: object, target: Path, origin: str = "") -> None:
    """Copy the code of those objects whose classes are registered for an Auto class beside the files that were saved.

    Args:
        folder: where their files have been written.
        target: where they will be, beside what is there already.
        origin: the checkpoint that they were read from.
    """
    for one in saved:
        found = code_of(type(one)) if isinstance(one, AutoNamed) and one._auto_class is not None else None
        if found is None:
            continue
        entry, files = found
        named = _named(one, entry)
        assert named is not None, "it is registered"
        _write(folder, files, fresh=True)
        homes = [folder / name for name in _HOMES.get(named[0], ("config.json",))]
        home = next((path for path in homes if path.is_file()), None)
        if home is not None:
            _edit(home, lambda raw, named=named: _note(raw, *named))  # type: ignore[misc]
    settle_names(folder, target, origin)


def settle_names(folder: Path, target: Path, origin: str) -> None:
    """Have the names of code in saved files lead to code: beside them, or in the repository on the Hub they came from.

    A checkpoint that was read without its code is saved without it. Of a folder, what names code that is not there is
    left out: omniform's own classes load the copy.
    """
    from omniform.hub.code.named import NAMING

    elsewhere = f"{origin}--" if is_repo(origin) and "/" in origin and not Path(origin).is_dir() else None

    def there(said: object) -> object:
        if isinstance(said, (list, tuple)):
            kept = [there(one) for one in said]
            return kept if any(one is not None for one in kept) else None
        if isinstance(said, dict):
            return {key: one for key, value in said.items() if (one := there(value)) is not None} or None
        try:
            named = Reference.parse(said, "auto_map")
        except CodeError:
            return None
        if named.repo is not None or any((home / named.file).is_file() for home in (folder, target)):
            return said
        return None if elsewhere is None else f"{elsewhere}{said}"

    def settle(raw: dict[str, object]) -> None:
        for one in (raw, *(raw.get(part) for part in PARTS)):
            if isinstance(one, dict) and "auto_map" in one:
                _put(one, "auto_map", there(one["auto_map"]))
        tasks = raw.get("custom_pipelines")
        if isinstance(tasks, dict):
            told = {
                task: {**info, "impl": there(info.get("impl"))}
                for task, info in tasks.items()
                if isinstance(info, dict)
            }
            _put(raw, "custom_pipelines", {task: info for task, info in told.items() if info["impl"]} or None)

    for path in (folder / name for name in NAMING):
        if path.is_file() and any(key in read_json(path) for key in ("auto_map", "custom_pipelines", *PARTS)):
            _edit(path, settle)


def _put(raw: dict[str, object], key: str, value: object) -> None:
    if value is None:
        del raw[key]
    else:
        raw[key] = value


def write_pipeline(folder: Path, saved: object, impl: Mapping[str, object]) -> None:
    """Copy the code of a pipeline of the user's own beside its model, and note it in ``custom_pipelines``.

    Args:
        impl: what is registered for its tasks.
    """
    found = code_of(type(saved)) if impl else None
    if found is None:
        return
    entry, files = found
    _write(folder, files, fresh=True)
    tasks: dict[str, object] = {}
    for task, info in impl.items():
        told = dict(cast("Mapping[str, object]", info))
        models = cast("Iterable[type]", told.get("pt", ()))
        if told.get("impl") is type(saved):
            named = {"impl": f"{entry.removesuffix('.py')}.{type(saved).__name__}", "pt": [m.__name__ for m in models]}
            tasks[task] = {**{key: value for key, value in told.items() if key in ("type", "default")}, **named}
    if tasks:
        _edit(folder / "config.json", lambda raw: raw.__setitem__("custom_pipelines", tasks))


def code_of(kind: type) -> tuple[str, dict[str, bytes]] | None:
    """The file that a class stands in and all files that it needs, by their paths; None where there is no file.

    Raises:
        RepoError: a file that it imports is missing.
        CodeError: it is no Python, or imports from beyond its own package.
    """
    module = sys.modules.get(kind.__module__)
    brought = importer.brought(kind.__module__)
    if brought is not None:
        return brought
    file = None if module is None else vars(module).get("__file__")
    if kind.__module__ == "__main__" or not isinstance(file, str) or not file.endswith(".py"):
        log.warning(
            "the code of %s is not saved with it: it stands in no module. Put it into a file that you import",
            kind.__qualname__,
        )
        return None
    if kind.__qualname__ != kind.__name__ or vars(cast(object, module)).get(kind.__name__) is not kind:
        log.warning("the code of %s is not saved with it: it is no class of its module's own", kind.__qualname__)
        return None
    return _beside(Path(file))


def _beside(path: Path) -> tuple[str, dict[str, bytes]]:
    """A file and what it needs, from the lowest folder that holds all of it."""
    folder = path.parent
    while True:
        files = Files(Repository(Source(name=str(folder), folder=folder)))
        entry = path.relative_to(folder).as_posix()
        closure = files.add(entry)
        fault = next((file.fault for file in closure if file.fault is not None), None)
        if fault is None:
            return entry, {file.path: file.text for file in closure}
        # `from ..parts import x` needs the package above.
        if not isinstance(fault, OutsideError) or not (folder / "__init__.py").is_file():
            raise fault
        folder = folder.parent


def _named(obj: object, entry: str) -> tuple[str, object] | None:
    """The Auto class and the entry of ``auto_map`` for it."""
    auto = obj._auto_class if isinstance(obj, AutoNamed) else None
    if auto is None:
        return None
    name = f"{entry.removesuffix('.py')}.{type(obj).__name__}"
    if auto == "AutoTokenizer":  # a pair: the slow class, the fast one
        return auto, [None, name] if type(obj).__name__.endswith("Fast") else [name, None]
    return auto, name


def _note(config: object, auto: str, named: object) -> None:
    if isinstance(config, ModelConfig):
        config.auto_map = {**_known(config.raw), auto: named}
    elif isinstance(config, dict):
        config["auto_map"] = {**_known(config), auto: named}
    else:
        own = vars(config)
        own["auto_map"] = {**_known(own), auto: named}


def _known(raw: Mapping[str, object]) -> dict[str, object]:
    known = raw.get("auto_map")
    return dict(known) if isinstance(known, Mapping) else {}


def _write(folder: Path, files: Mapping[str, bytes], *, fresh: bool = False) -> list[Path]:
    """Write files; in a ``fresh`` folder, another file of the same name is one that was just written."""
    written: list[Path] = []
    for name, text in files.items():
        path = folder / name
        if path.is_file() and path.read_bytes() != text and fresh:
            raise InputError(
                "two files of code have the same name",
                where=name,
                remedy="Put the classes into one package, or call the files differently.",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        written.append(path)
    return written


def _edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    raw, before = read_json(path), read_json(path)
    change(raw)
    if raw == before:
        return
    path.write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
