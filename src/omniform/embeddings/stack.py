"""A model of texts as a row of steps: what embedding models and cross-encoders have in common."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, RepoError, brief, nearest
from omniform.core.kinds import switch
from omniform.embeddings.brought import TheirModel
from omniform.embeddings.features import Features
from omniform.embeddings.layout import Entry, Told, load_part, read_entries, read_told, save
from omniform.embeddings.parts import Part
from omniform.embeddings.reading import Transformer
from omniform.embeddings.rows import Text, batches, check_text, windows
from omniform.hub.code.mode import mode_of
from omniform.hub.files import Source, locate
from omniform.hub.remote import together
from omniform.inputs.text.tokenizer import Tokenizer

log = logging.getLogger("omniform")

Name = str | os.PathLike[str]


class Stack(nn.Sequential):
    """Steps from texts to vectors or scores; the first reads texts.

    Args:
        model_name_or_path: a folder or a Hub id, in the layout of sentence-transformers or plain.
        modules: the steps, instead of a name.
        device: where it is computed; by default on an accelerator, if there is one.
        prompts: texts to put before a text, by name; they win over the checkpoint's.
        default_prompt_name: which of them, where nobody says.
        cache_folder: where the Hub's files are kept.
        trust_remote_code: True lets a checkpoint's own code run, of its model, its tokenizer and its steps.
        revision, local_files_only, token: as for :meth:`AutoModel.from_pretrained`.
        model_kwargs: keywords of :meth:`AutoModel.from_pretrained` (``{"dtype": "bfloat16"}``).
        processor_kwargs: keywords of :meth:`AutoTokenizer.from_pretrained`; ``tokenizer_kwargs`` is an older name.
        config_kwargs: config keys to change.
        backend: ``"torch"``.

    Attributes:
        prompts: texts to put before a text, by name.
        default_prompt_name: which of them, where nobody says.

    Raises:
        RepoError, ConfigError, WeightsError, UnknownNameError: as :meth:`AutoModel.from_pretrained`, and for steps
            that are not supported.
    """

    kind: ClassVar[str] = ""
    organization: ClassVar[str | None] = None
    usual_prompts: ClassVar[Mapping[str, str]] = {}

    @together()
    def __init__(
        self,
        model_name_or_path: Name | None = None,
        *,
        modules: Iterable[Part] | Mapping[str, Part] | None = None,
        device: str | torch.device | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: Name | None = None,
        trust_remote_code: bool | None = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        model_kwargs: Mapping[str, object] | None = None,
        processor_kwargs: Mapping[str, object] | None = None,
        tokenizer_kwargs: Mapping[str, object] | None = None,
        config_kwargs: Mapping[str, object] | None = None,
        backend: str = "torch",
    ) -> None:
        if backend != "torch":
            raise InputError("only torch computes here", where="backend", expected="'torch'", found=repr(backend))
        if mode_of(trust_remote_code) == "sandbox":
            remedy = "Load the model by AutoModel, or trust the code."
            raise InputError("steps run in this process", where="trust_remote_code", found="'sandbox'", remedy=remedy)
        self._entries: tuple[Entry, ...] = ()
        told = Told()
        if model_name_or_path is not None:
            cache = cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
            source = self._source(
                model_name_or_path, revision=revision, token=token, cache_dir=cache, local_files_only=local_files_only
            )
            changes = {
                "model_args": _keywords(model_kwargs, "model_kwargs"),
                "tokenizer_args": {
                    **_keywords(tokenizer_kwargs, "tokenizer_kwargs"),
                    **_keywords(processor_kwargs, "processor_kwargs"),
                },
                "config_args": _keywords(config_kwargs, "config_kwargs"),
                "trust": {"trust_remote_code": True} if trust_remote_code else {},
            }
            parts, told = self._load(source, changes)
        else:
            given = modules or ()
            named = given.items() if isinstance(given, Mapping) else ((str(i), part) for i, part in enumerate(given))
            parts = OrderedDict(named)
        _check_parts(parts, self.kind)
        super().__init__(cast("OrderedDict[str, nn.Module]", parts))
        self._told = told
        mine = {name: check_text(text, f"prompts: {name}") for name, text in _keywords(prompts, "prompts").items()}
        self.prompts: dict[str, str] = {**self.usual_prompts, **told.prompts, **mine}
        self.default_prompt_name = told.default_prompt_name if default_prompt_name is None else default_prompt_name
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise self._no_prompt(self.default_prompt_name, "default_prompt_name")
        placed = bool((model_kwargs or {}).get("device_map"))
        self._settle(device, placed=placed)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Name, **kwargs: object) -> Self:
        """Load a folder or a Hub id; keywords as for the class itself."""
        return cls(pretrained_model_name_or_path, **kwargs)  # type: ignore[arg-type]

    # ---- loading

    @classmethod
    def _source(cls, name: Name, **where: object) -> Source:
        if cls.organization is not None and isinstance(name, str) and name and not os.path.exists(name):
            plain = "/" not in name and "\\" not in name and not name.startswith((".", "~"))
            try:
                if plain and (source := locate(f"{cls.organization}/{name}", **where)).find("config.json"):  # type: ignore[arg-type]
                    return source
            except RepoError:
                log.debug("no %s/%s", cls.organization, name)
        return locate(name, **where)  # type: ignore[arg-type]

    def _load(self, source: Source, changes: Mapping[str, object]) -> tuple[OrderedDict[str, Part], Told]:
        trust = cast(Mapping[str, object], changes["trust"]).get("trust_remote_code")
        entries, told = read_entries(source, trust), read_told(source)
        if entries is None:
            return OrderedDict((str(i), part) for i, part in enumerate(self._plain(source, changes))), told
        if told.model_type != self.kind:
            raise ConfigError(
                f"this was saved as another kind of model than a {self.kind}",
                where=source.name,
                expected=self.kind,
                found=told.model_type,
                remedy=f"Load it as a {told.model_type}." if told.model_type in KINDS else None,
            )
        self._entries = entries
        return OrderedDict((entry.name, load_part(entry, source, changes)) for entry in entries), told

    @abstractmethod
    def _plain(self, source: Source, changes: Mapping[str, object]) -> Sequence[Part]:
        """The steps for a checkpoint that names none."""

    def _settle(self, device: str | torch.device | None, *, placed: bool) -> None:
        self.eval()
        dtype = self.dtype
        for part in list(self)[1:]:
            part.to(dtype)
        if not placed:
            self.to(_device(device))

    # ---- what it is

    @property
    def reader(self) -> Transformer:
        """The step that reads texts."""
        return cast(Transformer, self[0])

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self.reader.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self.reader.tokenizer = tokenizer

    @property
    def transformers_model(self) -> Model:
        """The model inside."""
        model = self.reader.model
        return cast(Model, model.inner) if isinstance(model, TheirModel) else model

    @property
    def config(self) -> ModelConfig:
        """The config of the model inside."""
        return self.reader.model.config

    @property
    def max_seq_length(self) -> int | None:
        """Longer texts are cut to so many tokens; None where nothing limits them."""
        return self.reader.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        self.reader.max_seq_length = length

    def get_max_seq_length(self) -> int | None:
        """The same as :attr:`max_seq_length`."""
        return self.max_seq_length

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.reader.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What it is computed with."""
        return self.reader.model.dtype

    # ---- texts to features

    def forward(self, features: Features) -> Features:
        """All steps, over a batch from :meth:`tokenize`; with gradients, if they are on.

        Args:
            features: by name, tensors ``[B, T]``; see :mod:`omniform.embeddings.features`.

        Returns:
            The same, and what each step makes.
        """
        for part in self:
            features = cast(Features, part(features))
        return features

    def tokenize(self, texts: Sequence[object], prompt: str | None = None) -> Features:
        """A padded batch of texts, padded on the tokenizer's own side, for :meth:`forward`."""
        if isinstance(texts, str):
            raise InputError("a text alone", where="texts", expected="a list of texts", found=brief(texts))
        checked = [self._text(text, f"texts[{i}]") for i, text in enumerate(texts)]
        rows = self.reader.rows(checked, prompt or "")
        side = self.tokenizer.padding_side
        return self.reader.features(rows, range(len(checked)), prompt or "", side)

    preprocess = tokenize

    @abstractmethod
    def _text(self, value: object, where: str) -> Text:
        """One row's text or texts; an error names ``where``."""

    def _texts(self, given: object, where: str) -> list[Text]:
        if isinstance(given, (bytes, bytearray)):
            check_text(given, where)
        if isinstance(given, np.ndarray):
            given = given.tolist()
        if not isinstance(given, Iterable) or isinstance(given, (Mapping, Set)):
            raise InputError("these are no texts", where=where, expected="a text or a list", found=brief(given))
        return [self._text(text, f"{where}[{i}]") for i, text in enumerate(given)]

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """What goes before each text: as said, else by name, else the usual one."""
        if prompt is not None:
            return check_text(prompt, "prompt")
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise self._no_prompt(name, "prompt_name")
        return self.prompts[name] or ""

    def _no_prompt(self, name: str, where: str) -> InputError:
        return InputError("no such prompt", where=where, found=repr(name), remedy=nearest(str(name), self.prompts))

    def run(
        self, texts: Sequence[Text], *, prompt: str, batch_size: int, progress: bool
    ) -> Iterator[tuple[list[int], Features]]:
        """All steps over many texts, batch by batch, longest texts first, without gradients.

        Args:
            texts: as :meth:`_text` has them.
            prompt: goes before each.
            batch_size: so many rows at once, at most.
            progress: whether a bar on stderr shows it.

        Yields:
            The places of a batch's rows among the texts, and its features.
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise InputError("no size of a batch", where="batch_size", expected="1 or more", found=brief(batch_size))
        self.eval()
        device = self.device
        with _bar(len(texts), shown=progress) as bar:
            for window in windows(texts):
                rows = self.reader.rows([texts[place] for place in window], prompt)
                for batch in batches(rows.lengths(), batch_size, device):
                    features = self.reader.features(rows, batch, prompt)
                    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in features.items()}
                    with torch.no_grad():
                        made = self(moved)
                    yield [window[place] for place in batch], made
                    bar.update(len(batch))

    # ---- saving

    def save_pretrained(
        self,
        path: Name,
        model_name: str | None = None,
        create_model_card: bool = False,
        train_datasets: Sequence[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Save in the layout that it was read in: folders, types and settings as they were.

        Args:
            path: the folder; made if it does not exist. Other files in it stay.
            model_name, create_model_card, train_datasets: without effect: no card is written.
            safe_serialization: True; weights are written as safetensors and nothing else.

        Raises:
            InputError: this is no folder's name, or another format is asked for.
            RepoError: the folder cannot be written; what was there before is untouched.
        """
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise InputError("no folder", where="path", expected="a path", found=brief(path))
        if not switch("safe_serialization", safe_serialization):
            raise InputError("weights are saved as safetensors", where="safe_serialization", expected=True, found=False)
        parts = [(name, cast(Part, part)) for name, part in self.named_children()]
        save(Path(path), parts, self._entries, self._settings())

    save = save_pretrained

    def _settings(self) -> dict[str, object]:
        kept = {"model_type": self.kind, **self._told.written}
        prompts = {name: text for name, text in self.prompts.items() if text or name in self._told.prompts}
        return {**kept, "prompts": prompts, "default_prompt_name": self.default_prompt_name}


