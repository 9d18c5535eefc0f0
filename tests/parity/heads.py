"""A family's architectures, and those that many families share; how old files spell their keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from askers import PROBLEMS, Asker, Nothing, Places, Routed, Text, Tokens, Words, counted

from omniform.architectures.model import Model
from reference import omniform


@dataclass(frozen=True, slots=True)
class Head:
    """One architecture of a family.

    Attributes:
        reference: the ecosystem's class name.
        auto: our Auto class; ``""`` for the class of the same name.
        asks: what it is asked.
        everywhere: whether all variants of the config are tried on it, or only the plain one.
        but: variants that are left out then.
        unused: parameters that get no gradient, by the beginnings of their paths.
        rate: of the training that must lower its loss.
    """

    reference: str
    auto: str
    asks: Asker
    everywhere: bool = False
    but: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    rate: float = 1e-2

    def load(self, folder: Path, **kwargs: object) -> Model:
        """Ours, from a folder."""
        return getattr(omniform, self.auto or self.reference).from_pretrained(folder, **kwargs)


def decoder_heads(prefix: str, *, without: Sequence[str] = (), **text: object) -> dict[str, Head]:
    """The heads of a decoder: base, writer, and classifiers of rows, tokens and places."""
    text = {"positions": counted, **text}
    heads = {
        "Model": Head(f"{prefix}Model", "AutoModel", Text(Nothing(), **text)),
        "ForCausalLM": Head(f"{prefix}ForCausalLM", "AutoModelForCausalLM", Text(Words(), **text), everywhere=True),
        **classifiers(prefix, **text),
    }
    return {name: head for name, head in heads.items() if not name.startswith(tuple(without) or ("-",))}


def routed_heads(prefix: str, *, without: Sequence[str] = ()) -> dict[str, Head]:
    """The heads of a decoder with experts, whose writer tells which of them were chosen."""
    writer = Head(f"{prefix}ForCausalLM", "AutoModelForCausalLM", Routed(Words(), positions=counted), everywhere=True)
    return {**decoder_heads(prefix, without=without), "ForCausalLM": writer}


def classifiers(prefix: str, **text: object) -> dict[str, Head]:
    """Row classifiers of every type of problem, a token classifier, a question answerer."""
    rows = {
        f"ForSequenceClassification, {problem}": Head(
            f"{prefix}ForSequenceClassification", "AutoModelForSequenceClassification", Text(labels, **text)
        )
        for problem, labels in PROBLEMS.items()
    }
    return {
        **rows,
        "ForTokenClassification": Head(
            f"{prefix}ForTokenClassification", "AutoModelForTokenClassification", Text(Tokens(), **text)
        ),
        "ForQuestionAnswering": Head(
            f"{prefix}ForQuestionAnswering", "AutoModelForQuestionAnswering", Text(Places(), **text)
        ),
    }


def bare(prefix: str) -> Callable[[str], str]:
    """Keys without the base model's prefix."""
    return lambda key: key.removeprefix(f"{prefix}.")


def gamma(key: str) -> str:
    """TensorFlow's names for what a layer norm learns."""
    return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def compiled(key: str) -> str:
    """As a model under ``torch.compile`` wrote them."""
    return f"_orig_mod.{key}"
