"""Scripts of sentencepiece files that number their own pieces: SigLIP, BertGeneration."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omniform.inputs.text.pieces import Segmenter
from omniform.inputs.text.scripted import Cut, Scripted
from omniform.inputs.text.settings import Settings, vocabulary_file

_SPACE = "▁"
_FILE = "spiece.model"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(slots=True)
class FileScript:
    """The pieces of a sentencepiece file.

    Attributes:
        segmenter: what cuts texts.
        unknown: the piece that stands for what is none.
    """

    segmenter: Segmenter
    unknown: str
    lowers: bool = False
    once: str | None = None
    unsplit: tuple[str, ...] = ()
    _ids: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._ids = {}
        for index, name in enumerate(self.segmenter.names):
            self._ids.setdefault(name, index)

    @property
    def size(self) -> int:
        return len(self.segmenter.names)

    def vocabulary(self) -> dict[str, int]:
        return dict(self._ids)

    def holds(self, token: str) -> bool:
        return token in self._ids

    def id_of(self, token: str) -> int | None:
        return self._ids.get(token, self._ids.get(self.unknown))

    def token_of(self, index: int) -> str | None:
        return self.segmenter.name(index)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        return self.segmenter.cut(text)

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return "".join(tokens).replace(_SPACE, " ").strip()

    def files(self) -> Mapping[str, str | bytes]:
        return {_FILE: self.segmenter.data}


@dataclass(slots=True)
class SiglipScript(FileScript):
    """SigLIP's: no punctuation, single spaces, small letters where ``lowers`` says so.

    Texts are taken apart behind the unknown piece, so that no space is put before them.

    Attributes:
        special: the special tokens that decoding leaves as they are.
    """

    special: frozenset[str] = frozenset()

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        # The places of characters are lost with those that are taken out.
        plain = re.sub(r"\s+", " ", (text.lower() if self.lowers else text).translate(_PUNCTUATION)).strip()
        pieces, before = self.segmenter.cut(self.unknown + plain), len(self.segmenter.cut(self.unknown))
        return [Cut(piece.token, 0, len(text)) for piece in (pieces[before:] if len(pieces) >= before else pieces)]

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        text, run, beside = "", list[str](), False
        for token in tokens:
            if token in self.special or token in added:
                text += ("" if beside else " ") + self.segmenter.join(run) + token
                run = []
            else:
                run.append(token)
            beside = not run
        return (text + self.segmenter.join(run)).strip()


class SiglipScripted(Scripted):
    """SigLIP's texts begin with a space; ``▁`` in them is one."""

    def cut(self, text: str) -> list[Cut]:
        cuts = super().cut(_SPACE + text.replace(_SPACE, " "))
        special = {token.content for token in self.get_added_tokens_decoder().values() if token.special}
        if len(cuts) > 1 and cuts[0].token == _SPACE and cuts[1].token in special:
            cuts = cuts[1:]
        return [Cut(cut.token, max(cut.start - 1, 0), max(cut.end - 1, 0)) for cut in cuts]


def bert_generation(files: Mapping[str, Path], settings: Settings) -> FileScript:
    """BertGeneration's pieces."""
    return FileScript(_segmenter(files, settings), str(settings.named["unk_token"]))


def siglip(files: Mapping[str, Path], settings: Settings) -> SiglipScript:
    """SigLIP's pieces."""
    end = settings.named["eos_token"]
    named = (*settings.named.values(), *(settings.extra or []), *(settings.additional or []))
    return SiglipScript(
        _segmenter(files, settings),
        str(settings.named["unk_token"]),
        lowers=settings.flag("do_lower_case", True),
        once=None if end is None else str(end),
        special=frozenset(str(token) for token in named if token is not None),
    )


def siglip_tokens(settings: Settings) -> None:
    """Texts are 64 tokens long, where the folder says nothing else."""
    if settings.integer("model_max_length") is None:
        settings.values["model_max_length"] = 64


def _segmenter(files: Mapping[str, Path], settings: Settings) -> Segmenter:
    name = "tokenizer.model" if _FILE not in files and "tokenizer.model" in files else _FILE
    return Segmenter.of(vocabulary_file(files, name, settings))
