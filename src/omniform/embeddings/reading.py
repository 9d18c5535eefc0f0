"""The step that reads texts: a tokenizer and a model of one of omniform's families."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, cast

from tokenizers import Tokenizer as Backend
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from torch import Tensor

from omniform.architectures.encoder_decoder import EncoderDecoder
from omniform.architectures.model import Model
from omniform.core.errors import ConfigError, InputError, check_arguments
from omniform.core.reader import ConfigReader
from omniform.embeddings.brought import as_ours, config_of
from omniform.embeddings.features import LOGITS, MASK, PROMPT, SCORES, TOKENS, Features, tensor_of
from omniform.embeddings.parts import Part, PartFiles
from omniform.embeddings.rows import Rows, Side, Text
from omniform.embeddings.wording import AsItIs, Conversation, Wording, is_flat
from omniform.hub.auto import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from omniform.hub.auto import AutoModelForTextEncoding as AutoModelForReading
from omniform.hub.auto_inputs import AutoTokenizer
from omniform.hub.options import WHERE_ARGUMENTS
from omniform.inputs.text.options import LARGEST_LENGTH
from omniform.inputs.text.tokenizer import Tokenizer

NAMES: Final = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)  # fmt: skip
"""What the file of settings has been called."""

HALVES: Final = frozenset({"blenderbot", "blenderbot-small", "m2m_100", "marian", "pegasus"})
"""Encoder-decoders of which the encoder alone is read; of those that are not here, the decoder reads the text too."""


def _hidden(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    return cast(Tensor, model(**inputs, use_cache=False)["last_hidden_state"])


def _encoded(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    assert isinstance(model, EncoderDecoder)
    return cast(Tensor, model.encoder(**inputs)["last_hidden_state"])


def _classified(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    return cast(Tensor, model(**inputs, use_cache=False)["logits"])


def _continued(model: Model, inputs: Mapping[str, Tensor]) -> Tensor:
    return cast(Tensor, model(**inputs, use_cache=False, logits_to_keep=1)["logits"])


@dataclass(frozen=True, slots=True)
class Job:
    """What a model is loaded for.

    Attributes:
        auto: loads it.
        run: computes the feature.
        reads: the output of the model that it is.
        makes: the feature's name.
        side: where rows are padded. Behind, whatever the tokenizer says: a row is then the same alone and among
            others. In front where the last place is looked at.
    """

    auto: type[AutoModel]
    run: Callable[[Model, Mapping[str, Tensor]], Tensor]
    reads: str
    makes: str
    side: Side


JOBS: Final[Mapping[str, Job]] = {
    "feature-extraction": Job(AutoModelForReading, _hidden, "last_hidden_state", TOKENS, "right"),
    "sequence-classification": Job(AutoModelForSequenceClassification, _classified, "logits", SCORES, "right"),
    "text-generation": Job(AutoModelForCausalLM, _continued, "logits", LOGITS, "left"),
}
"""By the names that the layout has for them (``transformer_task``)."""


class Transformer(Part):
    """Reads texts: ids from the tokenizer, vectors of tokens (or scores) from the model.

    Args:
        model_name_or_path: a folder or a Hub id.
        max_seq_length: longer texts are cut to so many tokens, special ones included; by default what tokenizer and
            config allow.
        do_lower_case: texts are lowered first.
        transformer_task: one of :data:`JOBS`.
        model_args: keywords of :meth:`AutoModel.from_pretrained`.
        tokenizer_args: keywords of :meth:`AutoTokenizer.from_pretrained`.
        config_args: config keys to change.
        trust: ``trust_remote_code``, if the checkpoint's own code may run.
    """

    name = "Transformer"
    root = True

    def __init__(
        self,
        model_name_or_path: str,
        max_seq_length: int | None = None,
        do_lower_case: bool = False,
        transformer_task: str = "feature-extraction",
        *,
        model_args: Mapping[str, object] | None = None,
        tokenizer_args: Mapping[str, object] | None = None,
        config_args: Mapping[str, object] | None = None,
        where: Mapping[str, object] | None = None,
        wording: Callable[[Tokenizer, str], Wording] | None = None,
        trust: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        where = {**(where or {}), **(trust or {})}
        places, for_tokenizer, changes = dict(where or {}), dict(tokenizer_args or {}), dict(config_args or {})
        if transformer_task not in JOBS:
            raise InputError("no such task", where="transformer_task", expected=", ".join(JOBS), found=transformer_task)
        self.transformer_task, self.do_lower_case = transformer_task, do_lower_case
        self.job = JOBS[transformer_task]
        config = config_of(AutoConfig.from_pretrained(model_name_or_path, **places))
        brought = config.raw.get("auto_map") if trust else None
        auto = self.job.auto
        if auto is AutoModelForReading and isinstance(brought, Mapping) and "AutoModel" in brought:
            auto = AutoModel  # the name by which checkpoints bring one
        named = config.common.architectures
        classes = [name for name in named if name.endswith("ForSequenceClassification")]
        if transformer_task == "sequence-classification" and not classes:
            changes.setdefault("num_labels", 1)  # a score, where nobody has said what there is to tell apart
        self.model = as_ours(auto.from_pretrained(model_name_or_path, **places, **(model_args or {}), **changes))
        _check_reads_text(self.model, model_name_or_path)
        if transformer_task == "feature-extraction" and self.model.config.model_type in HALVES:
            self.job = Job(self.job.auto, _encoded, "last_hidden_state", TOKENS, "right")
        if max_seq_length is not None:
            for_tokenizer.setdefault("model_max_length", max_seq_length)
        self.tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, **places, **for_tokenizer)
        most = config.get("max_position_embeddings", -1)
        if "model_max_length" not in for_tokenizer and isinstance(most, int) and most > 0:
            self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, most)
        if do_lower_case:
            _lower(self.tokenizer)
        family = self.model.config.model_type
        self.wording = self._usual_wording(family) if wording is None else wording(self.tokenizer, family)
        self._prompts: dict[str, int] = {}

    @classmethod
    def load(cls, files: PartFiles) -> Self:
        r = next((r for r in map(files.config, NAMES) if r.raw), files.config(NAMES[0]))
        changes = {name: dict(cast(Mapping[str, object], files.changes.get(name, {}))) for name in ARGUMENTS}
        said = {name: {**_arguments(r, name), **changes[name]} for name in ARGUMENTS}
        task = r.choice("transformer_task", JOBS, "feature-extraction")
        _check_kinds(r)
        source = files.own
        places = {**source.places(), "subfolder": source.subfolder}
        part = cls(
            source.name,
            r.maybe_integer("max_seq_length"),
            r.flag("do_lower_case", False),
            task,
            model_args=said["model_args"],
            tokenizer_args=said["tokenizer_args"],
            config_args=said["config_args"],
            where=places,
            wording=_wording(r),
            trust=cast("Mapping[str, object]", files.changes.get("trust", {})),
        )
        return files.told(r, part)

    # ---- what it is

    @property
    def auto_model(self) -> Model:
        """The model."""
        return self.model

    @property
    def max_seq_length(self) -> int | None:
        """Longer texts are cut to so many tokens; None where nothing limits them."""
        return None if self.tokenizer.model_max_length > LARGEST_LENGTH else self.tokenizer.model_max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        self.tokenizer.model_max_length = length

    def settings(self) -> dict[str, object]:
        told = self.wording.settings()
        if self.transformer_task != "feature-extraction":
            told["transformer_task"] = self.transformer_task
        if "modality_config" in told:
            told["module_output_name"] = self.job.makes
        return {"max_seq_length": self.max_seq_length, "do_lower_case": self.do_lower_case, **told}

    def changed(self) -> dict[str, object]:
        length = self.max_seq_length
        told = self.written.get("max_seq_length")
        return {"max_seq_length": length} if "max_seq_length" in self.written and told not in (None, length) else {}

    def dimension(self, incoming: int | None) -> int | None:
        width = self.model.config.get("hidden_size") or self.model.config.get("d_model")
        return width if isinstance(width, int) else None

    # ---- what it does

    def _usual_wording(self, family: str) -> Wording:
        """What a checkpoint that is not in the layout gets: its chat template, if it has one."""
        if self.tokenizer.chat_template is None:
            return AsItIs()
        return Conversation(is_flat(self.tokenizer, family), self.job.reads)

    def rows(self, texts: Sequence[Text], prompt: str = "") -> Rows:
        """The ids of texts, or of pairs of them; a prompt goes before each, of a pair before the first.

        Raises:
            InputError: the tokenizer cannot read one of them.
        """
        encoded: Mapping[str, Sequence[Sequence[int]]] = {"input_ids": []}
        if texts:
            encoded = self.wording.encode(self.tokenizer, texts, prompt)
        accepted = self.model.accepts()
        kept = [name for name in ("input_ids", "token_type_ids") if name in encoded and name in accepted]
        fill = {"input_ids": self.tokenizer.pad_token_id or 0, "token_type_ids": 0}
        return Rows({name: encoded[name] for name in kept}, fill)

    def prompt_length(self, prompt: str) -> int:
        """How many tokens a prompt is, without the special one at its end."""
        if prompt not in self._prompts:
            ids = self.rows([prompt]).columns["input_ids"][0]
            framed = bool(ids) and ids[-1] in self.tokenizer.all_special_ids
            self._prompts[prompt] = len(ids) - framed
        return self._prompts[prompt]

    def features(self, rows: Rows, places: Sequence[int], prompt: str, side: Side | None = None) -> Features:
        """Some of the rows as a padded batch."""
        batch = rows.batch(places, side or self.job.side)
        return {**batch, PROMPT: self.prompt_length(prompt)} if self.wording.marks(prompt) else batch

    def forward(self, features: Features) -> Features:
        inputs = {name: value for name, value in features.items() if isinstance(value, Tensor) and name in INPUTS}
        mask = tensor_of(features, MASK, "Transformer")
        # A row without a token would be seen by nobody; the model reads its padding, and nobody pools it.
        inputs[MASK] = mask.where(mask.any(1, keepdim=True), 1)
        return {**features, self.job.makes: self.job.run(self.model, inputs)}

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        settings = {**self.written, **self.changed()} if self.written else self.settings()
        (folder / NAMES[0]).write_text(json.dumps(settings, indent=4), encoding="utf-8")


INPUTS: Final = frozenset({"input_ids", MASK, "token_type_ids"})

ARGUMENTS: Final[Mapping[str, str]] = {
    "model_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "config_args": "config_kwargs",
}
"""Keywords that a file may hold, by their older names and today's."""

