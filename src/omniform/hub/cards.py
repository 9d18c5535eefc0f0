"""Model cards: what is known of a checkpoint, put among the words of whoever wrote the README.md.

A card is a block of YAML between two lines of ``---`` and a text (https://huggingface.co/docs/hub/model-cards). What a
user wrote is never parsed and written anew: keys are added at the block's end, tags at their list's, and in the text
only what stands between :data:`BEGIN` and :data:`END` is ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from omniform.core.errors import InputError
from omniform.core.logs import get_logger
from omniform.hub.card_facts import LIBRARY, Facts, facts_of, use_of
from omniform.hub.refusals import refused

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

BEGIN: Final = "<!-- omniform: made from the files; what stands up to the end mark is written anew by every push -->"
END: Final = "<!-- omniform: end -->"

_SECTION: Final = re.compile(r"<!-- omniform: made.*?-->.*?<!-- omniform: end -->", re.DOTALL)
_MEND: Final = "Mend what stands between its first two lines of ---; a text without metadata begins otherwise."
_EMPTY: Final = re.compile(r"\s*---[ \t]*(\r?\n)---[ \t]*(?:\r?\n|$)")
_NEW_ONLY: Final = ("widget",)
"""Keys that only new cards get: a user may well have taken them out."""


def model_card(
    saved: object,
    repo_id: str,
    *,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | None = None,
    datasets: str | Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    eval_results: Sequence[EvalResult] | None = None,
    files: Collection[str] = (),
    written: str | None = None,
) -> ModelCard:
    """The card of a model, or of anything else that is saved.

    Args:
        saved: the model, tokenizer, processor, config or pipeline.
        repo_id: where it goes, for the lines of code that load it.
        language, license, tags, datasets, metrics: as the Hub's metadata has them.
        model_name: the title, and the name in ``model-index``; the repository's by default.
        finetuned_from: the Hub id of the model that it was trained from.
        tasks: the ``pipeline_tag``; what the model's architecture does, by default.
        eval_results: how it scored, for ``model-index``.
        files: of the repository: the lines of code use what is there.
        written: a card that there is already; what is given here by name replaces its entries.

    Raises:
        InputError: the metadata of ``written`` is no YAML mapping, or ``eval_results`` hold what no card can.
    """
    from huggingface_hub import ModelCard, ModelCardData

    try:
        data = ModelCardData(
            language=language,  # type: ignore[arg-type]
            license=license,
            tags=_listed(tags),
            base_model=finetuned_from,
            pipeline_tag=tasks,
            datasets=datasets,  # type: ignore[arg-type]
            metrics=_listed(metrics),
            model_name=(model_name or repo_id.rpartition("/")[2]) if eval_results else None,
            eval_results=list(eval_results) if eval_results else None,
        )
        given = cast("dict[str, object]", data.to_dict())  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:
        raise InputError("no entries of a card", where="eval_results", found=str(error)) from error
    if finetuned_from and "base_model_relation" not in given:
        given["base_model_relation"] = "finetune"
    facts = facts_of(saved, repo_id, files)
    return ModelCard(_written(facts, given, written, model_name or repo_id.rpartition("/")[2]))


def create_and_tag_model_card(
    repo_id: str, tags: Sequence[str] | None = None, token: str | bool | None = None
) -> ModelCard:
    """The card of a repository on the Hub, with these tags among its own; a new one where it has none.

    Raises:
        RepoError: there is no such repository, or it may not be read.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import EntryNotFoundError

    try:
        written = str(ModelCard.load(repo_id, token=token).content)  # type: ignore[arg-type]  # it takes True as well
    except EntryNotFoundError:
        written = f"---\nlibrary_name: {LIBRARY}\n---\n\n# {repo_id.rpartition('/')[2]}\n"
    except Exception as error:  # whatever the client raises
        raise refused(error, repo_id) from error
    return ModelCard(with_metadata(written, {"tags": list(tags)} if tags else {}))


