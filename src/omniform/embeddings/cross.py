"""Cross-encoders: a model that reads two texts at once and says how well they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from omniform.core.errors import ConfigError, InputError, brief
from omniform.embeddings.activations import Function, activation_named, name_of
from omniform.embeddings.brought import config_of
from omniform.embeddings.features import SCORES, tensor_of
from omniform.embeddings.parts import Dense, LogitScore, Part
from omniform.embeddings.rows import Text, check_text
from omniform.embeddings.stack import Name, Stack, check_call, plain_part, shows
from omniform.hub.auto import AutoConfig
from omniform.hub.files import Source

Scores = npt.NDArray[np.float32] | Tensor | list[Tensor]


class CrossEncoder(Stack):
    """Pairs of texts to scores, for ranking what an :class:`~omniform.embeddings.embedder.Embedder` has found.

    Args:
        num_labels: how many scores a pair gets; by default as the checkpoint has it.
        max_length: longer pairs are cut to so many tokens; by default what tokenizer and config allow.
        activation_fn: of scores; by default the checkpoint's, else a sigmoid where there is one label, else nothing.

    The other arguments are those of :class:`~omniform.embeddings.stack.Stack`. A plain checkpoint is read as one that
    classifies; one that writes text by how much likelier it would write "yes" than "no".
    """

    kind = "CrossEncoder"

    def __init__(
        self,
        model_name_or_path: Name | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Function | None = None,
        **kwargs: object,
    ) -> None:
        if num_labels is not None:
            kwargs["config_kwargs"] = {**_mapping(kwargs.get("config_kwargs")), "num_labels": num_labels}
        if max_length is not None:
            kwargs["processor_kwargs"] = {**_mapping(kwargs.get("processor_kwargs")), "model_max_length": max_length}
        super().__init__(model_name_or_path, **kwargs)  # type: ignore[arg-type]
        self._own = (self._own_activation(),)  # in a tuple: no part of the model
        self._activation = self._own if activation_fn is None else (activation_fn,)

    def _plain(self, source: Source, changes: Mapping[str, object]) -> Sequence[Part]:
        trust = cast("Mapping[str, object]", changes["trust"])
        config = config_of(AutoConfig.from_pretrained(source.name, **source.places(), **trust))
        named = config.raw.get("architectures")
        if not (isinstance(named, list) and named and str(named[0]).endswith("ForCausalLM")):
            return (plain_part(source, changes, "sequence-classification"),)
        reader = plain_part(source, changes, "text-generation")
        words = {word: reader.tokenizer.get_vocab().get(word) for word in ("yes", "no")}
        for word, token in words.items():
            if token is None:
                raise ConfigError(
                    "the tokenizer has no token for an answer", where=source.name, expected="'yes' and 'no'",
                    found=f"no {word!r}", remedy="Give modules=[Transformer(...), LogitScore(...)] with other ones.",
                )  # fmt: skip
        return reader, LogitScore(cast(int, words["yes"]), words["no"])

    def _own_activation(self) -> Function:
        """The activation of the checkpoint: as the settings of the layout, its config, or an older config name it."""
        raw = self.config.raw
        told = raw.get("sentence_transformers")
        named = (
            (self._told.activation_fn, "config_sentence_transformers.json: activation_fn"),
            (told.get("activation_fn") if isinstance(told, Mapping) else None, "config.json: sentence_transformers"),
            (raw.get("sbert_ce_default_activation_function"), "config.json: sbert_ce_default_activation_function"),
        )
        for name, where in named:
            if name is not None:
                return activation_named(name, where)
        return nn.Sigmoid() if self.num_labels == 1 else nn.Identity()

    # ---- what it is

    @property
    def activation_fn(self) -> Function:
        """What is done to scores."""
        return self._activation[0]

    @activation_fn.setter
    def activation_fn(self, activation: Function) -> None:
        self._activation = (activation,)

    @property
    def model(self) -> nn.Module:
        """The model inside."""
        return self.transformers_model

    @property
    def max_length(self) -> int | None:
        """So many tokens of a pair are read; another name of ``max_seq_length``."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, length: int) -> None:
        self.max_seq_length = length

    @property
    def num_labels(self) -> int:
        """How many scores a pair gets."""
        for part in reversed(list(self)):
            if isinstance(part, Dense) and part.makes == SCORES:
                return part.out_features
            if isinstance(part, LogitScore):
                return 1
        return self.config.common.num_labels

    # ---- pairs to scores

    def predict(
        self,
        sentences: object = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Function | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        inputs: object = None,
        activation_fct: Function | None = None,
        num_workers: int = 0,
    ) -> Scores | np.float32:
        """The scores of pairs, in their order.

        Args:
            sentences: a pair of texts, or many; ``inputs`` is another name for them.
            prompt_name: the name of what goes before the first text of each pair, among :attr:`prompts`.
            prompt: the same itself; it wins over a name.
            batch_size: so many pairs are computed at once, at most.
            show_progress_bar: a bar on stderr.
            activation_fn: instead of the model's own; ``activation_fct`` is an older name.
            apply_softmax: where there are several labels, make their scores chances.
            convert_to_numpy: an array; False for a list of tensors.
            convert_to_tensor: one tensor instead.
            device: where to compute; the model stays there.
            pool, chunk_size: None: pairs are not spread over processes.
            num_workers: of older releases; nothing is spread over workers.

        Returns:
            ``[N]`` for one label, ``[N, labels]`` for several; of a pair alone without the first axis. In float32.

        Raises:
            InputError: something among the pairs is none.
        """
        given = sentences if sentences is not None else inputs
        alone = _is_pair(given)
        pairs = self._texts([given] if alone else given, "sentences")
        if (where := check_call(device, pool)) is not None:
            self.to(where)
        act = activation_fn or activation_fct or self.activation_fn
        one = self.num_labels == 1
        out: Tensor | None = None
        run = self.run(
            pairs, prompt=self._prompt(prompt, prompt_name), batch_size=batch_size, progress=shows(show_progress_bar)
        )
        for places, features in run:
            scores = act(tensor_of(features, SCORES, "predict").float())
            scores = scores[..., 0] if one and scores.dim() > 1 else scores
            scores = scores.softmax(-1) if apply_softmax and scores.dim() > 1 else scores
            if out is None:
                out = scores.new_empty((len(pairs), *scores.shape[1:]))
            out[torch.tensor(places, device=out.device)] = scores
        found = torch.empty(0) if out is None else out
        if convert_to_numpy and not convert_to_tensor:
            array = cast("npt.NDArray[np.float32]", found.cpu().numpy())
            return cast("npt.NDArray[np.float32] | np.float32", array[0]) if alone else array
        if alone:
            return found[0]
        return found if convert_to_tensor else list(found)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Function | None = None,
        apply_softmax: bool | None = False,
        device: str | torch.device | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        num_workers: int = 0,
    ) -> list[dict[str, int | float | str]]:
        """Documents by how well they fit a question, best first.

        Args:
            query: the question.
            documents: what may answer it.
            top_k: so many of them, at most.
            return_documents: give the texts too.
            prompt_name, prompt, batch_size, show_progress_bar, activation_fn, device: as for :meth:`predict`.
            apply_softmax: without effect: there is one label.
            pool, chunk_size: None: as for :meth:`predict`.
            convert_to_numpy, convert_to_tensor, num_workers: of older releases, without effect: scores are numbers.

        Returns:
            For each its place among the documents (``corpus_id``), its ``score``, and its ``text`` where asked for.

        Raises:
            InputError: the model has several labels; a document is no text.
        """
        if self.num_labels != 1:
            raise InputError(
                "documents are ranked by one score", where="rank", expected="a model of one label",
                found=f"{self.num_labels} labels", remedy="predict() gives all scores of each pair.",
            )  # fmt: skip
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise InputError("no number of documents", where="top_k", expected="1 or more, or None", found=brief(top_k))
        if isinstance(documents, (str, bytes)):
            raise InputError("a text alone", where="documents", expected="a list of texts", found=brief(documents))
        question = check_text(query, "query")
        texts = [check_text(text, f"documents[{i}]") for i, text in enumerate(documents)]
        scores = cast(
            Tensor,
            self.predict(
                [(question, text) for text in texts],
                prompt_name,
                prompt,
                batch_size,
                show_progress_bar,
                activation_fn,
                convert_to_tensor=True,
                device=device,
                pool=pool,
            ),
        ).tolist()
        order = sorted(range(len(texts)), key=lambda place: -scores[place])[:top_k]
        found: list[dict[str, int | float | str]] = [{"corpus_id": place, "score": scores[place]} for place in order]
        if return_documents:
            for item, place in zip(found, order, strict=True):
                item["text"] = texts[place]
        return found

    def _text(self, value: object, where: str) -> Text:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) != 2:
            raise InputError("this is no pair", where=where, expected="two texts", found=brief(value))
        return check_text(value[0], f"{where}[0]"), check_text(value[1], f"{where}[1]")

    def _settings(self) -> dict[str, object]:
        kept, told = super()._settings(), self._told.activation_fn
        if told is None or self._activation is not self._own:
            kept["activation_fn"] = name_of(self.activation_fn)
        return kept


def _is_pair(given: object) -> bool:
    if isinstance(given, np.ndarray):
        return given.ndim == 1 and given.size > 0 and isinstance(given[0], str)
    return isinstance(given, (list, tuple)) and len(given) > 0 and isinstance(given[0], (str, bytes))


def _mapping(given: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", given or {})
