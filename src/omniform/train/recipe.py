"""A training as a YAML file: what is learned, from which data, by which model, with which arguments.

.. code-block:: yaml

    task: text-classification
    model: ./distilbert              # a folder, a Hub id, or a config to begin from nothing
    data:
      train: reviews.csv             # csv, json, jsonl, parquet, txt, a folder of pictures or sounds, or a dataset's id
      eval: 0.1                      # a file, or a share of the training data
      columns: {text: review, label: stars}
    options: {max_length: 128}       # the task's own
    adapter: {r: 8}                  # LoRA by PEFT, instead of all weights
    arguments: {output_dir: out, num_train_epochs: 3, learning_rate: 5.0e-5}
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from omniform.core.errors import ConfigError, RepoError, brief, listed, nearest

if TYPE_CHECKING:
    from omniform.train.arguments import TrainingArguments

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Where examples come from.

    Attributes:
        train: a file, a folder, or the name of a dataset on the Hub.
        eval: another such, or the share of ``train`` that is kept for evaluation; None for no evaluation.
        columns: the task's word for a column, and what the data call it.
        limit: at most so many examples are trained on.
        eval_limit: and evaluated on.
        split: of a dataset on the Hub.
    """

    train: str
    eval: str | float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    eval_limit: int | None = None
    split: str = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training, as its file says it.

    Attributes:
        task: one of ``omniform.train.tasks``.
        model: a folder, a Hub id, or the config of a model that begins from nothing.
        data: the examples.
        processor: whose tokenizer and preprocessing it is; the model's own by default.
        loading: keywords of the model's ``from_pretrained``.
        adapter: settings of PEFT's LoRA; None to train all weights.
        options: the task's own.
        arguments: those of :class:`~omniform.TrainingArguments`.
        home: paths are relative to this folder.
    """

    task: str
    model: str | Mapping[str, object]
    data: Data
    processor: str | Mapping[str, object] | None = None
    loading: Mapping[str, object] = field(default_factory=dict)
    adapter: Mapping[str, object] | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    arguments: Mapping[str, object] = field(default_factory=dict)
    home: str = "."

    @property
    def seed(self) -> int:
        """What the model begins from, and the order of examples."""
        return int(str(self.arguments.get("seed", 42)))

    def path(self, name: str) -> str:
        """A file or folder that the recipe names: beside the recipe if it is there, else the name as it stands."""
        beside = Path(self.home) / name
        return str(beside) if beside.exists() else name

    def training_arguments(self, kind: type[TrainingArguments], needed: Mapping[str, object]) -> TrainingArguments:
        """The arguments, of the class that the task's Trainer takes.

        Args:
            needed: what the task sets, unless the recipe says otherwise.
        """
        given = {**needed, **self.arguments}
        given.setdefault("output_dir", str(Path(self.home) / "out"))
        return kind(**given)  # type: ignore[arg-type] # they are checked there, by name and value


def read_recipe(path: str | os.PathLike[str], changes: Mapping[str, object] | None = None) -> Recipe:
    """The recipe in a YAML (or JSON) file.

    Args:
        changes: values by dotted names, ``{"arguments.learning_rate": 1e-4}``, over the file's.

    Raises:
        RepoError: there is no such file.
        ConfigError: it is no recipe; where, and what was expected.
    """
    import yaml

    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RepoError("the recipe cannot be read", where=str(file), found=brief(error)) from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("this is no YAML", where=str(file), found=" ".join(str(error).split())) from error
    if not isinstance(raw, dict):
        raise ConfigError("a recipe is a mapping", where=str(file), expected="task, model, data", found=brief(raw))
    for name, value in (changes or {}).items():
        _put(raw, name, value)
    return typed(Recipe, {"home": str(file.parent), **raw}, str(file))


def _put(raw: dict[str, object], name: str, value: object) -> None:
    """Set a value by its dotted name."""
    *outer, last = name.split(".")
    place = raw
    for part in outer:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError("this has no parts", where=name, found=f"{part}: {brief(inner)}")
        place = inner
    place[last] = value


def typed(kind: type[T], raw: Mapping[str, object], where: str) -> T:
    """A mapping as one of our dataclasses: keys are its fields, values of their kinds, nothing else.

    Raises:
        ConfigError: which key of ``where``, what was expected and found.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key in raw:
        if key not in fields:
            raise ConfigError(
                "no such key",
                where=f"{where}: {key}",
                expected=listed(name for name in fields if name != "home"),
                remedy=nearest(str(key), fields),
            )
    needed = [name for name, f in fields.items() if _is_needed(f) and name not in raw]
    if needed:
        raise ConfigError("keys are missing", where=where, expected=listed(needed), found=listed(raw))
    return kind(**{key: _fitted(value, hints[key], f"{where}: {key}") for key, value in raw.items()})


def _is_needed(f: dataclasses.Field[object]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _fitted(value: object, hint: object, where: str) -> object:
    """A value as a field's annotation wants it."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError("this is a mapping", where=where, expected=_words(hint), found=brief(value))
        return typed(hint, value, where)
    if isinstance(value, Path):
        value = str(value)
    for kind in typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        plain = typing.get_origin(kind) or kind
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            try:  # YAML reads 1e-4 as text
                return float(value)
            except ValueError:
                continue
        if isinstance(plain, type) and isinstance(value, plain) and not (plain is not bool and isinstance(value, bool)):
            return value
    raise ConfigError("a value of another kind", where=where, expected=_words(hint), found=brief(value))


_WORDS: Final = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}


def _words(hint: object) -> str:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(_WORDS.get(part, "a mapping") for part in parts)