def merged(
    saved: object,
    repo_id: str,
    tags: Sequence[str] = (),
    *,
    files: Collection[str] = (),
    remote: str | None = None,
    local: str | None = None,
) -> str:
    """The README.md that is pushed.

    Args:
        tags: to be among the card's.
        files: that the repository will have.
        remote: the one that the repository has.
        local: the one that the folder has; its words go before those of the repository.

    Raises:
        InputError: its metadata is no YAML mapping.
    """
    facts = facts_of(saved, repo_id, files)
    given = {"tags": list(dict.fromkeys(tags))} if tags else {}
    title = repo_id.rpartition("/")[2]
    mine, theirs = own_words(local or ""), own_words(remote or "")
    base, other = (local, remote) if mine or remote is None else (remote, local)
    if mine and theirs not in mine:
        get_logger().warning(
            "%s: the folder's README.md replaces the repository's, which says something else; its history has it",
            repo_id,
        )
    if other is not None:
        with suppress(InputError):  # what cannot be read has nothing to add
            base = with_metadata(base or "", _metadata(other))
    return _written(facts, given, base, title)


def check(card: str) -> None:
    """Ask the Hub whether a card's metadata is as it has to be.

    Raises:
        InputError: it is not; the Hub says why.
    """
    from huggingface_hub import RepoCard

    try:
        RepoCard(card).validate("model")
    except ValueError as error:
        raise invalid(error) from error


def invalid(error: ValueError) -> InputError:
    """The Hub does not accept the metadata of a card."""
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
    return InputError(
        "the Hub does not accept the card's metadata", where="README.md", found="; ".join(lines)[:500], remedy=_MEND
    )


def own_words(card: str) -> str:
    """The text of a card without our section and its title: what somebody wrote."""
    text = _SECTION.sub("", _parted(card).text)
    return "" if re.fullmatch(r"\s*(# [^\n]*)?\s*", text) else text.strip()


def _listed(value: str | Sequence[str] | None) -> list[str] | None:
    return [value] if isinstance(value, str) else None if value is None else list(value)


def _written(facts: Facts, given: Mapping[str, object], written: str | None, title: str) -> str:
    known = facts.metadata()
    parted = _parted(written or "")
    # A card that is ours, of a tokenizer that was pushed before its model, is new to the model.
    ours = _SECTION.search(parted.text) is not None
    new = not parted.block or (ours and "pipeline_tag" not in _metadata(written or ""))
    if new:
        card = with_metadata(with_metadata(written or "", known), given, instead=True)
    else:
        card = with_metadata(written or "", given, instead=True)
        card = with_metadata(card, {key: value for key, value in known.items() if key not in _NEW_ONLY})
    parted = _parted(card)
    section = parted.line.join([BEGIN, *facts.section(), END])
    there = _SECTION.search(parted.text)
    if there is not None:
        if facts.stands_behind:
            section = _with_code(there[0], replace(facts, use=use_of(_metadata(card).get("pipeline_tag"), there[0])))
        text = _SECTION.sub(lambda _: section, parted.text, count=1)
    elif parted.text.strip():
        text = parted.text
    else:
        text = parted.line.join(["", f"# {title}", "", section, ""])
    return str(replace(parted, text=text))


def _with_code(section: str, facts: Facts) -> str:
    """A section about what matters more than what is saved now, which may make a pipeline of it."""
    code = facts.code_beside()
    line = "\r\n" if "\r\n" in section else "\n"
    return _CODE.sub(lambda found: f"{found[1]}{line.join(code)}{found[2]}", section, count=1) if code else section


_CODE: Final = re.compile(r"(```python\r?\n).*?(\r?\n```)", re.DOTALL)


# ---- the block of metadata


@dataclass(frozen=True, slots=True)
class Parted:
    """A card in its parts, which joined are the card.

    Attributes:
        opening: the first line of ``---``, with what is before it; empty where there is no metadata.
        block: the YAML.
        closing: the end of its last line, and the second line of ``---``.
        text: what follows.
        line: how its lines end.
    """

    opening: str
    block: str
    closing: str
    text: str
    line: str

    def __str__(self) -> str:
        return f"{self.opening}{self.block}{self.closing}{self.text}"

    def having(self, block: str) -> str:
        """The card with another block."""
        if self.opening:
            return str(replace(self, block=block))
        return f"---{self.line}{block}{self.line}---{self.line}{self.text}"


