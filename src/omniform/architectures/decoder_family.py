"""The heads that stand on any decoder, and families that have them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor, nn

from omniform.architectures.decoder import CausalLM, TextDecoder, tied
from omniform.architectures.family import Builder, Task
from omniform.architectures.heads import HeadConfig, LastToken, RowParts, TextHeads
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


class HasText(Protocol):
    """A config that holds its text as a part (:class:`~omniform.architectures.parts.DecoderText`)."""

    @property
    def text(self) -> HeadConfig: ...


SAME = KeyMap({})
"""Our names are the Hub's."""

CLASSIFIED = ("sequence", "token")
"""What the usual heads tell classes of."""

C = TypeVar("C")
T = TypeVar("T", bound=HasText)
Adjust = Callable[[Tensor], Tensor]


class DecoderHeads(TextHeads[C, HeadConfig]):
    """The heads on top of a decoder, each a builder for :meth:`Builder.head`.

    Args:
        build: makes the decoder.
        of: what the heads need of the config.
        adjust: what is done to the scores of tokens; None for nothing.
    """

    def __init__(
        self,
        build: Callable[[C], TextDecoder],
        of: Callable[[C], HeadConfig],
        adjust: Callable[[C], Adjust | None] | None = None,
    ) -> None:
        super().__init__(of)
        self._build = build
        self._adjust = adjust

    def lm_head(self, c: C, model: TextDecoder) -> nn.Linear:
        """The projection onto the vocabulary."""
        table = model.embed_tokens
        return tied(nn.Linear(model.width, table.num_embeddings, bias=False), table, self._of(c).tie)

    def causal_lm(self, c: C, _: Common) -> CausalLM:
        """The decoder that writes."""
        model = self._build(c)
        adjust = None if self._adjust is None else self._adjust(c)
        return CausalLM(model=model, lm_head=self.lm_head(c, model), adjust=adjust)

    def bare(self, c: C) -> TextDecoder:
        return self._build(c)

    def row(self, c: C, common: Common, scores: int) -> RowParts:
        """A row is told from its last token."""
        classifier = nn.Linear(self._of(c).dim, scores, bias=False)
        pool = LastToken(common.pad_token_id)
        return {"model": self.bare(c), "pool": pool, "classifier": classifier, "dropout": 0.0}


class BiasedDecoderHeads(DecoderHeads[C]):
    """The same heads, where the projection onto the vocabulary has a bias (GPT-J, Phi)."""

    def lm_head(self, c: C, model: TextDecoder) -> nn.Linear:
        table = model.embed_tokens
        return tied(nn.Linear(model.width, table.num_embeddings), table, self._of(c).tie)


def decoder_family(
    model_type: str,
    name: str,
    read: Callable[[ConfigReader], T],
    build: Callable[[T], TextDecoder],
    keys: KeyMap | Callable[[T], KeyMap] = SAME,
    *,
    tokenizer: str = "LlamaTokenizer",
    classified: Sequence[str] = CLASSIFIED,
    answers: str | None = "model",
    usual: Mapping[str, object] | None = None,
    adjust: Callable[[T], Adjust | None] | None = None,
    causal_lm: Callable[[T, Common], CausalLM] | None = None,
) -> Builder[T]:
    """A family with the usual heads: the next token, a class of the row, of each token, and answers.

    Args:
        name: what its class names begin with: ``"Llama"``.
        keys: where the decoder's weights live; under our own names, which are the Hub's, by default.
        tokenizer: class name of its tokenizer.
        classified: what there are classifiers of, ``"sequence"`` and ``"token"``: some families have the first alone.
        answers: what the decoder is called in checkpoints that answer questions; None if there are none.
        usual: attributes that the ecosystem reads of its configs and that its maths has no use for.
        adjust: what is done to the scores of tokens.
        causal_lm: makes the decoder that writes, if it is no plain :class:`CausalLM`.
    """
    heads = DecoderHeads(build, lambda c: c.text, adjust)
    classifiers = {"sequence": heads.sequence_classifier, "token": heads.token_classifier}
    tasks: dict[str, Task] = {"sequence": "sequence-classification", "token": "token-classification"}
    row = ["causal LM", *([f"{' and '.join(classified)} classification"] if classified else [])]
    row += ["question answering"] if answers else []
    family = (
        Builder(model_type, read, keys, prefix="model")
        .public(config=f"{name}Config", tokenizer=tokenizer, row=", ".join(row), usual=usual)
        .base(f"{name}Model", build)
        .head(f"{name}ForCausalLM", "causal-lm", heads.causal_lm if causal_lm is None else causal_lm)
    )
    for kind in classified:
        named = f"{name}For{kind.title()}Classification"
        family.head(named, tasks[kind], classifiers[kind], {"classifier": "score"})
    if answers is not None:
        family.head(f"{name}ForQuestionAnswering", "question-answering", heads.question_answerer, prefix=answers)
    return family
