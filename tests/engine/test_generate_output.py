"""Everything that ``generate`` gives back with ``return_dict_in_generate``, entry by entry beside the reference."""

from __future__ import annotations

import pytest
import torch
from test_beam_generate import ENDS, FAMILIES, VOCABULARY, pairs  # noqa: F401

from reference import close, omniform, ragged, transformers

EVERYTHING = {
    "return_dict_in_generate": True, "output_scores": True, "output_logits": True, "output_hidden_states": True,
    "output_attentions": True, "max_new_tokens": 6,
}  # fmt: skip
ALIKE = (
    "scores", "logits", "hidden_states", "attentions", "decoder_hidden_states", "decoder_attentions",
    "cross_attentions", "encoder_hidden_states", "encoder_attentions", "sequences_scores", "beam_indices",
)  # fmt: skip
CASES = {
    "greedy": {},
    "ragged ends": ENDS,
    "rules": {"repetition_penalty": 1.4, "suppress_tokens": [7, 8], "no_repeat_ngram_size": 2, **ENDS},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


def alike(found, expected, path):
    if isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape, path
        assert torch.equal(found.isfinite(), expected.isfinite()), path
        kept = expected.isfinite()
        close(found[kept].float(), expected[kept].float())
        return
    assert len(found) == len(expected), path
    for i, (mine, other) in enumerate(zip(found, expected, strict=True)):
        alike(mine, other, f"{path}[{i}]")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "llava"])
def test_every_entry(pairs, family, case):  # noqa: F811
    ours, theirs = pairs(family)
    theirs.set_attn_implementation("eager")
    inputs = FAMILIES[family][1]()
    asked = {**EVERYTHING, **CASES[case]}
    expected, found = theirs.generate(**inputs, **asked), ours.generate(**inputs, **asked)
    assert type(found).__name__ == type(expected).__name__
    assert isinstance(found, omniform.GenerateOutput)
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert set(expected.keys()) == set(found.keys())
    real = inputs["attention_mask"].bool()
    for name in ALIKE:
        theirs_is = expected.get(name)
        if theirs_is is None:
            assert found.get(name) is None, name
        elif name in ("hidden_states", "attentions"):
            # What stands at padding is nobody's affair.
            each = len(expected.sequences) // len(real) if "num_beams" not in asked else asked["num_beams"]
            rows = real.repeat_interleave(each, 0)
            first = [layer[rows] if name == "hidden_states" else layer.transpose(1, 2)[rows] for layer in theirs_is[0]]
            mine = [layer[rows] if name == "hidden_states" else layer.transpose(1, 2)[rows] for layer in found[name][0]]
            alike(mine, first, f"{name}, prompt")
            alike(found[name][1:], theirs_is[1:], name)
        elif name in ("encoder_hidden_states", "encoder_attentions", "cross_attentions", "decoder_attentions"):
            assert [len(x) for x in found[name]] == [len(x) for x in theirs_is]
            if name.startswith("encoder_hidden"):
                alike([x[real] for x in found[name]], [x[real] for x in theirs_is], name)
            elif not name.startswith("encoder"):
                alike(found[name], theirs_is, name)
        elif name == "scores" and case == "rules":
            # The reference's rules look at padding in front as if somebody had said it.
            alike([x[:, 1:] for x in found[name]], [x[:, 1:] for x in theirs_is], name)
        else:
            alike(found[name], theirs_is, name)


def test_several_answers_of_each_prompt(pairs):  # noqa: F811
    ours, theirs = pairs("llama")
    theirs.set_attn_implementation("eager")
    row = torch.stack(ragged(VOCABULARY, [6, 6]))
    asked = {**EVERYTHING, "do_sample": True, "num_return_sequences": 3, "top_k": 12}
    torch.manual_seed(5)
    expected = theirs.generate(row, attention_mask=torch.ones_like(row), **asked)
    torch.manual_seed(5)
    found = ours.generate(row, **asked)
    assert found.sequences.tolist() == expected.sequences.tolist()
    for name in ("scores", "logits", "hidden_states", "attentions"):
        alike(found[name], expected[name], name)


def test_rows_of_any_lengths_are_seen_as_alone(pairs):  # noqa: F811
    for family in ("llama", "t5"):
        ours, _ = pairs(family)
        rows = [row.tolist() for row in ragged(VOCABULARY, [9, 4])]
        whole = ours.generate(rows, **EVERYTHING, eos_token_id=None)
        name = "hidden_states" if family == "llama" else "decoder_hidden_states"
        for i, row in enumerate(rows):
            alone = ours.generate([row], **EVERYTHING, eos_token_id=None)
            for mine, other in zip(whole[name][1:], alone[name][1:], strict=True):
                alike([layer[i : i + 1] for layer in mine], list(other), name)


def test_without_a_dict_nothing_is_kept(pairs):  # noqa: F811
    ours, _ = pairs("llama")
    row = ragged(VOCABULARY, [6])[0][None]
    found = ours.generate(row, max_new_tokens=3, output_hidden_states=True, output_attentions=True)
    assert isinstance(found, torch.Tensor)


def test_the_classes_have_the_reference_s_entries():
    for name in (
        "GenerateDecoderOnlyOutput", "GenerateEncoderDecoderOutput", "GenerateBeamDecoderOnlyOutput",
        "GenerateBeamEncoderDecoderOutput",
    ):  # fmt: skip
        theirs = (
            vars(transformers.generation)[name].__dataclass_fields__
            if name in vars(transformers.generation)
            else (getattr(transformers.generation.utils, name).__dataclass_fields__)
        )
        fields = getattr(omniform, name).__dataclass_fields__
        beyond = {field for field in omniform.GenerateOutput.__dataclass_fields__ if field != "sequences"}  # our own
        assert list(theirs) == [field for field in fields if field not in beyond]