MODEL_ARGUMENTS: Final = ("dtype", "torch_dtype", "attn_implementation", "add_pooling_layer")
"""What a file may say about how its model is loaded; more is the user's to say."""

PROCESSING: Final = ("add_special_tokens", "max_length", "truncation")


def _arguments(r: ConfigReader, name: str) -> Mapping[str, object]:
    said = dict(r.mapping(name) or {}) | dict(r.mapping(ARGUMENTS[name]) or {})
    said.pop("trust_remote_code", None)  # a file cannot allow itself anything
    said = {key: value for key, value in said.items() if value is not None}
    allowed = MODEL_ARGUMENTS if name == "model_args" else None
    for key in said:
        if (allowed is not None and key not in allowed) or key in WHERE_ARGUMENTS:
            raise ConfigError(
                "a checkpoint's file cannot say this",
                where=f"{r.where}: {name}",
                expected="one of " + ", ".join(allowed or ("the tokenizer's or config's own settings",)),
                found=repr(key),
            )
    if str(said.get("attn_implementation", "")).startswith("flash"):
        del said["attn_implementation"]  # it names a kernel, and no other result
    return said


def _wording(r: ConfigReader) -> Callable[[Tokenizer, str], Wording]:
    """How texts become prompts, as the settings say: older ones say nothing, and mean texts as they are."""
    said = dict(r.mapping("processing_kwargs") or {})
    variables, text, common = (_settings(said.pop(name, None), r) for name in ("chat_template", "text", "common"))
    for kind, more in said.items():
        if kind not in ("audio", "image", "video") and more:
            raise ConfigError("not supported", where=f"{r.where}: processing_kwargs", expected="text", found=repr(kind))
    options = {name: value for name, value in {**text, **common}.items() if name not in ("padding", "return_tensors")}
    for name in PROCESSING:
        if name in variables:
            options[name] = variables.pop(name)
    check_arguments(f"{r.where}: processing_kwargs: text", options, PROCESSING)
    message = (r.mapping("modality_config") or {}).get("message")
    if not isinstance(message, Mapping):
        return lambda tokenizer, family: AsItIs(options)
    form, mends = message.get("format", "auto"), variables.pop("restore_suffix", True) is True
    variables.pop("padding", None)

    def through_template(tokenizer: Tokenizer, family: str) -> Wording:
        flat = is_flat(tokenizer, family) if form == "auto" else form == "flat"
        return Conversation(flat, str(message.get("method_output_name")), options, variables, mends)

    return through_template