KINDS = ("SentenceTransformer", "CrossEncoder")
"""The kinds of model that there are here."""


def check_call(device: object, pool: object) -> str | torch.device | None:
    """Where a call is to be computed.

    Raises:
        InputError: in several processes.
    """
    if pool is not None or isinstance(device, (list, tuple)):
        raise InputError(
            "texts are not spread over processes",
            where="pool" if pool is not None else "device",
            expected="one device",
            found=brief(device if pool is None else pool),
        )
    return cast("str | torch.device | None", device)


def _device(name: str | torch.device | None) -> torch.device:
    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if found is None else found
    try:
        return torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError("no such device", where="device", found=brief(name)) from None


def _keywords(given: object, where: str) -> Mapping[str, object]:
    if given is not None and not isinstance(given, Mapping):
        raise InputError("these are no names with values", where=where, expected="a mapping", found=brief(given))
    return given or {}


def _check_parts(parts: Mapping[str, Part], kind: str) -> None:
    if not parts or not isinstance(next(iter(parts.values())), Transformer):
        found = ", ".join(type(part).__name__ for part in parts.values()) or "nothing"
        raise ConfigError(
            f"a {kind} begins with the step that reads texts", where="modules", expected="a Transformer", found=found
        )
    for name, part in parts.items():
        if not isinstance(part, Part):
            raise InputError("this is no step", where=f"modules: {name}", found=type(part).__name__)


class _Bar:
    """A bar that nobody sees."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int) -> object:
        """So many more are done."""
        return None


def _bar(total: int, *, shown: bool) -> _Bar:
    if not shown:
        return _Bar()
    from tqdm import tqdm  # huggingface_hub brings it

    return cast(_Bar, tqdm(total=total, desc="Texts"))


def shows(progress: bool | None) -> bool:
    """Whether a bar is shown: as said, else where the log is that talkative."""
    return log.getEffectiveLevel() <= logging.INFO if progress is None else switch("show_progress_bar", progress)


def plain_part(source: Source, changes: Mapping[str, object], task: str) -> Transformer:
    """The reading step of a checkpoint that is not in the layout."""
    said = {name: cast(Mapping[str, object], value) for name, value in changes.items()}
    return Transformer(source.name, transformer_task=task, where=source.places(), **said)  # type: ignore[arg-type]
