"""What a request may ask for, against the reference: several answers, stop strings, log-probabilities, lengths."""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

import pytest
import torch

from engines import t5_pair
from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from omniform.engine.stop import Pieces, ShownText, StopStrings
from reference import close, omniform, padded, ragged, saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "inputs"))

import test_tokenizers_folders as folders

TINY = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
VOCABULARY = 97
ENDS = [5, 9, 20, 31, 40, 52, 66, 77, 88]


def llama(folder, vocabulary, **settings):
    config = transformers.LlamaConfig(vocab_size=vocabulary, eos_token_id=2, **TINY, **settings)
    theirs = saved_reference(transformers.LlamaForCausalLM, config, folder, scale=0.3)
    return omniform.AutoModelForCausalLM.from_pretrained(folder), theirs


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("llama"), VOCABULARY)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return t5_pair(tmp_path_factory.mktemp("t5"), VOCABULARY)


# -- several answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0, "top_k": 0}, {"eos_token_id": ENDS, "top_k": 20}])
@pytest.mark.parametrize("rows", [[6], [9, 4, 1], [3, 3], [200, 180, 190, 60]])
def test_several_draws_of_each_row_are_the_reference_s(pair, rows, settings):
    ours, theirs = pair
    ids, mask = padded(ragged(VOCABULARY, rows), side="left")
    asked = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 14, **settings}
    torch.manual_seed(3)
    expected = theirs.generate(ids, attention_mask=mask, **asked)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert ours.generate(ids, attention_mask=mask, **asked).tolist() == expected.tolist()
    assert torch.equal(torch.get_rng_state(), after)


def test_several_draws_of_an_encoder_decoder(t5):
    ours, theirs = t5
    ids, mask = padded(ragged(VOCABULARY, [9, 4, 1]))
    asked = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 14, "eos_token_id": ENDS}
    torch.manual_seed(3)
    expected = theirs.generate(ids, attention_mask=mask, **asked)
    torch.manual_seed(3)
    assert ours.generate(ids, attention_mask=mask, **asked).tolist() == expected.tolist()


def test_greedy_has_one_answer(pair):
    ours, theirs = pair
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match="num_return_sequences"):
        theirs.generate(ids, num_return_sequences=2)
    with pytest.raises(InputError, match="num_return_sequences"):
        ours.generate(ids, num_return_sequences=2)


def test_a_seeded_row_draws_the_same_whoever_is_beside_it(pair):
    ours, _ = pair
    engine = Engine(ours, memory=1 << 22)
    rows = [row.tolist() for row in ragged(VOCABULARY, [9, 4, 1])]
    asked = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 9, "num_return_sequences": 2}
    together = engine.generate_batch(rows, [{"seed": i} for i in range(3)], **asked)
    for number, row in enumerate(rows):
        alone = engine.generate(row, seed=number, **asked)
        assert [s.tokens for s in alone.sequences] == [s.tokens for s in together[number].sequences]
        assert alone.sequences[0].tokens != alone.sequences[1].tokens


# -- stop strings ------------------------------------------------------------------------------------------------------

KINDS = ("bert", "clip", "generic_unigram", "gpt2", "llama", "llama3", "t5", "whisper")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    made = {}

    def tokenizer(kind):
        if kind not in made:
            folder = getattr(folders, kind)(tmp_path_factory.mktemp(kind))
            made[kind] = folders.ours(folder), folders.reference(folder)
        return made[kind]

    return tokenizer


