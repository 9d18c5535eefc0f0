"""What every ``config.json`` has in common, and the object users hold: :class:`ModelConfig`."""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from numbers import Number
from typing import ClassVar, Literal, Self, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.attention_notes import NOTE, note_attention
from omniform.core.auto_class import AutoNamed
from omniform.core.config_keys import ATTRIBUTES, BOOKKEEPING, GENERATION_KEYS, PerLayer
from omniform.core.errors import ConfigError, check_arguments, nearest
from omniform.core.plain_settings import PlainSettings
from omniform.core.pushing import PushToHub, SaveOptions
from omniform.core.reader import ConfigReader
from omniform.core.upstairs import upstairs

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

MOST_LABELS = 2**20
"""More classes than any model tells apart; each gets a name, which takes memory."""

DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


Beginning = float | Callable[[Tensor], object]
"""How a fresh tensor begins: the standard deviation of the usual distribution, or what fills it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """The part of a config that is the same for every family: labels, dtype, special tokens.

    Attributes:
        id2label: names of the classes of a classification head, by index; its length is the number of labels.
        problem_type: which loss a sequence classifier uses; None decides by ``num_labels`` and the labels' dtype.
        use_cache: whether a call returns the state of what it read, where it does not say; likewise the next two.
        initializer_range: standard deviation for freshly made weights.
        decoder_start_token_id: first token of an encoder-decoder's answer.
        causal: whether the tokens of a decoder see what came before them only.
    """

    architectures: tuple[str, ...] = ()
    dtype: torch.dtype | None = None
    id2label: Mapping[int, str]
    problem_type: ProblemType | None = None
    use_cache: bool = True
    output_hidden_states: bool = False
    output_attentions: bool = False
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    decoder_start_token_id: int | None = None
    causal: bool = True

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart."""
        return len(self.id2label)


def read_common(r: ConfigReader, labels: int = 2) -> Common:
    """Read what all families share; every other bookkeeping key is declared inert.

    Args:
        labels: how many classes there are where the config does not say.
    """
    named = r.maybe_text("dtype", also=("torch_dtype",))
    name = None if named is None else named.removeprefix("torch.")
    if name is not None and name not in DTYPES:
        raise ConfigError("dtype is not supported", where=r.where, found=repr(name), remedy=nearest(name, DTYPES))
    problem = None
    if r.raw.get("problem_type") is not None:
        problem = cast(ProblemType, r.choice("problem_type", PROBLEM_TYPES))
    eos = r.ids("eos_token_id")
    common = Common(
        architectures=r.texts("architectures", ()),
        dtype=None if name is None else DTYPES[name],
        id2label=_labels(r, labels),
        problem_type=problem,
        use_cache=r.flag("use_cache", True),
        output_hidden_states=r.flag("output_hidden_states", False),
        output_attentions=r.flag("output_attentions", False),
        initializer_range=r.number("initializer_range", 0.02),
        pad_token_id=r.token("pad_token_id"),
        bos_token_id=r.token("bos_token_id"),
        eos_token_ids=eos,
        decoder_start_token_id=r.token("decoder_start_token_id"),
        causal=r.flag("is_causal", True),
    )
    r.inert(*BOOKKEEPING, *GENERATION_KEYS)
    r.values["id2label"], r.values["num_labels"] = common.id2label, common.num_labels
    r.values.setdefault("label2id", {label: i for i, label in common.id2label.items()})
    return common


def _labels(r: ConfigReader, usual: int) -> Mapping[int, str]:
    names = r.mapping("id2label")
    if names is None:
        number = r.integer("num_labels", usual, least=0)
        if number > MOST_LABELS:
            raise r.fail("num_labels", f"at most {MOST_LABELS}", number)
        return {i: f"LABEL_{i}" for i in range(number)}
    try:
        labels = {int(key): str(name) for key, name in names.items()}
    except ValueError:
        raise r.fail("id2label", "class indices as keys", sorted(names)[:3]) from None
    if sorted(labels) != list(range(len(labels))):
        raise r.fail("id2label", f"the indices 0 to {len(labels) - 1}", sorted(labels)[:10])
    return dict(sorted(labels.items()))