def _settings(value: object, r: ConfigReader) -> dict[str, object]:
    if value is not None and not isinstance(value, dict):
        raise r.fail("processing_kwargs", "settings by modality", type(value).__name__)
    return dict(value or {})


def _check_kinds(r: ConfigReader) -> None:
    """Refuse what is read otherwise than as text, or gives another output than the task's."""
    kinds = r.mapping("modality_config")
    if kinds is not None:
        outputs = ("last_hidden_state", "logits")
        text = kinds.get("message", kinds.get("text"))
        said = text if isinstance(text, Mapping) else {}
        if said.get("method") != "forward" or said.get("method_output_name") not in outputs:
            raise ConfigError(
                "texts of this checkpoint are read in a way that is not supported",
                where=f"{r.where}: modality_config",
                expected="text, by forward, as last_hidden_state or logits",
                found=str(dict(kinds)),
            )
    r.only("module_output_name", None, *(job.makes for job in JOBS.values()))
    r.only("query_expansion", None, why="That is for models of several vectors per text.")
    r.inert("unpad_inputs", "query_length", "document_length", "backend", "model_name_or_path")


def _check_reads_text(model: Model, name: str) -> None:
    if model.main_input != "input_ids" or model.config.parts:
        raise InputError(
            "this model is not read as text alone",
            where=name,
            expected="a model of texts",
            found=f"{type(model).__name__} ({model.config.model_type})",
        )


def _lower(tokenizer: Tokenizer) -> None:
    backend = tokenizer.backend if isinstance(tokenizer, Tokenizer) else None
    if not isinstance(backend, Backend):
        found = type(tokenizer).__name__
        raise ConfigError("this tokenizer cannot lower its texts", where="do_lower_case", found=found)
    own = backend.normalizer
    several = isinstance(own, Normalizers)
    steps: list[object] = [*own] if several else [] if own is None else [own]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Normalizers([Lowercase(), *steps])