def strings(kind, rows, tokenizer, chance):
    """Stop strings of all sorts: cut out of texts, across tokens, of letters, bytes and special tokens."""
    some = ["the", " the", "e", "ox j", "日", "ï", "</s>", "qqq", "\n", " ", "##"]
    for row in rows:
        text = tokenizer.decode(row)
        if text:
            start = chance.randrange(len(text))
            some.append(text[start : start + chance.randint(1, 6)])
    return [s for s in some if s]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_rows_end_where_the_reference_ends_them(tokenizers, kind):
    ours, theirs = tokenizers(kind)
    chance = random.Random(kind)
    size = len(ours)
    texts = ["the quick brown fox jumps", "lazy dog hello world", "日本 ünï don't", "token image 123 \n the"]
    rows = [[chance.randrange(size) for _ in range(chance.randint(1, 30))] for _ in range(20)]
    rows += [ours(text)["input_ids"] for text in texts]
    chosen, met = strings(kind, rows, ours, chance), 0
    for _ in range(25):
        some = chance.sample(chosen, chance.randint(1, 3))
        try:
            criterion = transformers.StopStringCriteria(theirs, some)
        except ValueError:
            continue  # the reference cannot spell them in this vocabulary, or has no letters to try it with
        stops = StopStrings(some, ours), StopStrings(some, theirs)
        for length in range(1, max(map(len, rows)) + 1):  # the reference is asked of all that are as long at once
            begun = [row[:length] for row in rows if len(row) >= length]
            for row, expected in zip(begun, criterion(torch.tensor(begun), None).tolist(), strict=True):
                assert [stop.ends(row) for stop in stops] == [expected] * 2, (some, row)
                met += expected
    assert met or kind == "t5"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_never_holds_a_stop_string(tokenizers, kind):
    tokenizer, _ = tokenizers(kind)
    chance = random.Random(kind)
    pieces = Pieces(tokenizer)
    specials = set(tokenizer.all_special_ids)
    plain = [i for i in range(len(tokenizer)) if i not in specials and pieces[i]]
    if kind == "llama":  # what bytes that make no character read depends on the bytes beside them
        plain = [i for i in plain if pieces[i][0] < 128 or len(pieces[i]) > 1]
    for _ in range(150):
        row = [chance.choice(plain) for _ in range(25)]
        prompt = chance.randint(1, 4)
        # WordPiece shows a word's continuation as it is spelt where nothing comes before it.
        if not tokenizer.decode(row[prompt:]).strip() or tokenizer.id_token(row[prompt]).startswith("##"):
            continue
        some = [s for s in strings(kind, [row], tokenizer, chance)[-1:] if s.strip()]
        stops = StopStrings(some, tokenizer) if some else None
        shown, parts, written = ShownText(tokenizer, stops), [], row[:prompt]
        for token in row[prompt:]:
            written.append(token)
            parts.append(shown.push(written, prompt))
            if stops is not None and stops.ends(written):
                break
        parts.append(shown.rest(written, prompt))
        text = "".join(parts)
        whole = tokenizer.decode(written[prompt:], skip_special_tokens=True)
        if stops is None or not stops.ends(written):
            assert text == whole
        else:
            assert whole.startswith(text) and some[0] not in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama"])
def test_stop_strings_through_generate_and_the_engine(tmp_path, tokenizers, kind):
    tokenizer, theirs_tokenizer = tokenizers(kind)
    ours, theirs = llama(tmp_path, len(tokenizer))
    prompts = [tokenizer(text)["input_ids"] for text in ("the quick brown", "lazy dog hello", "it's")]
    ids, mask = padded([torch.tensor(row) for row in prompts], side="left")
    free = theirs.generate(ids, attention_mask=mask, max_new_tokens=24, min_new_tokens=24)
    engine = Engine(ours, tokenizer, memory=1 << 22)
    chance = random.Random(kind)
    met = 0
    for _ in range(8):
        row = chance.choice(free[:, ids.shape[1] :].tolist())
        text = tokenizer.decode(row, skip_special_tokens=True)
        start = chance.randrange(len(text) - 3)
        asked = {"max_new_tokens": 24, "stop_strings": [text[start : start + chance.randint(1, 3)], "zzz"]}
        expected = theirs.generate(ids, attention_mask=mask, tokenizer=theirs_tokenizer, **asked)
        assert ours.generate(prompts, tokenizer=tokenizer, **asked)[:, ids.shape[1] :].tolist() == (
            expected[:, ids.shape[1] :].tolist()
        )
        for prompt, line in zip(prompts, expected[:, ids.shape[1] :].tolist(), strict=True):
            handle = engine.submit(prompt, **asked)
            shown = "".join(piece.text for piece in handle)
            found = handle.result(10)
            assert found.tokens == line[: len(found.tokens)]
            # Bytes that spell no character spoil those before them in the whole text; what was shown stays shown.
            assert found.text == shown or "\ufffd" in found.text
            if found.finish_reason == "stop" and found.tokens[-1] != 2:
                met += 1
                assert not any(s in shown for s in asked["stop_strings"])
    assert met


