"""Embedding models: :class:`Embedder`, by the name that scripts know ``SentenceTransformer``, and :func:`embed`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import ClassVar, Final, Literal, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.kinds import switch
from omniform.embeddings.features import MASK, SENTENCE, TOKENS, Features, tensor_of
from omniform.embeddings.parts import Part
from omniform.embeddings.pooling import Pooling
from omniform.embeddings.quantize import PRECISIONS, check_precision
from omniform.embeddings.rows import Text, check_text
from omniform.embeddings.similarity import SIMILARITIES, Vectors, check_similarity
from omniform.embeddings.stack import Name, Stack, check_call, plain_part, shows
from omniform.hub.files import Source

T = TypeVar("T")

Array = npt.NDArray[np.generic]
Output = Literal["sentence_embedding", "token_embeddings"] | None
Embedded = Array | Tensor | list[Tensor] | Features | list[Features]

INSTRUCTORS: Final = frozenset({"hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl"})
"""Checkpoints whose files do not say that their prompts do not count."""

DOCUMENTS: Final = ("document", "passage", "corpus")
"""Names that the prompt of a document may have, the first that is there counts."""


class Embedder(Stack):
    """Texts to vectors, with any checkpoint in the layout of sentence-transformers, or a plain one.

    Args:
        similarity_fn_name: ``"cosine"`` (by default), ``"dot"``, ``"euclidean"`` or ``"manhattan"``.
        truncate_dim: so many of a vector's numbers are kept, of models whose first numbers say most (Matryoshka,
            https://arxiv.org/abs/2205.13147).

    The other arguments are those of :class:`~omniform.embeddings.stack.Stack`. A plain checkpoint is read as the mean
    of its tokens, one that writes text as its last token.
    """

    kind = "SentenceTransformer"
    organization = "sentence-transformers"
    usual_prompts: ClassVar[Mapping[str, str]] = {"query": "", "document": ""}

    def __init__(
        self,
        model_name_or_path: Name | None = None,
        *,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(model_name_or_path, **kwargs)  # type: ignore[arg-type]
        told = self._told
        name = told.similarity_fn_name if similarity_fn_name is None else similarity_fn_name
        self._similarity = "cosine" if name is None else check_similarity(name, "similarity_fn_name")
        self.truncate_dim = _check_width(told.truncate_dim if truncate_dim is None else truncate_dim)
        if str(model_name_or_path) in INSTRUCTORS:
            self.set_pooling_include_prompt(False)

    def _plain(self, source: Source, changes: Mapping[str, object]) -> Sequence[Part]:
        reader = plain_part(source, changes, "feature-extraction")
        config = reader.model.config
        named = config.raw.get("architectures")
        writes = isinstance(named, list) and bool(named) and str(named[0]).endswith("ForCausalLM")
        mode = "lasttoken" if writes and config.raw.get("is_causal", True) else "mean"
        width = reader.dimension(None)
        if width is None:
            raise InputError("the width of this model's vectors is not known", where=source.name)
        return reader, Pooling(width, mode)

    # ---- what it is

    @property
    def similarity_fn_name(self) -> str:
        """How :meth:`similarity` compares."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str | None) -> None:
        self._similarity = "cosine" if name is None else check_similarity(name, "similarity_fn_name")

    def get_embedding_dimension(self) -> int | None:
        """How many numbers a vector has."""
        width: int | None = None
        for part in self:
            width = cast(Part, part).dimension(width)
        kept = self.truncate_dim
        return width if kept is None else kept if width is None else min(width, kept)

    get_sentence_embedding_dimension = get_embedding_dimension

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Say whether the tokens of a prompt count."""
        for part in self:
            if isinstance(part, Pooling):
                part.include_prompt = include_prompt

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within this block, so many numbers of a vector are kept."""
        before, self.truncate_dim = self.truncate_dim, _check_width(truncate_dim)
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    # ---- texts to vectors

    @overload
    def encode(
        self,
        sentences: str | Sequence[str] | npt.NDArray[np.str_],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding"] = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: Literal[True] = True,
        convert_to_tensor: Literal[False] = False,
        **options: object,
    ) -> Array: ...

    @overload
    def encode(
        self,
        sentences: str | Sequence[str] | npt.NDArray[np.str_],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding"] = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        *,
        convert_to_tensor: Literal[True],
        **options: object,
    ) -> Tensor: ...

    @overload
    def encode(self, sentences: object = None, prompt_name: str | None = None, **options: object) -> Embedded: ...

    def encode(  # type: ignore[misc]  # the last form takes whatever the two before it do not
        self,
        sentences: object = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Output = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        inputs: object = None,
    ) -> Embedded:
        """The vectors of texts, in their order.

        Args:
            sentences: a text, or many; ``inputs`` is another name for them.
            prompt_name: the name of what goes before each text, among :attr:`prompts`.
            prompt: the same itself; it wins over a name.
            batch_size: so many texts are computed at once, at most; fewer where their lengths differ.
            show_progress_bar: a bar on stderr.
            output_value: ``"sentence_embedding"``; ``"token_embeddings"`` for each text's vectors of tokens; None for
                all features of each text.
            precision: ``"float32"`` leaves the model's own dtype; ``"int8"``, ``"uint8"`` for a byte per number, in
                ranges that these texts span; ``"binary"``, ``"ubinary"`` for a bit.
            convert_to_numpy: an array (bfloat16 as float32); False for a list of tensors.
            convert_to_tensor: one tensor instead, on the model's device.
            device: where to compute; the model stays there.
            normalize_embeddings: make every vector's length 1, after cutting.
            truncate_dim: so many numbers of each vector are kept.
            pool, chunk_size: None: texts are not spread over processes.

        Returns:
            ``[N, D]``, or ``[D]`` for a text alone; see ``output_value`` and ``convert_to_numpy``.

        Raises:
            InputError: something among the texts is none, bytes for one; no such prompt or precision.
        """
        given = sentences if sentences is not None else inputs
        alone = isinstance(given, str)
        texts = self._texts([given] if alone else given, "sentences")
        made = check_precision(precision)
        if output_value not in ("sentence_embedding", "token_embeddings", None):
            raise InputError(
                "no such output", where="output_value", expected="sentence_embedding, token_embeddings or None",
                found=repr(output_value),
            )  # fmt: skip
        if (where := check_call(device, pool)) is not None:
            self.to(where)
        width = _check_width(self.truncate_dim if truncate_dim is None else truncate_dim)
        finish = _Finish(width, switch("normalize_embeddings", normalize_embeddings))
        run = self.run(
            texts, prompt=self._prompt(prompt, prompt_name), batch_size=batch_size, progress=shows(show_progress_bar)
        )
        if output_value == "sentence_embedding":
            to_cpu = convert_to_numpy and not convert_to_tensor
            vectors = _gathered(run, len(texts), finish, torch.device("cpu") if to_cpu else self.device)
            return _formed(vectors, made, numpy=to_cpu, tensor=convert_to_tensor, alone=alone)
        if output_value is None:
            features = _per_text(run, len(texts), finish.row_of)
            return features[0] if alone else features
        tokens = _per_text(run, len(texts), _tokens_of)
        return tokens[0] if alone else tokens

    def encode_query(self, sentences: object = None, prompt_name: str | None = None, **options: object) -> Embedded:
        """The vectors of questions: :meth:`encode`, with the prompt called ``"query"`` where nobody says another."""
        if prompt_name is None and options.get("prompt") is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(sentences, prompt_name, **options)

    def encode_document(self, sentences: object = None, prompt_name: str | None = None, **options: object) -> Embedded:
        """The vectors of documents: :meth:`encode`, with the prompt for them where nobody says another."""
        if prompt_name is None and options.get("prompt") is None:
            prompt_name = next((name for name in DOCUMENTS if name in self.prompts), None)
        return self.encode(sentences, prompt_name, **options)

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """How alike vectors are, all against all. Shape: [N, D] and [M, D] to [N, M]."""
        return SIMILARITIES[self._similarity][0](embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """How alike vectors are, pair by pair. Shape: [N, D] and [N, D] to [N]."""
        return SIMILARITIES[self._similarity][1](embeddings1, embeddings2)

    def _text(self, value: object, where: str) -> Text:
        return check_text(value, where)

    def _settings(self) -> dict[str, object]:
        kept: dict[str, object] = {"similarity_fn_name": self._similarity}
        if self.truncate_dim is not None or "truncate_dim" in self._told.written:
            kept["truncate_dim"] = self.truncate_dim
        return {**super()._settings(), **kept}


class _Finish:
    """What is done to vectors last: cutting, then making their length 1."""

    def __init__(self, width: int | None, normalize: bool) -> None:
        self.width, self.normalize = width, normalize

    def __call__(self, features: Features) -> Tensor:
        vectors_BD = tensor_of(features, SENTENCE, "encode")[..., : self.width]
        return F.normalize(vectors_BD, dim=-1) if self.normalize else vectors_BD

    def row_of(self, features: Features, row: int) -> Features:
        """Everything that is known of one text."""
        cut = {**features, SENTENCE: tensor_of(features, SENTENCE, "encode")[..., : self.width]}
        return {name: value[row] if isinstance(value, Tensor) else value for name, value in cut.items()}


def _tokens_of(features: Features, row: int) -> Tensor:
    mask = tensor_of(features, MASK, "encode")[row].bool()
    return tensor_of(features, TOKENS, "encode")[row][mask]


def _gathered(run: Iterator[tuple[list[int], Features]], many: int, finish: _Finish, device: torch.device) -> Tensor:
    """All vectors, written where they belong as they come, so that nothing is held twice."""
    out: Tensor | None = None
    for places, features in run:
        vectors_BD = finish(features)
        if out is None:
            out = torch.empty((many, vectors_BD.shape[-1]), dtype=vectors_BD.dtype, device=device)
        out[torch.tensor(places, device=device)] = vectors_BD.to(device)
    return torch.empty(0, device=device) if out is None else out


def _per_text(run: Iterator[tuple[list[int], Features]], many: int, take: Callable[[Features, int], T]) -> list[T]:
    found: dict[int, T] = {}
    for places, features in run:
        found.update((place, take(features, row)) for row, place in enumerate(places))
    return [found[place] for place in range(many)]


def _formed(vectors: Tensor, precision: str, *, numpy: bool, tensor: bool, alone: bool) -> Embedded:
    if precision != "float32" and len(vectors):
        array = PRECISIONS[precision](_array(vectors))  # type: ignore[arg-type]
        if numpy:
            return cast(Array, array[0] if alone else array)
        vectors = torch.from_numpy(array)
    if numpy:
        array = _array(vectors)
        return cast(Array, array[0] if alone else array)
    if alone:
        return vectors[0]
    return vectors if tensor else list(vectors)


def _array(vectors: Tensor) -> Array:
    return cast(Array, (vectors.float() if vectors.dtype is torch.bfloat16 else vectors).cpu().numpy())


def _check_width(width: int | None) -> int | None:
    if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
        raise InputError("no number of numbers", where="truncate_dim", expected="1 or more", found=brief(width))
    return width


SentenceTransformer = Embedder


def embed(texts: str | Sequence[str], model: Name | Embedder, **options: object) -> Embedded:
    """The vectors of texts.

    Args:
        texts: a text, or many.
        model: a folder, a Hub id, or an :class:`Embedder` (which need not be loaded again).
        options: as for :meth:`Embedder.encode`.

    Returns:
        ``[N, D]``, or ``[D]`` for a text alone.

    Raises:
        InputError, RepoError, ConfigError: as :class:`Embedder` and :meth:`Embedder.encode`.
        UnknownArgumentError: another option.
    """
    chosen = model if isinstance(model, Embedder) else Embedder(model)
    check_arguments("embed", options, signature(Embedder.encode).parameters)
    prompt_name = cast("str | None", options.pop("prompt_name", None))
    return chosen.encode(cast(object, texts), prompt_name, **options)
