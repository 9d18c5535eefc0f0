"""Generation of an encoder-decoder against the reference."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import InputError
from reference import omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "num_decoder_layers": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "pad_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def pair(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(**TINY, feed_forward_proj=request.param)
    theirs = saved_reference(transformers.T5ForConditionalGeneration, config, folder, scale=0.4)
    return omniform.AutoModelForSeq2SeqLM.from_pretrained(folder), theirs


def test_greedy_token_for_token(pair):
    ours, theirs = pair
    for length in (1, 5, 17):
        ids = torch.stack(ragged(97, [length] * 3, seed=length))
        expected = theirs.generate(ids, max_new_tokens=15)
        assert ours.generate(ids, max_new_tokens=15).tolist() == expected.tolist()


def test_padded_and_ragged_batches_equal_rows_alone(pair):
    ours, theirs = pair
    rows = ragged(97, [9, 4, 1])
    settings = {"max_new_tokens": 12, "min_new_tokens": 12}
    alone = [ours.generate(row[None], **settings)[0].tolist() for row in rows]
    ids, mask = padded(rows)
    assert ours.generate(ids, attention_mask=mask, **settings).tolist() == alone
    assert theirs.generate(ids, attention_mask=mask, **settings).tolist() == alone
    assert ours.generate([row.tolist() for row in rows], **settings).tolist() == alone


def test_a_decoder_prompt_is_continued(pair):
    ours, theirs = pair
    ids = torch.stack(ragged(97, [6, 6]))
    prompt = torch.tensor([[0, 5, 9], [0, 7, 3]])
    expected = theirs.generate(ids, decoder_input_ids=prompt, max_new_tokens=8)
    assert ours.generate(ids, decoder_input_ids=prompt, max_new_tokens=8).tolist() == expected.tolist()


def test_sampling_draws_the_reference_s_tokens(pair):
    ours, theirs = pair
    ids = torch.stack(ragged(97, [6, 6]))
    torch.manual_seed(3)
    expected = theirs.generate(ids, do_sample=True, max_new_tokens=12, top_k=7, temperature=1.5)
    torch.manual_seed(3)
    assert ours.generate(ids, do_sample=True, max_new_tokens=12, top_k=7, temperature=1.5).tolist() == expected.tolist()


@pytest.mark.parametrize("ids", [[[3, 4], []], torch.tensor([[99]]), "text"])
def test_bad_prompts(pair, ids):
    with pytest.raises(InputError):
        pair[0].generate(ids)