def _anything(r: ConfigReader) -> object:
    r.inert(*r.raw)
    return None


class ModelConfig(AutoNamed, PushToHub):
    """A checkpoint's config: the raw mapping, verbatim, beside the typed values read from it.

    Every family has a class of its own (``LlamaConfig``), made from its :class:`~omniform.architectures.family.Family`;
    this one is their base. Configs of the user's own inherit from :class:`~omniform.core.own_config.PreTrainedConfig`.

    ``config.hidden_size`` gives the value a key resolved to, its default included. Setting an attribute, or
    :meth:`replace`, patches the raw mapping and reads it again, so that an unsupported value is refused at once.

    Args:
        settings: keys to set; all others have the family's defaults.

    Attributes:
        raw: the object, verbatim; it is written back on save.
        spec: the family's typed config; it alone drives how the model is built.
        common: what all families share.
        unknown: keys that neither the family nor omniform knows; kept, and named in one warning.
        known: keys that the family or omniform knows, whether the file has them or not.
        parts: the nested configs (``text_config``, ``vision_config``), by key.

    Raises:
        UnknownArgumentError: a family's config has no such key.
        ConfigError: a value is not supported.
    """

    _usual_auto_class: ClassVar[str] = "AutoConfig"

    model_type: str = ""
    reader: ClassVar[Callable[[ConfigReader], object]] = staticmethod(_anything)
    """Turns the raw mapping into the family's typed config."""
    usual: ClassVar[Mapping[str, object]] = {}
    learns_padding: ClassVar[bool] = True
    """Attributes that the ecosystem reads of this family's configs, and that its maths has no use for."""

    labels: ClassVar[int] = 2
    """How many classes a head tells apart where the config does not say."""

    begins: ClassVar[Callable[[ModelConfig, str], Beginning | None] | None] = None
    """How tensors of this family begin, by their paths, where the general rule does not say."""

    raw: dict[str, object]
    spec: object
    common: Common
    unknown: tuple[str, ...]
    known: frozenset[str]
    parts: Mapping[str, ModelConfig]

    def __init__(self, **settings: object) -> None:
        kind = type(self)
        early: Mapping[str, object] = self.__dict__.pop("_early", {})
        self._begin({"model_type": kind.model_type, **early}, kind.__name__)
        if settings:
            if kind.reader is not _anything:
                check_arguments(kind.__name__, settings, {*self.known, *self.raw, *kind.usual, *ATTRIBUTES})
            self._load(self._patched(settings))
            if "attn_implementation" in settings:
                note_attention(self, settings["attn_implementation"])

    @classmethod
    def from_raw(
        cls,
        raw: Mapping[str, object],
        *,
        where: str = "config.json",
        read: Callable[[ConfigReader], object] | None = None,
        name_or_path: str = "",
    ) -> Self:
        """From the mapping of a ``config.json``, kept verbatim.

        Args:
            where: the file, for messages.
            read: what reads it, if not the class's own reader.
            name_or_path: the folder or the Hub id that it came from.
        """
        config = cls.__new__(cls)
        config._begin(dict(raw), where, read, name_or_path)
        return config

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, object], **changes: object) -> Self:
        """From a mapping, some keys of it changed; keys that nobody knows are kept."""
        if not isinstance(config_dict, Mapping):
            raise ConfigError("not a mapping", where=cls.__name__, found=type(config_dict).__name__)
        if cls.__init__ is not ModelConfig.__init__:  # a class of the user's own, which sets defaults of its own
            return cls(**{**config_dict, **changes})
        return cls.from_raw({"model_type": cls.model_type}, where=cls.__name__).replace(**{**config_dict, **changes})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:
        """The config of a folder or a Hub id; see :class:`omniform.AutoConfig`."""
        return cast(Self, upstairs("hub.checkpoint:load_config")(cls, pretrained_model_name_or_path, **kwargs))

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object
    ) -> tuple[dict[str, object], dict[str, object]]:
        """The mapping in the file of a folder or a Hub id, verbatim; and what is left of ``kwargs``: nothing."""
        return cls.from_pretrained(pretrained_model_name_or_path, **kwargs).to_diff_dict(), {}

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """The config in one file."""
        return cls.from_pretrained(json_file)

    def _begin(
        self,
        raw: dict[str, object],
        where: str,
        read: Callable[[ConfigReader], object] | None = None,
        name_or_path: str = "",
    ) -> None:
        notes: dict[str, object] = {"_name_or_path": name_or_path}
        self.__dict__.update(_where=where, _read=read, _notes=notes, _owner=None)
        self._load({name: plain(name, value) for name, value in raw.items()})

    def _load(self, raw: dict[str, object]) -> None:
        reader = ConfigReader(raw, where=self.__dict__["_where"])
        reader.inert("quantization_config")
        common = read_common(reader, type(self).labels)
        spec = (self.__dict__["_read"] or type(self).reader)(reader)
        # Some families begin with other numbers where the file does not say.
        common = replace(
            common,
            initializer_range=cast(float, reader.values["initializer_range"]),
            # And timm's name their classes in words of their own.
            id2label=cast("Mapping[int, str]", reader.values["id2label"]),
        )
        parts = {name: value for name, value in reader.values.items() if isinstance(value, ModelConfig)}
        for name, part in parts.items():
            part.__dict__["_owner"] = (self, name)
        unknown = (*reader.unknown(), *(f"{name}.{key}" for name, part in parts.items() for key in part.unknown))
        self.__dict__.update(
            raw=raw,
            model_type=str(raw.get("model_type") or type(self).model_type),
            spec=spec,
            common=common,
            unknown=unknown,
            values=reader.values,
            known=reader.touched,
            parts=parts,
            spellings=reader.spellings,
            rivals=reader.rivals,
        )

    def __reduce__(self) -> tuple[object, ...]:
        state = self.__dict__
        return _again, (type(self), dict(self.raw), state["_where"], state["_read"], dict(state["_notes"]))

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart."""
        return self.common.num_labels

    @property
    def use_return_dict(self) -> bool:
        """Whether models return objects with named entries: they do, unless a call says otherwise."""
        return True

    @property
    def name_or_path(self) -> str:
        """The folder or the Hub id that this config came from; empty if it was made."""
        return str(self.__dict__["_notes"]["_name_or_path"])

    @name_or_path.setter
    def name_or_path(self, name: str) -> None:
        self.__dict__["_notes"]["_name_or_path"] = name

    def beginning(self, path: str) -> Beginning | None:
        """How a fresh tensor begins, if not by the general rule; ``path``: what the model calls it."""
        rule = type(self).begins
        return None if rule is None else rule(self, path)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> ModelConfig:
        """The part that reads text, of a part that thinks too; the config itself where all of it does.

        Args:
            decoder: look among the parts that write only.
            encoder: look among the parts that read only.
        """
        if "thinker_config" in self.parts:
            return self.parts["thinker_config"].get_text_config(decoder, encoder)
        names = (*(() if encoder else ("decoder", "generator", "text_config")), *(() if decoder else ("text_encoder",)))
        return next((self.parts[name] for name in names if name in self.parts), self)

    def replace(self, **changes: object) -> Self:
        """A new config with some keys of the raw mapping changed; another ``num_labels`` renews ``id2label``."""
        made = copy.deepcopy(self)
        made._load(made._patched(changes))
        made._keep(changes)
        return made

    def update(self, config_dict: Mapping[str, object]) -> None:
        """Change several keys at once."""
        self._change(dict(config_dict))

    def update_from_string(self, update_str: str) -> None:
        """Change several keys, written as ``"use_cache=false,initializer_range=0.1"``."""
        pairs = [pair.partition("=") for pair in update_str.split(",")]
        for name, _, _ in pairs:
            if self.get(name, _Missing) is _Missing:
                raise ConfigError("no such key", where="update_str", found=name, remedy=nearest(name, self.known))
        self.update({n: value if isinstance(self.get(n), str) else _spoken(value) for n, _, value in pairs})

    def _change(self, changes: Mapping[str, object]) -> None:
        self._load(self._patched(changes))
        self._keep(changes)
        owner: tuple[ModelConfig, str] | None = self.__dict__["_owner"]
        if owner is not None:  # a part of a config that is saved as one
            whole, name = owner
            whole._change({name: self})
            self.__dict__["_owner"] = owner

    def _keep(self, changes: Mapping[str, object]) -> None:
        """Have settings that are objects handed out as they were given; saved is what they say."""
        held = {name: value for name, value in changes.items() if isinstance(value, PlainSettings)}
        self.__dict__["_notes"] = {n: v for n, v in self.__dict__["_notes"].items() if n not in changes} | held
        if "attn_implementation" in changes:
            note_attention(self, changes["attn_implementation"])

    def _patched(self, changes: Mapping[str, object]) -> dict[str, object]:
        raw = copy.deepcopy(self.raw)
        groups: Mapping[str, tuple[str, ...]] = self.__dict__["spellings"]
        rivals: Mapping[str, tuple[str, ...]] = self.__dict__["rivals"]
        for given, value in changes.items():
            if given == "attn_implementation":  # a note
                continue
            name = given
            if given in ("dtype", "torch_dtype"):
                # One spelling only, the one the file has, so that the two can never disagree.
                name = "torch_dtype" if "torch_dtype" in raw and "dtype" not in raw else "dtype"
            elif given not in raw:
                name = next((other for other in groups.get(given, ()) if other in raw), given)
            raw[name] = plain(given, value)
            for other in groups.get(given, ()):
                if other != name and other not in changes:
                    raw.pop(other, None)  # else the older spelling would count
            for other in rivals.get(given, ()):
                if other not in changes:
                    raw.pop(other, None)
        self._relabel(raw, changes)
        return raw

    def _relabel(self, raw: dict[str, object], changes: Mapping[str, object]) -> None:
        """Keep the labels, their inverse and their number in step, whichever of them was changed."""
        labels, number = changes.get("id2label"), changes.get("num_labels")
        if isinstance(labels, Mapping):
            if number is not None and number != len(labels):
                raise ConfigError(
                    "num_labels contradicts id2label",
                    where=self.__dict__["_where"],
                    expected=f"{len(labels)}, the length of id2label",
                    found=number,
                )
            raw.pop("num_labels", None)
            raw["id2label"] = {str(key): label for key, label in labels.items()}
            if "label2id" not in changes:
                raw["label2id"] = {str(label): int(key) for key, label in labels.items() if str(key).isdecimal()}
        elif number is not None and number != self.common.num_labels:
            # Other labels than before: their names are not known.
            for name in {"id2label", "label2id"} - changes.keys():
                raw.pop(name, None)

    # -- writing -----------------------------------------------------------------------------------------------------

    def to_diff_dict(self) -> dict[str, object]:
        """A deep copy of the raw mapping: what was set, and what is saved."""
        return copy.deepcopy(self.raw)

    def to_save(self) -> dict[str, object]:
        """What goes into ``config.json``."""
        return self.to_diff_dict()

    def to_dict(self) -> dict[str, object]:
        """Every key with the value it resolved to, defaults included; nested configs as mappings."""
        values: Mapping[str, object] = self.__dict__["values"]
        alias = {name for names in self.__dict__["spellings"].values() for name in names[1:]}
        unspoken = (alias | {"num_labels", "architectures"}) - self.raw.keys()
        given = {name: plain(name, value, whole=True) for name, value in values.items() if name not in unspoken}
        resolved = {*self.parts, "id2label"}
        written = {name: value for name, value in self.raw.items() if name not in resolved}
        usual = {name: value for name, value in type(self).usual.items() if name not in given}
        return {**usual, **given, **copy.deepcopy(written), "model_type": self.model_type}

    def to_json_string(self, use_diff: bool = True) -> str:
        """The JSON text: as it is saved, or with every key."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write :meth:`to_json_string` to a file."""
        with open(json_file_path, "w", encoding="utf-8") as file:
            file.write(self.to_json_string(use_diff))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub: Unpack[SaveOptions]
    ) -> None:
        """Write the raw mapping to ``config.json`` in a folder, whose other files stay.

        Args:
            push_to_hub: also commit it to a repository.
            hub: to which, and how.
        """
        upstairs("hub.save:save_config")(self, save_directory, push_to_hub=push_to_hub, **hub)

    per_layer_config = PerLayer()
    # -- attributes --------------------------------------------------------------------------------------------------

    def get(self, name: str, default: object = None) -> object:
        """The value ``name`` resolved to, or ``default`` where no such key is known."""
        for table in (self.__dict__["values"], self.raw, type(self).usual, ATTRIBUTES):
            if name in table:
                return cast(object, table[name])
        return default

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or "values" not in self.__dict__:
            raise AttributeError(name)
        notes: Mapping[str, object] = self.__dict__["_notes"]
        value = notes[name] if name in notes else self.get(name, _Missing)
        if value is _Missing:
            values: Mapping[str, object] = self.__dict__["values"]
            raise AttributeError(f"{self.model_type} configs have no {name!r}. {nearest(name, values)}")
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if "values" not in self.__dict__:  # a class of the user's own, before it calls ours
            self.__dict__.setdefault("_early", {})[name] = value
        elif name == NOTE:
            note_attention(self, value)
        elif name.startswith("_") and name not in self.raw:
            self.__dict__["_notes"][name] = value  # what tools note for themselves is never saved
        elif name == "name_or_path":
            self.__dict__["_notes"]["_name_or_path"] = value
        else:
            self._change({name: value})

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelConfig) and self.raw == other.raw

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        body = "\n".join(f"  {key}: {value!r}" for key, value in self.raw.items())
        return f"{type(self).__name__}(\n{body}\n)"


