"""The tokenizer classes by the names that the ecosystem imports them by.

They are made when they are asked for, one per row of :data:`~omniform.inputs.text.names.CLASSES`: a class is its name
and its recipe, and no more. ``BertTokenizerFast`` is ``BertTokenizer``, as it is in the ecosystem since its release 5;
the base classes of the ecosystem are one class here, since there is one implementation,
but for ``PreTrainedTokenizer``, from which users derive tokenizers that they write in Python.
"""

from __future__ import annotations

from omniform.inputs.text import translating
from omniform.inputs.text.ctc import Wav2Vec2CTCTokenizer
from omniform.inputs.text.names import ALIASES, CLASSES, GENERIC
from omniform.inputs.text.own.tokenizer import PreTrainedTokenizer as PreTrainedTokenizer
from omniform.inputs.text.phones import Wav2Vec2PhonemeCTCTokenizer
from omniform.inputs.text.spoken import SpeechT5Tokenizer, VitsTokenizer
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.text.whisper import WhisperTokenizer
from omniform.inputs.text.word_boxes import LayoutLMv3Tokenizer

PreTrainedTokenizerBase = PreTrainedTokenizerFast = TokenizersBackend = Tokenizer
PythonBackend = PreTrainedTokenizer

BASES: dict[str, type[Tokenizer]] = {
    **dict.fromkeys(("PreTrainedTokenizerBase", "PreTrainedTokenizerFast", "TokenizersBackend"), Tokenizer),
    **dict.fromkeys(("PreTrainedTokenizer", "PythonBackend"), PreTrainedTokenizer),
}
"""Names of the class of all tokenizers, and of those that users write in Python."""

_FAST = "Fast"
_made: dict[str, type[Tokenizer]] = {GENERIC: Tokenizer, WhisperTokenizer.recipe_name: WhisperTokenizer}
_made[Wav2Vec2CTCTokenizer.recipe_name] = Wav2Vec2CTCTokenizer
_made[Wav2Vec2PhonemeCTCTokenizer.recipe_name] = Wav2Vec2PhonemeCTCTokenizer
_made |= {made.recipe_name: made for made in (LayoutLMv3Tokenizer, SpeechT5Tokenizer, VitsTokenizer)}
_made |= translating.CLASSES


def names() -> tuple[str, ...]:
    """Every name that this module answers to."""
    own = [*CLASSES, *ALIASES]
    return (*BASES, *own, *(name + _FAST for name in own))


def class_named(name: str) -> type[Tokenizer]:
    """The class of a name.

    Raises:
        KeyError: there is none.
    """
    if name in BASES:
        return BASES[name]
    bare = name.removesuffix(_FAST)
    bare = ALIASES.get(bare, bare)
    if bare not in _made:
        if bare not in CLASSES:
            raise KeyError(name)
        # Pickles name the class by this module, whose attribute it is.
        space: dict[str, object] = {"__module__": __name__, "__doc__": f"A tokenizer of the class {bare}."}
        _made[bare] = type(bare, (Tokenizer,), {**space, "recipe_name": bare})
    return _made[bare]


def __getattr__(name: str) -> type[Tokenizer]:
    try:
        return class_named(name)
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return [*globals(), *names()]
