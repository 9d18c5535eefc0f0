"""What every ``config.json`` has in common, and the object users hold: :class:`ModelConfig`."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch

from omniform.core.errors import ConfigError, nearest
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

# Keys that any config may hold and that no model computes with. The second group are settings of generation that old
# releases kept here; the engine reads them when a folder has no generation_config.json.
_BOOKKEEPING = (
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "transformers.js_config", "auto_map",
    "return_dict", "use_return_dict", "output_hidden_states", "output_attentions", "attn_implementation",
    "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset", "torchscript",
    "use_bfloat16", "chunk_size_feed_forward", "pruned_heads", "finetuning_task", "task_specific_params",
    "tf_legacy_loss", "tokenizer_class", "gradient_checkpointing", "initializer_range", "is_encoder_decoder",
    "cross_attention_hidden_size", "tie_encoder_decoder", "keys_to_ignore_at_inference", "prefix", "unsloth_version",
    "unsloth_fixed", "experts_implementation", "_experts_implementation", "model_type", "tie_last_hidden_states",
    "torch_dtype", "dtype", "architectures", "id2label", "label2id", "num_labels", "problem_type", "use_cache",
)  # fmt: skip
GENERATION_KEYS = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff",
    "eta_cutoff", "repetition_penalty", "encoder_repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "penalty_alpha", "max_time",
    "renormalize_logits", "constraints", "force_words_ids", "guidance_scale", "low_memory", "sequence_bias",
    "forced_decoder_ids", "max_initial_timestamp_index", "stop_strings", "token_healing", "watermarking_config",
    "cache_implementation", "prompt_lookup_num_tokens", "pad_token_id", "bos_token_id", "eos_token_id",
    "sep_token_id", "cls_token_id", "mask_token_id", "decoder_start_token_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """The part of a config that is the same for every family: labels, dtype, special tokens.

    Attributes:
        id2label: names of the classes of a classification head, by index; its length is the number of labels.
        problem_type: which loss a sequence classifier uses; None decides by ``num_labels`` and the labels' dtype.
        initializer_range: standard deviation for freshly made weights.
        decoder_start_token_id: first token of an encoder-decoder's answer.
    """

    architectures: tuple[str, ...] = ()
    dtype: torch.dtype | None = None
    id2label: Mapping[int, str]
    problem_type: ProblemType | None = None
    use_cache: bool = True
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    decoder_start_token_id: int | None = None

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart."""
        return len(self.id2label)


def read_common(r: ConfigReader) -> Common:
    """Read what all families share; every other bookkeeping key is declared inert."""
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
        id2label=_labels(r),
        problem_type=problem,
        use_cache=r.flag("use_cache", True),
        initializer_range=r.number("initializer_range", 0.02),
        pad_token_id=r.token("pad_token_id"),
        bos_token_id=r.token("bos_token_id"),
        eos_token_ids=eos,
        decoder_start_token_id=r.token("decoder_start_token_id"),
    )
    r.inert(*_BOOKKEEPING, *GENERATION_KEYS)
    r.values["id2label"], r.values["num_labels"] = dict(common.id2label), common.num_labels
    r.values.setdefault("label2id", {label: i for i, label in common.id2label.items()})
    return common


def _labels(r: ConfigReader) -> Mapping[int, str]:
    names = r.mapping("id2label")
    if names is None:
        number = r.integer("num_labels", 2, least=0)
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


class ModelConfig:
    """A checkpoint's config: the raw mapping, verbatim, beside the typed values read from it.

    ``config.hidden_size`` gives the value a key resolved to, its default included. Setting an attribute, or
    :meth:`replace`, patches the raw mapping and reads it again, so that an unsupported value is refused at once.

    Args:
        raw: the JSON object as it stands in ``config.json``.
        read: turns a reader into a family's typed config.
        where: the file, for messages.

    Attributes:
        raw: the object, verbatim; it is written back on save.
        spec: the family's typed config; it alone drives how the model is built.
        common: what all families share.
        unknown: keys that neither the family nor omniform knows; kept, and named in one warning.
        known: keys that the family or omniform knows, whether the file has them or not.
        parts: the nested configs (``text_config``, ``vision_config``), by key.
    """

    raw: dict[str, object]
    spec: object
    common: Common
    unknown: tuple[str, ...]
    known: frozenset[str]
    parts: Mapping[str, ModelConfig]

    def __init__(
        self, raw: Mapping[str, object], read: Callable[[ConfigReader], object], *, where: str = "config.json"
    ) -> None:
        set_ = super().__setattr__
        set_("_read", read)
        set_("_where", where)
        self._load(dict(raw))

    def _load(self, raw: dict[str, object]) -> None:
        read: Callable[[ConfigReader], object] = self.__dict__["_read"]
        reader = ConfigReader(raw, where=self.__dict__["_where"])
        reader.inert("quantization_config")
        common = read_common(reader)
        spec = read(reader)
        parts = {name: value for name, value in reader.values.items() if isinstance(value, ModelConfig)}
        unknown = (*reader.unknown(), *(f"{name}.{key}" for name, part in parts.items() for key in part.unknown))
        state = {
            "raw": raw,
            "spec": spec,
            "common": common,
            "unknown": unknown,
            "values": reader.values,
            "known": reader.touched,
            "parts": parts,
        }
        for name, value in state.items():
            super().__setattr__(name, value)

    @property
    def model_type(self) -> str:
        """The family's name."""
        return str(self.raw.get("model_type", ""))

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart."""
        return self.common.num_labels

    def replace(self, **changes: object) -> ModelConfig:
        """A new config with some keys of the raw mapping changed; another ``num_labels`` renews ``id2label``."""
        return ModelConfig(self._patched(changes), self.__dict__["_read"], where=self.__dict__["_where"])

    def _patched(self, changes: Mapping[str, object]) -> dict[str, object]:
        raw = copy.deepcopy(self.raw)
        for name, value in changes.items():
            if isinstance(value, torch.dtype):
                value = str(value).removeprefix("torch.")
            if name in ("dtype", "torch_dtype"):
                # One spelling only, the one the file has, so that the two can never disagree.
                name = "torch_dtype" if "torch_dtype" in raw and "dtype" not in raw else "dtype"
            raw[name] = value
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

    def to_dict(self) -> dict[str, object]:
        """A deep copy of the raw mapping."""
        return copy.deepcopy(self.raw)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the raw mapping to ``config.json`` in a folder, whose other files stay."""
        upstairs("hub.save:save_config")(self, save_directory)

    def get(self, name: str, default: object = None) -> object:
        """The value ``name`` resolved to, or ``default`` where no such key is known."""
        values: Mapping[str, object] = self.__dict__["values"]
        return values.get(name, self.raw.get(name, default))

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or "values" not in self.__dict__:
            raise AttributeError(name)
        values: Mapping[str, object] = self.__dict__["values"]
        if name in values:
            return values[name]
        if name in self.raw:
            return self.raw[name]
        raise AttributeError(f"{self.model_type} configs have no {name!r}. {nearest(name, values)}")

    def __setattr__(self, name: str, value: object) -> None:
        self._load(self._patched({name: value}))

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelConfig) and self.raw == other.raw

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        body = "\n".join(f"  {key}: {value!r}" for key, value in self.raw.items())
        return f"ModelConfig(\n{body}\n)"
