"""The sentence-transformers layout: which steps a folder names, and how they are read and written."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from omniform.core.errors import ConfigError, UnknownNameError, listed
from omniform.core.reader import ConfigReader
from omniform.embeddings.brought import Brought, load_step, step_of
from omniform.embeddings.parts import Dense, Dropout, LayerNorm, LogitScore, Normalize, Part, PartFiles
from omniform.embeddings.pooling import Pooling
from omniform.embeddings.reading import Transformer
from omniform.hub.files import Source, read_json, read_json_list
from omniform.hub.folders import replace_files
from omniform.hub.stale import WEIGHTS

log = logging.getLogger("omniform")

MODULES: Final = "modules.json"
SETTINGS: Final = "config_sentence_transformers.json"

PARTS: Final[Mapping[str, type[Part]]] = {
    part.name: part for part in (Transformer, Pooling, Dense, Normalize, LayerNorm, Dropout, LogitScore)
}
"""The steps that can be read, by the ends of the names that the layout has for them."""

TYPE: Final = re.compile(r"sentence_transformers(\.\w+)+")
FIRST_FILES: Final = frozenset({"special_tokens_map.json", "added_tokens.json"})
"""What would be read over a saved tokenizer's files, were it left beside them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of ``modules.json``: a step's name in the model, its folder, its type, and all as it is written."""

    name: str
    path: str
    kind: type
    written: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What ``config_sentence_transformers.json`` says.

    Attributes:
        model_type: the class that saved it.
        prompts: texts that go before a text, by their names.
        default_prompt_name: which of them, where nobody says.
        similarity_fn_name: how two vectors are compared.
        truncate_dim: so many of a vector's numbers are kept.
        activation_fn: of scores, by its dotted name.
        written: all of it, as it is written.
    """

    model_type: str = "SentenceTransformer"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None
    activation_fn: str | None = None
    written: Mapping[str, object] = field(default_factory=dict)


def read_entries(source: Source, trust: object = None) -> tuple[Entry, ...] | None:
    """The steps that a checkpoint names; None where it names none and is a plain one.

    Args:
        trust: ``trust_remote_code``: True lets steps of the checkpoint's own classes be.

    Raises:
        ConfigError: the file is malformed, or leads out of the checkpoint.
        TrustError, CodeError: a step is of a class of the checkpoint's own, which may not run, or cannot.
        UnknownNameError: a step that is not supported.
    """
    path = source.find(MODULES)
    if path is None:
        return None
    entries = tuple(_entry(item, index, str(path), source, trust) for index, item in enumerate(read_json_list(path)))
    if not entries:
        raise ConfigError("there are no steps", where=str(path), expected="a Transformer first")
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names) or any("." in name for name in names):
        raise ConfigError("names that steps cannot have", where=str(path), expected="one each", found=listed(names))
    return entries


def _entry(item: object, index: int, where: str, source: Source, trust: object) -> Entry:
    if not isinstance(item, dict):
        raise ConfigError("a step is no object", where=f"{where}: {index}", found=type(item).__name__)
    r = ConfigReader(item, where=f"{where}: {index}")
    kind, path = r.text("type"), r.text("path", "")
    name = r.text("name", str(index)) or str(index)
    short = kind.rpartition(".")[2]
    own = None if TYPE.fullmatch(kind) else step_of(kind, source, trust, f"{MODULES}: {index}")
    if own is None and short not in PARTS:
        raise UnknownNameError(
            "this step is not supported", where=r.where, expected=f"one of {', '.join(PARTS)}", found=repr(kind)
        )
    inside = PurePosixPath(path.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in path:
        raise ConfigError("a folder outside the checkpoint", where=r.where, found=repr(path))
    return Entry(name, path.rstrip("/"), PARTS[short] if own is None else own, dict(item))


def load_part(entry: Entry, source: Source, changes: Mapping[str, object]) -> Part:
    """One step with its weights."""
    files = PartFiles(source, entry.path, changes)
    return entry.kind.load(files) if issubclass(entry.kind, Part) else load_step(entry.kind, files)


def read_told(source: Source) -> Told:
    """The settings of the whole; the usual ones where there is no such file."""
    path = source.find(SETTINGS)
    if path is None:
        return Told()
    r = ConfigReader(read_json(path), where=str(path))
    prompts = r.mapping("prompts") or {}
    for name, prompt in prompts.items():
        if prompt is not None and not isinstance(prompt, str):
            raise r.fail(f"prompts: {name}", "a text", type(prompt).__name__)
    r.inert("requirements", "__version__")
    fp32 = r.texts("keep_in_fp32_modules", ())
    if fp32:
        raise ConfigError("not supported", where=r.where, found=f"keep_in_fp32_modules: {listed(fp32)}")
    told = Told(
        model_type=r.text("model_type", "SentenceTransformer"),
        prompts={name: str(prompt or "") for name, prompt in prompts.items()},
        default_prompt_name=r.maybe_text("default_prompt_name"),
        similarity_fn_name=r.maybe_text("similarity_fn_name"),
        truncate_dim=r.maybe_integer("truncate_dim"),
        activation_fn=r.maybe_text("activation_fn"),
        written=r.raw,
    )
    if unknown := r.unknown():
        log.warning("%s: kept, but not known to omniform: %s", path, listed(unknown))
    return told


def save(target: Path, parts: Sequence[tuple[str, Part]], entries: Sequence[Entry], told: Mapping[str, object]) -> None:
    """Write a model in the layout, all of it at once or nothing.

    Args:
        target: the folder; made if it does not exist.
        parts: the steps, by their names.
        entries: those that were read, whose folders and types are kept.
        told: the settings of the whole.
    """
    known = {entry.name: entry for entry in entries if entry.name in dict(parts)}

    def write(folder: Path) -> None:
        listing: list[dict[str, object]] = []
        for index, (name, part) in enumerate(parts):
            entry = known.get(name)
            root = part.root and index == 0
            path = entry.path if entry is not None else "" if root else f"{index}_{part.name}"
            kind = f"sentence_transformers.models.{part.name}"
            usual: dict[str, object] = {"idx": index, "name": name, "path": path, "type": kind}
            if part.name == LogitScore.name:
                usual["type"] = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
            listing.append(dict(entry.written) if entry is not None else usual)
            (folder / path).mkdir(parents=True, exist_ok=True)
            part.save(folder / path)
            if isinstance(part, Brought):
                part.save_code(folder)
        _write(folder / MODULES, listing)
        _write(folder / SETTINGS, dict(told))

    replace_files(target, write, stale=lambda name: bool(WEIGHTS.fullmatch(name)) or name in FIRST_FILES)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