def test_stop_strings_end_beams(tmp_path, tokenizers):
    tokenizer, theirs_tokenizer = tokenizers("gpt2")
    ours, theirs = llama(tmp_path, len(tokenizer))
    ids = torch.tensor([tokenizer("the quick brown")["input_ids"]])
    for stops in (["e"], ["t", "o"], ["he"]):
        asked = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12, "stop_strings": stops}
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), tokenizer=theirs_tokenizer, **asked)
        assert ours.generate(ids, tokenizer=tokenizer, **asked).tolist() == expected.tolist()


def test_a_stop_string_that_begins_in_the_prompt(tokenizers):
    tokenizer, _ = tokenizers("gpt2")
    row = [tokenizer.token_id(letter) for letter in "abstop"]
    stops = StopStrings(["stop"], tokenizer)
    assert stops.ends(row) and not stops.ends(row[:-1])
    for prompt, text in ((1, "b"), (2, ""), (4, ""), (5, "")):
        shown = ShownText(tokenizer, stops)
        assert "".join(shown.push(row[:n], prompt) for n in range(prompt + 1, 7)) + shown.rest(row, prompt) == text


def test_stop_strings_need_a_tokenizer(pair):
    for ask in (pair[0].generate, lambda ids, **s: Engine(pair[0], memory=1 << 20).submit(ids, **s)):
        with pytest.raises(InputError, match="tokenizer"):
            ask(torch.tensor([[5, 6]]), stop_strings="x")
    for wrong in ([""], [3], 7):
        with pytest.raises(InputError, match="stop_strings"):
            pair[0].generate(torch.tensor([[5, 6]]), stop_strings=wrong)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_reference_s_logits(pair):
    ours, theirs = pair
    engine = Engine(ours, memory=1 << 22)
    for row in ragged(VOCABULARY, [9, 1, 4]):
        asked = {"max_new_tokens": 7, "repetition_penalty": 1.7}
        said = theirs.generate(
            row[None], attention_mask=torch.ones(1, len(row)).long(), output_logits=True, return_dict_in_generate=True,
            **asked,
        )  # fmt: skip
        expected = torch.cat(said.logits).log_softmax(-1)
        for top in (0, 1, 5, 1000):
            found = engine.generate(row.tolist(), logprobs=top, **asked)
            assert found.tokens == said.sequences[0, len(row) :].tolist() and len(found.logprobs) == len(found.tokens)
            for step, one in zip(expected, found.logprobs, strict=True):
                best = step.topk(min(top, VOCABULARY))
                close(torch.tensor(one.logprob), step[one.token])
                assert [token for token, _ in one.top] == best.indices.tolist()
                close(torch.tensor([value for _, value in one.top]), best.values)
    assert engine.generate([3, 4], max_new_tokens=2).logprobs is None
    handle = engine.submit([3, 4], max_new_tokens=4, logprobs=2)
    assert [piece.logprob for piece in handle] == handle.result(5).logprobs


