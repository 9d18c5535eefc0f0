"""The forms in which scripts of the ecosystem call ``generate``, beside the reference's answers."""

from __future__ import annotations

import pytest
import torch

from engines import IMAGE, family
from omniform.core.errors import InputError, UnknownArgumentError
from reference import close, omniform, padded, ragged, transformers

NEW = {"max_new_tokens": 6, "do_sample": False}


def both(name, call):
    """What ours and the reference make of one call, which gets a model and its library."""
    f = family(name)
    found = []
    for model, library in ((f.ours, omniform), (f.theirs, transformers)):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(call(model, library))
    return found


def ids_of(lengths=(9, 4)):
    return padded(ragged(IMAGE, lengths), side="left")


def test_arguments_by_position():
    ids, _ = ids_of((9,))

    class Halts:
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 12)

    def call(model, library):
        return model.generate(ids, library.GenerationConfig(**NEW), None, library.StoppingCriteriaList([Halts()]))

    ours, theirs = both("llama", call)
    assert ours.tolist() == theirs.tolist() and ours.shape[1] == 12
    model = family("llama").ours
    with pytest.raises(TypeError, match="by position and by name"):
        model.generate(ids, None, [], [Halts()], stopping_criteria=[Halts()])
    with pytest.raises(TypeError, match="by position at most"):
        model.generate(ids, *[None] * 12)


def test_the_config_of_another_library():
    """Trainers of the ecosystem make their own, whatever the model is."""
    ids, mask = ids_of()
    config = transformers.GenerationConfig(max_new_tokens=5, num_beams=2, do_sample=False)
    ours, theirs = both("llama", lambda m, _: m.generate(ids, attention_mask=mask, generation_config=config))
    assert ours.tolist() == theirs.tolist()


def test_entries_of_batches_that_say_nothing():
    ids, mask = ids_of()
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    call = {"attention_mask": mask, "token_type_ids": None, "position_ids": places, **NEW}
    ours, theirs = both("llama", lambda m, _: m.generate(ids, **call))
    assert ours.tolist() == theirs.tolist()
    model = family("llama").ours
    with pytest.raises(InputError, match="counted from each row's first token"):
        model.generate(ids, attention_mask=mask, position_ids=places + 1, **NEW)
    with pytest.raises(UnknownArgumentError, match="max_new_tokens"):
        model.generate(ids, attention_mask=mask, max_new_token=None)


@pytest.mark.parametrize("name", ["llama", "mistral", "t5", "gpt2"])
def test_under_autocast(name):
    """Queries are less precise there than the keys that are kept."""
    ids, _ = ids_of((9,))

    def call(model, _):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model.generate(ids, max_new_tokens=2, do_sample=False)

    ours, theirs = both(name, call)
    assert ours.tolist() == theirs.tolist()


def test_an_answer_opens_with_the_start_token():
    """Where the caller's decoder prompts do not; ragged ones too."""
    ids, mask = padded(ragged(IMAGE, (9, 4)), side="right")
    for begin in ([[9, 8], [7, 6]], [[0, 8], [7, 6]], [[0, 8], [0, 6]]):
        call = {"attention_mask": mask, "decoder_input_ids": torch.tensor(begin), **NEW}
        ours, theirs = both("t5", lambda m, _, call=call: m.generate(ids, **call))
        assert ours.tolist() == theirs.tolist(), begin
    model = family("t5").ours
    ragged_rows = model.generate(ids, attention_mask=mask, decoder_input_ids=[[9, 8, 5], [7]], **NEW)
    alone = model.generate(ids[1:, :4], decoder_input_ids=torch.tensor([[0, 7]]), **NEW)
    assert ragged_rows[1, 2:].tolist()[: alone.shape[1]] == alone[0].tolist()


def test_a_start_token_for_each_row():
    ids, mask = padded(ragged(IMAGE, (9, 4)), side="right")
    ours, theirs = both("t5", lambda m, _: m.generate(ids, attention_mask=mask, decoder_start_token_id=[11, 12], **NEW))
    assert ours.tolist() == theirs.tolist()
    with pytest.raises(InputError, match="decoder_start_token_id"):
        family("t5").ours.generate(ids, decoder_start_token_id=[11, 12, 13], **NEW)
    row = family("t5").ours.generate(ids[0], **NEW)
    assert row.tolist() == family("t5").theirs.generate(ids[:1], **NEW).tolist()
    with pytest.raises(InputError, match="decoder_inputs_embeds"):
        family("t5").ours.generate(ids, decoder_inputs_embeds=torch.zeros(2, 1, 32), **NEW)


def test_rules_of_what_an_encoder_read_need_tokens(caplog):
    caplog.set_level("WARNING", logger="omniform")
    rules = {"encoder_repetition_penalty": 3.0, "encoder_no_repeat_ngram_size": 1, **NEW}
    ids, mask = padded(ragged(IMAGE, (9, 4)), side="right")
    ours, theirs = both("t5", lambda m, _: m.generate(inputs_embeds=m.get_input_embeddings()(ids), **rules))
    assert ours.tolist() == theirs.tolist()
    assert "encoder_repetition_penalty" in caplog.text
    # Padding was not read, on whichever side it stands.
    model = family("t5").ours
    alone = model.generate(ids[1:, :4], **rules)[0].tolist()
    for flipped in ((ids, mask), padded([ids[0], ids[1, :4]], side="left")):
        found = model.generate(flipped[0], attention_mask=flipped[1], **rules)[1].tolist()
        assert found[: len(alone)] == alone