def _parted(card: str) -> Parted:
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    line = "\r\n" if "\r\n" in card else "\n"
    empty = _EMPTY.match(card)
    if empty is not None:  # which the client takes for text
        return Parted(f"---{line}", "", f"{line}---{line}", card[empty.end() :], line)
    found = REGEX_YAML_BLOCK.search(card)
    if found is None:
        return Parted("", "", "", card, line)
    return Parted(found[1], found[2], found[3], card[found.end() :], line)


def _metadata(card: str) -> dict[str, object]:
    import yaml

    block = _parted(card).block
    try:
        data = yaml.safe_load(f"{block}\n")  # its last line's end counts in a block of text
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:  # a 30th of February
        raise InputError(
            "the card's metadata is no YAML", where="README.md", found=" ".join(str(error).split()), remedy=_MEND
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        found = " ".join(block.split())[:200]
        raise InputError(
            "the card's metadata is no mapping of names", where="README.md", found=repr(found), remedy=_MEND
        )
    return data


def with_metadata(card: str, entries: Mapping[str, object], *, instead: bool = False) -> str:
    """A card with these entries besides its own, whose order and spelling stay; of tags, those that are missing.

    Args:
        instead: entries that are there and say something else are replaced, except tags.
    """
    held = _metadata(card)
    for key, value in entries.items():
        if key == "tags":
            has = held.get("tags")
            has = [has] if isinstance(has, str) else list(has) if isinstance(has, list) else []
            missing = [tag for tag in _tags(value) if tag not in has]
            if missing:
                held["tags"] = [*has, *missing]
                card = _with_tags(card, held["tags"], missing, fresh=not has)
        elif key not in held or (instead and held[key] != value):
            card = _with_entry(card, key, value)
            held[key] = value
    with suppress(InputError):
        if _metadata(card) == held:
            return card
    # Metadata that is spelled so strangely that lines cannot be put among it is written anew.
    parted = _parted(card)
    return parted.having(_dumped(held, parted.line))


def _tags(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(tag) for tag in value] if isinstance(value, list) else []


def _dumped(entries: Mapping[str, object], line: str) -> str:
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    return yaml_dump(dict(entries), sort_keys=False, line_break=line).strip()


def _with_entry(card: str, key: str, value: object) -> str:
    parted = _parted(card)
    entry = _dumped({key: value}, parted.line)
    span = _span(parted.block, key)
    if span is not None:
        start, stop = span
        return parted.having(f"{parted.block[:start]}{entry}{parted.line}{parted.block[stop:]}".rstrip("\r\n"))
    block = parted.block.rstrip("\r\n")
    return parted.having(f"{block}{parted.line}{entry}" if block else entry)


def _with_tags(card: str, tags: object, missing: Sequence[str], *, fresh: bool) -> str:
    parted = _parted(card)
    span = None if fresh else _span(parted.block, "tags")
    if span is None:
        return _with_entry(card, "tags", tags)
    start, stop = span
    lines = parted.block[start:stop].splitlines()
    last = max((n for n, line in enumerate(lines) if re.match(r"\s*- ", line)), default=None)
    if last is None:  # [in, brackets]
        return _with_entry(card, "tags", tags)
    indent = lines[last][: len(lines[last]) - len(lines[last].lstrip())]
    added = [indent + _dumped({"tags": [tag]}, "\n").splitlines()[1].strip() for tag in missing]
    lines[last + 1 : last + 1] = added
    rest = parted.block[stop:]
    return parted.having(parted.block[:start] + parted.line.join(lines) + (parted.line + rest if rest else ""))


def _span(block: str, key: str) -> tuple[int, int] | None:
    """Where an entry stands in the block: from its key up to the next one's."""
    found = re.search(rf"^(['\"]?){re.escape(key)}\1[ \t]*:", block, re.MULTILINE)
    if found is None:
        return None
    # What belongs to it is indented, empty, or an item of its list.
    after = re.compile(r"^(?![ \t\r\n]|- |-$)", re.MULTILINE).search(block, found.end())
    return found.start(), after.start() if after else len(block)
