"""Filling masks against the reference's pipeline."""

from __future__ import annotations

import logging

import pytest
from kinds import both, checkpoint, same

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.pipelines import PipelineException


@pytest.mark.parametrize(("model_type", "mask"), [("bert", "[MASK]"), ("roberta", "<mask>"), ("xlm-roberta", "<mask>")])
def test_masks_are_filled_as_the_reference_does(model_type: str, mask: str) -> None:
    ours, theirs = both("fill-mask", model_type, "ForMaskedLM")
    one, two = f"the {mask} sat on the mat.", f"the {mask} sat on 😀 {mask}."
    ways = (
        {},
        {"top_k": 2},
        {"targets": ["cat", "dog"]},
        {"targets": "cat"},
        {"targets": ["catdog", " bird", "zzz"], "top_k": 2},  # several tokens, a space, none of the vocabulary
        {"tokenizer_kwargs": {"truncation": True, "max_length": 20}},
    )
    for inputs in (one, two, [one], [two], [one, two, f"a red {one}"]):
        for given in ways:
            same(ours(inputs, **given), theirs(inputs, **given), f"{inputs} {given}")
    # One batch of one, two and three masks.
    several = [one, two, f"{mask} a red {two}", f"a red {one}"]
    same(ours(several, batch_size=4, top_k=3), [theirs(text, top_k=3) for text in several])


def test_all_tokens_are_told_where_more_are_asked_for() -> None:
    ours, _ = both("fill-mask", "bert", "ForMaskedLM")
    found = ours("a [MASK]", top_k=10**6)
    assert len(found) == ours.model.config.vocab_size
    assert sum(entry["score"] for entry in found) == pytest.approx(1, abs=1e-4)
    assert [entry["token"] for entry in ours("a [MASK]", targets=["cat", "cat"])] == [ours.tokenizer.token_id("cat")]


def test_words_without_a_token_of_their_own_are_named(caplog: pytest.LogCaptureFixture) -> None:
    ours, _ = both("fill-mask", "bert", "ForMaskedLM")
    with caplog.at_level(logging.WARNING, "omniform"):
        found = ours("a [MASK]", targets=["cat", "catdog", "  "])
    assert len(found) == 1 and "catdog" in caplog.text and "left out" in caplog.text


def test_what_cannot_be_filled_is_refused_by_name() -> None:
    ours, _ = both("fill-mask", "bert", "ForMaskedLM")
    with pytest.raises(PipelineException, match=r"\[MASK\]"):
        ours("no mask")
    with pytest.raises(InputError, match=r"\[MASK\]"):  # cut away
        ours("a cat sat on [MASK]", tokenizer_kwargs={"truncation": True, "max_length": 4})
    kept = ours(["no mask", "a [MASK]"], on_error="return")
    assert isinstance(kept[0], InputError) and len(kept[1]) == 5
    for given in ({"top_k": 0}, {"targets": []}, {"targets": [3]}, {"targets": [" "]}, {"tokenizer_kwargs": 3}):
        with pytest.raises(InputError, match=next(iter(given))):
            ours("a [MASK]", **given)
    with pytest.raises(UnknownArgumentError, match="truncation"):
        ours("a [MASK]", tokenizer_kwargs={"truncate": True})
    with pytest.raises(UnknownArgumentError, match="targets"):
        ours("a [MASK]", target="cat")
    base = omniform.AutoModel.from_pretrained(checkpoint("bert", "Model"))
    with pytest.raises(InputError, match="another task"):
        omniform.pipeline("fill-mask", base, tokenizer=ours.tokenizer)("a [MASK]")
    ours.tokenizer.mask_token = None
    with pytest.raises(InputError, match="mask_token"):
        ours("a [MASK]")