@pytest.mark.parametrize(
    "asked",
    [
        {"output_scores": True},
        {"output_logits": True},
        {"output_scores": True, "output_logits": True, "do_sample": True, "top_k": 9},
        {"output_scores": True, "do_sample": True, "num_return_sequences": 2, "temperature": 1.5},
        {},
    ],
)
@pytest.mark.parametrize("which", ["pair", "t5"])
def test_scores_and_logits_step_by_step(request, which, asked):
    ours, theirs = request.getfixturevalue(which)
    ids, mask = padded(ragged(VOCABULARY, [9, 4, 1]), side="left" if which == "pair" else "right")
    asked = {"eos_token_id": ENDS, "max_new_tokens": 15, "return_dict_in_generate": True, **asked}
    torch.manual_seed(3)
    expected = theirs.generate(ids, attention_mask=mask, **asked)
    torch.manual_seed(3)
    found = ours.generate(ids, attention_mask=mask, **asked)
    assert found.sequences.tolist() == expected.sequences.tolist() and "sequences_scores" not in found
    for name in ("scores", "logits"):
        theirs_steps, steps = expected.get(name), getattr(found, name)
        assert (steps is None) == (theirs_steps is None)
        for at, (mine, other) in enumerate(zip(steps or (), theirs_steps or (), strict=True)):
            assert mine.shape == other.shape and mine.dtype == other.dtype
            for row in range(len(mine)):
                near = other[row].isfinite()
                assert torch.equal(mine[row].isfinite(), near), at
                close(mine[row][near], other[row][near])  # past its end too, as if padding had been written on


# -- lengths and ends --------------------------------------------------------------------------------------------------

LENGTHS = {
    "nothing": {},
    "max_length": {"max_length": 17},
    "both": {"max_length": 30, "max_new_tokens": 4},
    "min_length": {"min_length": 16, "max_length": 25, "eos_token_id": list(range(2, 60))},
    "both minima": {"min_length": 20, "min_new_tokens": 2, "eos_token_id": list(range(2, 60))},
    "no minimum": {"min_length": 20, "min_new_tokens": 0, "eos_token_id": list(range(2, 60))},
    "forced end": {"max_length": 15, "forced_eos_token_id": [7, 8]},
    "forced first": {"forced_bos_token_id": 7, "begin_suppress_tokens": list(range(3, 50))},
    "no cache": {"use_cache": False, "max_new_tokens": 7},
    "many ends": {"eos_token_id": ENDS, "pad_token_id": 3},
    "no end": {"eos_token_id": None},
    "top_p 0": {"do_sample": True, "top_p": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("lengths", [[9, 4, 12], [1, 1], [3]])
@pytest.mark.parametrize("which", ["pair", "t5"])
def test_lengths_are_counted_as_the_reference_counts_them(request, which, lengths, beams, case):
    ours, theirs = request.getfixturevalue(which)
    ids, mask = padded(ragged(VOCABULARY, lengths), side="left" if which == "pair" else "right")
    asked = {**LENGTHS[case], "num_beams": beams}
    if beams > 1 and asked.pop("do_sample", False):
        asked.pop("top_p")
    expected = theirs.generate(ids, attention_mask=mask, **asked)
    assert ours.generate(ids, attention_mask=mask, **asked).tolist() == expected.tolist()


@pytest.mark.parametrize("start", [[[0, 5, 9], [0, 7, 3]], [[0], [0]]])
@pytest.mark.parametrize(
    "asked", [{"max_length": 9}, {"min_length": 8, "max_length": 12, "eos_token_id": list(range(2, 60))}]
)
def test_lengths_after_a_decoder_prompt(t5, start, asked):
    ours, theirs = t5
    ids = torch.stack(ragged(VOCABULARY, [6, 6]))
    prompt = torch.tensor(start)
    expected = theirs.generate(ids, decoder_input_ids=prompt, **asked)
    assert ours.generate(ids, decoder_input_ids=prompt, **asked).tolist() == expected.tolist()


FILES = {
    "beams": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    "several": {"num_beams": 4, "num_return_sequences": 2},
    "lengths": {"max_length": 21, "min_length": 15},
    "new tokens": {"max_new_tokens": 7},
    "rules": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.4, "suppress_tokens": [4, 5, 6]},
    "draws": {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 30},
    "dictionary": {"return_dict_in_generate": True},
}


@pytest.mark.parametrize("asked", [{}, {"max_length": 16}, {"max_new_tokens": 3}, {"num_beams": 1, "do_sample": False}])
@pytest.mark.parametrize("case", FILES)
def test_the_checkpoint_s_settings_hold(tmp_path, case, asked):
    theirs = llama(tmp_path, VOCABULARY)[1]
    settings = {**FILES[case], "eos_token_id": ENDS, "pad_token_id": 0, "bos_token_id": 1}
    transformers.GenerationConfig(**settings).save_pretrained(tmp_path)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = ragged(VOCABULARY, [9])[0][None]
    if case == "several" and asked.get("num_beams") == 1:
        with pytest.raises(InputError, match="num_return_sequences"):
            ours.generate(ids, **asked)
        return
    torch.manual_seed(3)
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    torch.manual_seed(3)
    found = ours.generate(ids, **asked)
    if case == "dictionary":
        expected, found = expected.sequences, found.sequences
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [("token_healing", True), ("assistant_ensemble_weight", 0.5)],
)
def test_settings_of_the_file_that_are_not_there_are_refused_by_name(pair, name, value):
    ours, _ = pair
    with pytest.raises(InputError, match=name):
        ours.generate(torch.tensor([[5]]), generation_config=omniform.GenerationConfig(**{name: value}))