class _Missing:
    """Told apart from a value of None."""


def _again(
    kind: type[ModelConfig],
    raw: Mapping[str, object],
    where: str,
    read: Callable[[ConfigReader], object] | None,
    notes: Mapping[str, object],
) -> ModelConfig:
    made = kind.from_raw(raw, where=where, read=read)
    made.__dict__["_notes"].update(notes)
    return made


def _spoken(text: str) -> object:
    with contextlib.suppress(ValueError):
        return json.loads(text.lower() if text in ("True", "False") else text)
    return text


def plain(name: str, value: object, *, whole: bool = False) -> object:
    """A value as JSON can hold it.

    Args:
        whole: of nested configs every key, and not only those that were set.

    Raises:
        ConfigError: it cannot.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, PlainSettings):
        return plain(name, value.to_dict(), whole=whole)
    if isinstance(value, ModelConfig):
        return value.to_dict() if whole else {"model_type": value.model_type, **copy.deepcopy(value.raw)}
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Mapping):
        return {key: plain(name, inner, whole=whole) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(name, inner, whole=whole) for inner in value]
    if isinstance(value, Enum):
        return plain(name, value.value)
    if isinstance(value, Number) and isinstance(value, np.generic):
        return cast(object, value.item())
    if isinstance(value, (str, int, float)):
        return value
    raise ConfigError(
        "a config holds plain values only", where=name, expected="what JSON can hold", found=type(value).__name__
    )