def test_scores_of_doubles_are_floats():
    import copy

    ids, _ = ids_of((9,))
    call = {**NEW, "output_logits": True, "output_scores": True, "return_dict_in_generate": True}
    ours, theirs = both("llama", lambda m, _: copy.deepcopy(m).double().generate(ids, **call))
    for name in ("scores", "logits"):
        assert {x.dtype for x in ours[name]} == {x.dtype for x in theirs[name]} == {torch.float32}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("with_ids", [False, True])
def test_what_vectors_were_seen_as(beams, with_ids):
    """Hidden states and attentions of prompts that are vectors; an output takes entries by key."""
    ids, mask = ids_of()
    call = {**NEW, "num_beams": beams, "output_hidden_states": True, "output_scores": True}
    call |= {"return_dict_in_generate": True, "attention_mask": mask}
    if with_ids:
        call["input_ids"] = ids
    ours, theirs = both("llama", lambda m, _: m.generate(inputs_embeds=m.get_input_embeddings()(ids), **call))
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    for found in (ours, theirs):
        real = mask.repeat_interleave(beams, 0).bool()
        first = tuple(x[real] for x in found["hidden_states"][0])
        found["hidden_states"] = (first, *found["hidden_states"][1:])
    close(ours.hidden_states, theirs.hidden_states, "hidden states", 1e-3)
    close(ours.scores, theirs.scores, "scores", 1e-3)


@pytest.mark.parametrize("beams", [1, 2])
def test_weights_of_keys_that_a_window_holds(beams):
    ids, _ = ids_of((9,))
    family("mistral").theirs.set_attn_implementation("eager")
    call = {**NEW, "num_beams": beams, "output_attentions": True, "return_dict_in_generate": True}
    ours, theirs = both("mistral", lambda m, _: m.generate(ids, **call))
    family("mistral").theirs.set_attn_implementation("sdpa")
    close(ours.attentions, theirs.attentions, "attentions")


ENDS = ([7, 11, 12, 19, 23, 30, 31, 40], [5, 6, 9, 10, 21, 33, 34, 50, 51, 52])


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("ends", ENDS, ids=["these", "others"])
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "best"])
def test_searches_of_one_call_end_together(early, ends, drawn):
    """What a search does after its end is seen in the others' draws, and in the scores of every step."""
    ids, mask = ids_of((9, 4, 6))
    call = {"attention_mask": mask, "num_beams": 3, "num_return_sequences": 2, "do_sample": drawn}
    call |= {"max_new_tokens": 10, "eos_token_id": ends, "early_stopping": early, "pad_token_id": 0}
    call |= {"return_dict_in_generate": True, "output_scores": True, "length_penalty": 0.2}
    ours, theirs = both("llama", lambda m, _: m.generate(ids, **call))
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    assert ours.beam_indices.tolist() == theirs.beam_indices.tolist()
    if not drawn:
        close(ours.scores, theirs.scores, "scores", 1e-3)
    assert len(ours.scores) == len(theirs.scores)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_virtual_tokens_of_peft(kind):
    """Prompt learning puts vectors, or keys and values, in front of a prompt; padding stands behind them."""
    import copy

    import peft

    ids, mask = ids_of((9, 4))

    def call(model, _):
        config = vars(peft)[kind](task_type="CAUSAL_LM", num_virtual_tokens=3)
        tuned = peft.get_peft_model(copy.deepcopy(model), config)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in tuned.named_parameters():
            if "prompt" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        rows = [(ids[:1], mask[:1]), (ids[1:, 5:], mask[1:, 5:]), (ids, mask)]
        return [tuned.generate(input_ids=i, attention_mask=m, **NEW).tolist() for i, m in rows]

    ours, theirs = both("llama", call)
    assert ours[:2] == theirs[:2]
    # Theirs counts positions over the padding here; a row of ours is the same alone and in company.
    long, short = ours[0][0], ours[1][0]
    assert ours[2][0][: len(long)] == long and ours[2][1][5 : 5 + len(short)] == short


def test_without_a_prompt_texts_begin_as_texts_do():
    call = {"max_new_tokens": 4, "do_sample": False}
    ours, theirs = both("llama", lambda m, _: m.generate(**call))
    assert ours.tolist() == theirs.tolist()
    model = family("llama").ours
    with pytest.raises(InputError, match="given twice"):
        model.generate(torch.tensor([[5]]), input_ids=torch.tensor([[5]]), **call)
    with pytest.raises(InputError, match="nothing to read"):
        family("t5").ours.generate(**call)


def test_a_chat_about_a_picture_goes_on_from_its_cache():
    """What a cache has read need not be given again; a further picture is given alone."""
    f = family("llava")
    first = f.prompt([5, 6, 7], item=1)
    new = f.prompt([8, 9], item=2)

    settings = {**NEW, "suppress_tokens": [IMAGE], "return_dict_in_generate": True}

    def call(model, _):
        out = model.generate(**first, **settings)
        turns = [out.sequences]
        for more in ({"input_ids": torch.tensor([[11, 12]])}, new):
            ids = torch.cat((turns[-1], more["input_ids"]), 1)
            given = {k: v for k, v in more.items() if k == "pixel_values"}
            mask = torch.ones_like(ids)
            out = model.generate(
                input_ids=ids, attention_mask=mask, past_key_values=out.past_key_values, **given, **settings
            )
            turns.append(out.sequences)
        return [turn.tolist() for turn in turns]

    ours, theirs = both("llava", call)
    assert ours == theirs


def test_weights_that_are_brought_for_each_call():
    import copy

    import accelerate

    ids, mask = ids_of()

    def call(model, _):
        away = accelerate.cpu_offload(copy.deepcopy(model), torch.device("cpu"))
        return away.generate(ids, attention_mask=mask, **NEW)

    ours, theirs = both("llama", call)
    assert ours.tolist() == theirs.tolist()