def test_time_ends_every_row(pair):
    ours, theirs = pair
    ids = torch.stack(ragged(VOCABULARY, [6, 6]))
    asked = {"max_time": 1e-9, "max_new_tokens": 50}
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    assert ours.generate(ids, **asked).tolist() == expected.tolist() and expected.shape == (2, 7)
    beams = {**asked, "num_beams": 3, "num_return_sequences": 2}
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **beams)
    assert ours.generate(ids, **beams).tolist() == expected.tolist()
    done = Engine(ours, memory=1 << 22).generate([5, 6], **asked)
    assert done.finish_reason == "length" and len(done.tokens) == 1


def test_a_token_cannot_be_forced_and_suppressed(pair):
    ours, theirs = pair
    ids = torch.tensor([[5]])
    for forced in ("forced_bos_token_id", "forced_eos_token_id"):
        asked = {forced: 7, "suppress_tokens": [7, 8]}
        with pytest.raises(ValueError, match=forced):
            theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)
        with pytest.raises(InputError, match=forced):
            ours.generate(ids, **asked)


# -- many requests -----------------------------------------------------------------------------------------------------


def test_generate_batch_answers_each_row_as_the_reference_does_alone(pair):
    ours, theirs = pair
    rows = [row.tolist() for row in ragged(VOCABULARY, [30, 1, 9, 17])]
    config = {"max_new_tokens": 12, "eos_token_id": ENDS, "repetition_penalty": 1.2}
    given = omniform.GenerationConfig(**config)
    for found in (
        ours.generate_batch(rows, **config),
        ours.generate_batch(rows, given),
        ours.generate_batch(inputs=rows, generation_config=given, max_new_tokens=12, progress_bar=True, warmup=False),
    ):
        assert list(found) == ["req_0", "req_1", "req_2", "req_3"]
        for row, one in zip(rows, found.values(), strict=True):
            ids = torch.tensor([row])
            expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), **config)[0]
            assert one.prompt_ids + one.generated_tokens == expected.tolist()
            assert one.finish_reason == ("stop" if one.tokens[-1] in ENDS else "length")
    assert ours.generate_batch([]) == {}


def test_generate_batch_counts_each_row_s_own_length(pair):
    rows = [row.tolist() for row in ragged(VOCABULARY, [8, 3])]
    found = pair[0].generate_batch(rows, max_length=10, min_length=10)
    assert [len(one.tokens) for one in found.values()] == [2, 7]


def test_generate_batch_draws(pair):
    ours, _ = pair
    asked = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 12, "seed": 4}
    found = [one.tokens for one in ours.generate_batch([[5, 6], [5, 6], [7]], **asked).values()]
    assert found[0] != found[1] and [one.tokens for one in ours.generate_batch([[5, 6]], **asked).values()] == found[:1]


