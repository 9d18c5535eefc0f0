"""Names of families: how they are spelled, and how one becomes another in names, strings and comments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+[0-9]*|[0-9]+")


def snake(cased: str) -> str:
    """``MyNewModel2`` is ``my_new_model2``, ``CLIPText`` is ``clip_text``."""
    return "_".join(word.lower() for word in _WORD.findall(cased))


def camel(name: str) -> str:
    """``my_new_model2`` is ``MyNewModel2``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def cased_as(name: str, classes: Iterable[str]) -> str | None:
    """How classes spell a family's name: ``gpt_neox`` is ``GPTNeoX`` where most classes begin so; None if none does."""
    flat = name.replace("_", "").replace("-", "").lower()
    # Underscores count for nothing: Qwen2_5_VLModel is of qwen2_5_vl.
    pattern = re.compile("_*".join(map(re.escape, flat)) + "_?", re.IGNORECASE)
    found = Counter(match[0] for each in classes if (match := pattern.match(each)) is not None)
    # The next letter begins a word: Optional is no class of OPT's.
    whole = Counter(
        {
            spelled: count
            for spelled, count in found.items()
            if any(_begins(each, spelled) for each in classes if each.startswith(spelled))
        }
    )
    if not whole:
        return None
    most = max(whole.values())
    return sorted(spelled for spelled, count in whole.items() if count == most)[0]


def _begins(name: str, prefix: str) -> bool:
    rest = name[len(prefix) :]
    return name[:1].isupper() and (not rest or not rest[0].islower())


def family_of(stem: str, classes: Sequence[str]) -> str | None:
    """The family's name that a file's name holds and its classes begin with: ``my_llama`` is of ``llama``.

    None where the classes have no common beginning.
    """
    parts = stem.split("_")
    for length in range(len(parts), 0, -1):
        for start in range(len(parts) - length + 1):
            name = "_".join(parts[start : start + length])
            if name and cased_as(name, classes) is not None:
                return name
    words = [_WORD.findall(each) for each in classes if not each.startswith("_")]
    if len(words) < 2:
        return None
    common: list[str] = []
    for at in zip(*words, strict=False):
        if len(set(at)) > 1:
            break
        common.append(at[0])
    joined = "".join(common)
    return snake(joined) if joined and all(len(each) > len(joined) for each in map("".join, words)) else None


def prefix_for(child: str, parent: str, old: str | None) -> str | None:
    """What stands in a class's name where its parent's has the family's: ``MyTextModel(LlamaModel)`` says ``MyText``.

    None where the two names end differently.
    """
    if old and parent.startswith(old):
        rest = parent[len(old) :]
        if rest and child.endswith(rest) and len(child) > len(rest):
            return child[: -len(rest)]
    common = 0
    while common < min(len(child), len(parent)) and child[-1 - common] == parent[-1 - common]:
        common += 1
    suffix = child[len(child) - common :]
    # Only whole words count.
    while suffix and not (suffix[0].isupper() and (suffix[1:2].islower() or not suffix[1:])):
        suffix = suffix[1:]
    if not suffix or suffix in (child, parent):
        return None
    return child[: -len(suffix)]


@dataclass(frozen=True)
class Renamer:
    """Turns a family's name into another wherever it stands as a word or a part of a name.

    Attributes:
        old: the family's name as in ``model_type``; empty: nothing is renamed.
        old_cased: as its classes begin.
        new: the new model's name in the same spelling.
        new_cased: what the new classes begin with.
        owned: the names that the family's files define. Others are not the family's.
        attributes: the attributes that they set: ``x.clip()`` is none in CLIP's files.
    """

    old: str
    old_cased: str
    new: str
    new_cased: str
    owned: frozenset[str] = field(default=frozenset(), repr=False)
    attributes: frozenset[str] = field(default=frozenset(), repr=False)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest = sorted(map(re.escape, {self.old, self.old_cased}), key=lambda form: (-len(form), form))
        forms = "|".join(longest)
        # xlm-roberta is a model_type, and xlm-roberta-base is a checkpoint's name.
        whole = re.escape(self.old.replace("_", "-"))
        return re.compile(f"(?<![A-Za-z0-9])(?i:{forms})|(?<![\\w/-]){whole}(?![\\w/-])")

    def name(self, name: str) -> str:
        """A name of Python's; one that the family does not define stays."""
        return self.text(name) if name in self.owned else name

    def attribute(self, name: str) -> str:
        """The name of an attribute; one that the family's files do not set stays."""
        return self.text(name) if name in self.attributes else name

    def text(self, text: str) -> str:
        """A string, a comment or a name, renamed throughout."""
        if not self.old or (self.old == self.new and self.old_cased == self.new_cased):
            return text
        return self._pattern.sub(lambda found: self._word(found, text), text)

    def _word(self, found: re.Match[str], text: str) -> str:
        word, after = found[0], text[found.end() : found.end() + 1]
        if "-" in word:
            return self.new.replace("_", "-")
        if after.isdigit() or (after.islower() and not word.isupper()) or (after.islower() and len(word) > 1):
            return word if not (word == self.old_cased and self._known(found, text)) else self.new_cased
        if word == self.old:
            return self.new
        if word.isupper():
            return self._upper(found, text)
        return self.new_cased

    def _upper(self, found: re.Match[str], text: str) -> str:
        """``CLIP_DOC`` and ``CLIPMLP``: a constant's prefix, and a class's, of a family that is spelled in capitals."""
        rest = re.match(r"\w*", text[found.end() :])
        tail = rest[0] if rest is not None else ""
        if tail.startswith("_") or (tail == "" and found[0] != self.old_cased):
            return self.new.upper() if tail.isupper() or tail in ("", "_") else self.new_cased
        if found[0] != self.old_cased:  # SAMPLE is no word of Sam's
            return found[0] if tail and not self._known(found, text) else self.new.upper()
        if tail.isupper() and not self._known(found, text):  # OPTIONAL is none of OPT's, CLIPMLP is one of CLIP's
            return found[0]
        return self.new_cased

    def _known(self, found: re.Match[str], text: str) -> bool:
        start, end = found.start(), found.end()
        while start and (text[start - 1].isalnum() or text[start - 1] == "_"):
            start -= 1
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        return text[start:end] in self.owned
