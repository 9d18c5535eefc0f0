"""Grammars: what is written is of the form that was asked for, whatever the model says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import guide_cases
import pydantic
import pytest
import torch
from guide_cases import CHOICES, FORMS, TOKENIZERS, byte_fallback, byte_level, unigram, word_piece, written
from tokenizers import AddedToken

from omniform.core.errors import DependencyError, InputError
from omniform.engine.guide_vocabulary import GuideVocabulary, spellings
from omniform.engine.guides import Guide, Matcher, begin, grammar_of, masked
from reference import omniform

# BERT's tokens cannot write text without spaces.
CASES = [(k, form) for k in TOKENIZERS for form in FORMS if k != "word_piece" or FORMS[form].everywhere]


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_whatever_is_written_is_of_its_form(kind: str, form: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    answers = written(FORMS[form].guide, tokenizer, 12)
    assert sum(answer.ended for answer in answers) >= 11
    for answer in answers:
        assert not answer.ended or FORMS[form].holds(answer.text), answer.text


def _allowed(matcher: Matcher, columns: int) -> list[int]:
    scores = masked(torch.zeros(1, columns), [matcher])
    return [token for token, score in enumerate(scores[0].tolist()) if score == 0.0]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_mask_is_what_the_words_allow(kind: str) -> None:
    """By definition: a token may come if the text with it is the beginning of a word, as the tokenizer reads it."""
    tokenizer = TOKENIZERS[kind]()
    special, end = set(tokenizer.all_special_ids), tokenizer.eos_token_id
    grammar = grammar_of(Guide.choice(CHOICES), tokenizer)
    waiting: list[list[int]] = [[]]
    tried = 0
    while waiting and tried < 40:
        row = waiting.pop()
        matcher = grammar.matcher([end])
        assert all(matcher.accept(token) for token in row)
        text = tokenizer.decode(row)
        wanted = {
            token
            for token in set(range(len(tokenizer))) - special
            if (longer := tokenizer.decode([*row, token])) != text and any(w.startswith(longer) for w in CHOICES)
        }
        found = _allowed(matcher, len(tokenizer) + 20)
        assert set(found) == wanted | ({end} if text in CHOICES else set()), text
        waiting += [[*row, token] for token in sorted(wanted)]
        tried += 1
    assert tried > 8


def test_ends_come_only_where_the_text_is_whole() -> None:
    tokenizer = byte_level()
    a, b = tokenizer.convert_tokens_to_ids(["#", "~"])
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>"), b]
    matcher = grammar_of(Guide.regex("#{1,2}~?"), tokenizer).matcher(ends)
    assert _allowed(matcher, 500) == [a]
    assert matcher.accept(a)
    assert _allowed(matcher, 500) == sorted([*ends, a])  # ~ ends it, and is no more a part of the text
    assert matcher.accept(a)
    assert not matcher.done  # a ~ could follow
    assert _allowed(matcher, 500) == sorted(ends)
    assert not grammar_of(Guide.regex("#~"), tokenizer).matcher(ends).accept(ends[0])
    whole = grammar_of(Guide.choice(["#"]), tokenizer).matcher(())
    assert whole.accept(a)
    assert whole.done
    assert whole.seen().only_end


def test_rows_are_copied_taken_back_and_looked_ahead() -> None:
    tokenizer = byte_level()
    grammar = grammar_of(FORMS["person"].guide, tokenizer)
    end = tokenizer.eos_token_id
    row = written(FORMS["person"].guide, tokenizer, 1, seed=3)[0].tokens
    masks, matcher, twins = [], grammar.matcher([end]), []
    for token in row:
        masks.append(_allowed(matcher, 400))
        twins.append(matcher.copy())
        begin([matcher])
        assert matcher.accept(token)
    assert row[-1] == end
    assert matcher.done
    for back in range(1, len(row) + 1):
        matcher.rollback(1)
        assert _allowed(matcher, 400) == masks[-back]
        assert _allowed(twins[-back], 400) == masks[-back]
    assert all(matcher.accept(token) for token in row)
    matcher.rollback(len(row))
    ahead = matcher.ahead([*row, row[0]])
    assert len(ahead) == len(row) + 1  # the last does not fit
    assert [int(seen.words.any()) for seen in ahead[:-2]] == [1] * (len(row) - 1)
    assert ahead[-2].only_end
    assert _allowed(matcher, 400) == masks[0]
    assert not matcher.accept(end)
    assert matcher.lost
    assert _allowed(matcher, 400) == []
    matcher.rollback(1)
    assert _allowed(matcher, 400) == masks[0]


def test_rows_with_and_without_a_grammar_and_of_other_tokenizers_share_a_batch() -> None:
    tokenizer = byte_level()
    scores = torch.randn(4, 500)
    before = scores.clone()
    one = grammar_of(Guide.choice(["yes"]), tokenizer).matcher([2])
    other = grammar_of(Guide.choice(["no"]), byte_fallback()).matcher([2])
    found = masked(scores, [None, one, None, other])
    assert torch.equal(scores, before)
    assert torch.equal(found[[0, 2]], scores[[0, 2]])
    for row, matcher in ((1, one), (3, other)):
        allowed = _allowed(matcher, 500)
        assert found[row].isfinite().nonzero()[:, 0].tolist() == allowed
        assert torch.equal(found[row][allowed], scores[row][allowed])
    assert masked(scores, [None] * 4) is scores
    fewer = masked(scores[:1, :300], [one])  # tokens that the model has no scores for
    assert fewer.shape == (1, 300)
    assert fewer.isfinite().nonzero()[:, 1].tolist() == [t for t in _allowed(one, 500) if t < 300]


def test_what_is_cut_off_is_a_beginning() -> None:
    tokenizer = byte_level()
    for answer in written(FORMS["plain"].guide, tokenizer, 8, longest=9):
        assert not answer.ended
        matcher = grammar_of(FORMS["plain"].guide, tokenizer).matcher([tokenizer.eos_token_id])
        assert all(matcher.accept(token) for token in answer.tokens)


def test_bytes_that_are_no_text_alone() -> None:
    tokenizer = omniform.ByT5Tokenizer()
    for form in ("person", "alternation", "choice"):
        for answer in written(FORMS[form].guide, tokenizer, 6, longest=400):
            assert not answer.ended or FORMS[form].holds(answer.text), answer.text


def test_tokens_that_others_would_read_as_bytes_or_special() -> None:
    found = spellings(byte_level())
    think, end = byte_level().convert_tokens_to_ids(["<think>", "<|end|>"])
    assert found.tokens[think] == b"<think>"
    assert found.tokens[end] == b""
    assert found.special[end] == b"<|end|>"
    assert spellings(byte_fallback()).tokens[3 + 0xC3] == b"\xc3"
    named = written(Guide.lark('start: "x" <|end|> "y"'), byte_level(), 2)
    assert [answer.tokens.count(end) for answer in named] == [1, 1]
    assert [answer.text for answer in named] == ["xy", "xy"]


def test_a_tokenizer_is_read_once_and_again_when_it_has_other_tokens() -> None:
    tokenizer = byte_level()
    guide = Guide.regex("a|<new>")
    grammar = grammar_of(guide, tokenizer)
    assert grammar_of(Guide.regex("a|<new>"), tokenizer) is grammar
    assert GuideVocabulary.of(tokenizer) is grammar.vocabulary
    grown = omniform.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token="</s>")
    before = GuideVocabulary.of(grown)
    assert before is not grammar.vocabulary
    grown.add_tokens([AddedToken("<new>", special=False)])
    after = grammar_of(guide, grown)
    assert after.vocabulary.size == before.size + 1
    assert before.size in _allowed(after.matcher([2]), 500)


def test_regular_expressions_mean_what_they_mean_in_python() -> None:
    for pattern in (
        re.escape("a b/c\n[x]{y}#&~-\"'"), r"\S\W\D{2}", r"[^\w]{2}[\W][\D\s]", r"(?x) a b [ #] c", r"a{x}b{,2}",
        r"[]a][^]a][a&&b][~~a][a[b]", r"a??b*?c+?", r"(?i)stra\u00dfe|\d{2}\Z", r"[\b\n]|(?P<n>x)",
    ):  # fmt: skip
        for answer in written(Guide.regex(pattern), byte_level(), 10, longest=60):
            assert not answer.ended or re.fullmatch(pattern, answer.text), (pattern, answer.text)
    assert {a.text for a in written(Guide.regex(re.compile("a", re.I)), byte_level(), 20)} == {"a", "A"}


class _Colour(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=4)
    next: _Colour | None = None


def test_every_way_to_say_a_form() -> None:
    schema = {"type": "boolean"}
    said = Guide.json_schema(schema)
    for value in (
        schema, json.dumps(schema), said, {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        {"type": "json_schema", "schema": schema}, {"type": "json_object", "schema": schema},
    ):  # fmt: skip
        assert Guide.read(value) == said
    assert Guide.read({"type": "json_object"}) == Guide.json_object()
    assert Guide.read({"type": "text"}) is None
    assert Guide.read(None) is None
    assert Guide.read("a|b") == Guide.read(re.compile("a|b")) == Guide.regex("a|b")
    assert Guide.read(("a", "b", "a")) == Guide.choice(["a", "b"])
    assert Guide.read(guide_cases.SUM) == Guide.lark(guide_cases.SUM)
    assert Guide.read(_Colour) == Guide.json_schema(_Colour.model_json_schema())
    for answer in written(Guide.json_schema(_Colour), byte_level(), 5):
        assert not answer.ended or _Colour.model_validate_json(answer.text)
    odd = ["\"'\\/", "a\nb", "日本 😀", "\x01\x7f", "yes"]
    assert {answer.text for answer in written(Guide.choice(odd), byte_level(), 60)} == set(odd)


def _asked(guide: object) -> Callable[[], object]:
    def ask() -> object:
        read = Guide.read(guide)
        assert read is not None
        return grammar_of(read, byte_level())

    return ask


BROKEN: dict[str, tuple[object, str]] = {
    "no regex": ("", "no expression"),
    "broken regex": ("ab(c", r"character 3: .*'ab\(c': unclosed group"),
    "looking around": ("a(?=b)", "expected an expression without looking around"),
    "possessive": ("ab++", "character 3: a quantifier that gives nothing back"),
    "nothing matches": (r"[^\x00-\U0010ffff]", "no text fits this"),
    "bytes": (re.compile(b"a"), "this is no expression for text"),
    "no choice": ([], "nothing to choose|no choice"),
    "no text": (["a", 5], r"guide\[1\]: this is no choice"),
    "empty choice": (["a", ""], r"guide\[1\]: this is no choice"),
    "half a character": (["\ud800"], "surrogate"),
    "broken JSON": ('{"type": ', "this JSON cannot be read.*line 1 column 10"),
    "no schema": ({"type": "json_schema"}, "no schema in this response format"),
    "unknown type": (
        {"type": "object", "properties": {"a/b": {"type": "array", "items": {"type": "nope"}}}},
        r"\(schema #/properties/a~1b/items\).*Invalid type: nope",
    ),
    "empty range": ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum .5. is greater than maximum"),
    "endless": ({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}, "recursion that may end"),
    "elsewhere": ({"$ref": "http://example.com/a.json"}, "does not fetch"),
    "unknown keyword": ({"type": "string", "format": "nope"}, "Unknown format: nope"),
    "no JSON": ({"enum": [{1, 2}]}, "this schema is no JSON"),
    "too deep": (json.loads('{"items":' * 150 + "{}" + "}" * 150), "nested too deeply"),
    "broken options": ({"type": "object", "x-guidance": 5}, "this schema cannot be used"),
    "unknown rule": ('start: "a" b\nb: "c" d', 'line 2, column 4.*unknown name: "d"'),
    "endless rule": ('start: start "a"', "no text fits this"),
    "unknown special": ("start: <|nope|>", "unknown special token"),
    "no form": (5, "says no form of an answer"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_forms_are_refused(case: str) -> None:
    guide, words = BROKEN[case]
    with pytest.raises(InputError, match=words) as caught:
        _asked(guide)()
    assert len(str(caught.value)) < 1900


def test_a_vocabulary_that_cannot_spell_a_form_is_told_of_the_characters() -> None:
    for tokenizer, guide, missing in (
        (unigram(), Guide.choice(["ъ"]), "'ъ'"),
        (unigram(), Guide.json_schema({"enum": ["a", "bъ"]}), "'ъ'"),
        (unigram(), Guide.json_schema({"properties": {"größe": {}}, "required": ["größe"], "type": "object"}), "'ß'"),
        (word_piece(), FORMS["plain"].guide, "'\"'"),
    ):
        with pytest.raises(InputError, match=f"cannot spell this grammar.*{missing}"):
            grammar_of(guide, tokenizer)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(DependencyError, match=r"pip install 'omniform\[grammar\]'"):
        grammar_of(Guide.json_object(), byte_level())
    with pytest.raises(InputError, match="needs a tokenizer"):
        grammar_of(Guide.json_object(), None)