@pytest.mark.parametrize(
    ("rows", "asked", "says"),
    [
        ([[5], []], {}, "row 1"),
        ([[5], [97]], {}, "vocabulary"),
        ([[5]], {"max_new_token": 4}, "max_new_tokens"),
        ([[5]], {"pixel_values": None}, "pixel_values"),
        ([[5]], {"generation_config": omniform.GenerationConfig(token_healing=True)}, "token_healing"),
        ([[5]], {"custom_generate": print}, "custom_generate"),
        (["text"], {}, "row 0"),
    ],
)
def test_bad_batches(pair, rows, asked, says):
    with pytest.raises(omniform.OmniformError, match=says):
        pair[0].generate_batch(rows, **asked)


# -- streams -----------------------------------------------------------------------------------------------------------


class Notes:
    """A streamer that notes what it is given."""

    def __init__(self):
        self.notes = []

    def put(self, value):
        self.notes.append(value.tolist())

    def end(self):
        self.notes.append("end")


@pytest.mark.parametrize("which", ["pair", "t5"])
@pytest.mark.parametrize("lengths", [[9, 4, 12], [5]])
@pytest.mark.parametrize("draws", [{}, {"do_sample": True, "num_return_sequences": 3}])
def test_streamed_columns_are_those_of_the_answer(request, which, lengths, draws):
    ours, theirs = request.getfixturevalue(which)
    ids, mask = padded(ragged(VOCABULARY, lengths), side="left" if which == "pair" else "right")
    asked = {"max_new_tokens": 14, "eos_token_id": ENDS, "pad_token_id": 3, **draws}
    torch.manual_seed(1)
    whole = ours.generate(ids, attention_mask=mask, **asked)
    start = 1 if which == "t5" else ids.shape[1]
    torch.manual_seed(1)
    columns = list(omniform.stream(ours, ids, attention_mask=mask, **asked))
    assert torch.stack(columns, 1).tolist() == whole[:, start:].tolist()
    mine = Notes()
    torch.manual_seed(1)
    ours.generate(ids, attention_mask=mask, streamer=mine, **asked)
    assert mine.notes[1:] == [*whole[:, start:].T.tolist(), "end"]
    if lengths == [5] and not draws:  # the reference streams one row only
        other = Notes()
        theirs.generate(ids, attention_mask=mask, streamer=other, **asked)
        assert mine.notes == other.notes


def test_text_comes_through_another_thread(tmp_path, tokenizers):
    tokenizer, theirs_tokenizer = tokenizers("gpt2")
    ours, theirs = llama(tmp_path, len(tokenizer))
    ids = torch.tensor([tokenizer("the quick brown")["input_ids"]])
    asked = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": 5}
    streamer = omniform.TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20)
    thread = threading.Thread(target=ours.generate, args=(ids,), kwargs={**asked, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    whole = theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)[0, ids.shape[1] :]
    assert "".join(pieces) == theirs_tokenizer.decode(whole) and len(pieces) > 3


def test_handles_stream_several_answers(pair, tokenizers):
    engine = Engine(pair[0], memory=1 << 22)
    handle = engine.submit([5, 6], do_sample=True, seed=1, temperature=2.0, num_return_sequences=3, max_new_tokens=9)
    told: dict[int, list[int]] = {}
    for piece in handle:
        told.setdefault(piece.sequence, []).append(piece.token)
    assert [told[i] for i in range(3)] == [one.tokens for one in handle.result(5).sequences]


def test_beams_are_told_at_their_end(pair):
    engine = Engine(pair[0], memory=1 << 22)
    asked = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, "min_new_tokens": 6}
    handle = engine.submit([5, 6], **asked)
    pieces, done = list(handle), handle.result(5)
    whole = pair[0].generate(torch.tensor([[5, 6]]), **asked)
    assert [one.tokens for one in done.sequences] == whole[:, 2:].tolist() and done.sequences[0].score is not None
    assert [piece.token for piece in pieces if piece.sequence == 1] == done.sequences[1].tokens
