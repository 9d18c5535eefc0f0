"""Contrastive search, DoLa and guidance, by definition: plain forwards over whole rows, one token at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_contract import rows as prompt_rows

from engines import NEW, family, idle, roomy, tight
from omniform.core.errors import InputError
from reference import ragged

TEXT = ["llama", "mistral", "gpt2"]


@torch.no_grad()
def outputs(model, row, **more):
    return model(torch.tensor([row]), output_hidden_states=True, **more)


@torch.no_grad()
def contrastive(model, prompt, alpha, k, new, ends=()):
    """Equation 5 of Su et al. 2022."""
    row = list(prompt)
    for _ in range(new):
        odds = outputs(model, row).logits[0, -1].float().softmax(-1)
        best = odds.topk(k)
        scores = []
        for p, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            hidden = F.normalize(outputs(model, [*row, token]).hidden_states[-1][0].float(), dim=-1)
            scores.append((1 - alpha) * p - alpha * float((hidden[:-1] @ hidden[-1]).max()))
        row.append(int(best.indices[int(torch.tensor(scores).argmax())]))
        if row[-1] in ends:
            break
    return row[len(prompt) :]


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.2, 12), (0.9, 3)])
def test_contrastive_search_by_definition(name, alpha, k):
    f = family(name)
    prompts = [row for row in prompt_rows("text") if len(row) < 25]
    asked = {"penalty_alpha": alpha, "top_k": k, "max_new_tokens": NEW}
    expected = [contrastive(f.ours, p, alpha, k, NEW, [2]) for p in prompts]
    assert alpha < 0.5 or expected != [c.tokens for c in roomy(f.ours).generate_batch(prompts, max_new_tokens=NEW)]
    for options in ({}, {"max_tokens_per_step": 13}, {"block_size": 2}):
        engine = roomy(f.ours, **options)
        assert [c.tokens for c in engine.generate_batch(prompts, **asked)] == expected
        idle(engine)
    assert f.ours.generate([prompts[0]], **asked)[0].tolist() == prompts[0] + expected[0]


@torch.no_grad()
def test_contrastive_search_of_an_encoder_decoder():
    f = family("t5")
    source = ragged(60, [9, 5])
    for row in source:
        written = [0]
        for _ in range(6):

            def hidden(tokens, row=row):
                found = f.ours(row[None], decoder_input_ids=torch.tensor([tokens]), output_hidden_states=True)
                return found.logits[0, -1], F.normalize(found.decoder_hidden_states[-1][0], dim=-1)

            best = hidden(written)[0].softmax(-1).topk(4)
            scores = []
            for p, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                h = hidden([*written, token])[1]
                scores.append(0.4 * p - 0.6 * float((h[:-1] @ h[-1]).max()))
            written.append(int(best.indices[int(torch.tensor(scores).argmax())]))
        found = f.ours.generate(row[None], penalty_alpha=0.6, top_k=4, max_new_tokens=6, eos_token_id=None)
        assert found[0].tolist() == written


def test_contrastive_search_says_what_it_chose_by():
    f = family("llama")
    prompt = prompt_rows("text")[0]
    found = f.ours.generate(
        [prompt], penalty_alpha=0.6, top_k=4, max_new_tokens=5, repetition_penalty=1.3, output_scores=True,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    for i, (scores, logits) in enumerate(zip(found.scores, found.logits, strict=True)):
        row = found.sequences[0, : len(prompt) + i]
        torch.testing.assert_close(logits[0], outputs(f.ours, row.tolist()).logits[0, -1], atol=1e-4, rtol=1e-4)
        assert int(found.sequences[0, len(prompt) + i]) in scores[0].topk(4).indices.tolist()


def candidates(which, last, tied):
    if not isinstance(which, str):
        return which
    low = list(range(2 if tied else 0, last // 2, 2)) or [min(2, last - 1) if tied else 0]
    return low if which == "low" else list(range(last // 2, last, 2))


@torch.no_grad()
def dola_scores(model, row, which):
    """Equations 2 to 4 of Chuang et al. 2023."""
    found = outputs(model, row)
    layers = candidates(which, len(found.hidden_states) - 1, model.config.tie_word_embeddings)
    final = found.logits[0, -1].double().softmax(-1)
    best, chosen = -1.0, None
    for layer in layers:
        early = model.project(found.hidden_states[layer][0, -1]).double().softmax(-1)
        middle = (final + early) / 2
        js = sum(0.5 * (p * (p / middle).log()).nansum() for p in (final, early))
        if js > best:
            best, chosen = js, early
    scores = final.log() - chosen.log()
    return scores.masked_fill(final < 0.1 * final.max(), float("-inf"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral mixed"])
@pytest.mark.parametrize("which", ["low", "high", [0, 1]])
def test_dola_by_definition(name, which):
    f = family(name)
    prompts = [row for row in prompt_rows("text") if len(row) < 25]
    expected = []
    for prompt in prompts:
        row = list(prompt)
        for _ in range(NEW):
            row.append(int(dola_scores(f.ours, row, which).argmax()))
            if row[-1] == 2:
                break
        expected.append(row[len(prompt) :])
    asked = {"dola_layers": which, "max_new_tokens": NEW}
    for options in ({}, {"max_tokens_per_step": 5}):
        engine = roomy(f.ours, **options)
        mixed = engine.generate_batch([*prompts, prompts[0]], [*[asked] * len(prompts), {"max_new_tokens": NEW}])
        assert [c.tokens for c in mixed[:-1]] == expected
        assert mixed[-1].tokens == roomy(f.ours).generate(prompts[0], max_new_tokens=NEW).tokens
    noted = f.ours.generate(
        [prompts[0]], **asked, do_sample=True, seed=1, output_scores=True, return_dict_in_generate=True
    )
    close = dola_scores(f.ours, prompts[0], which)
    kept = close.isfinite()
    torch.testing.assert_close(noted.scores[0][0][kept].double(), close[kept], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def guided(model, prompt, negative, scale, new):
    """Equation 7 of Sanchez et al. 2023."""
    row, other = list(prompt), list(negative)
    for _ in range(new):
        a, b = (outputs(model, x).logits[0, -1].log_softmax(-1) for x in (row, other))
        token = int((b + scale * (a - b)).argmax())
        row.append(token)
        other.append(token)
        if token == 2:
            break
    return row[len(prompt) :]


@pytest.mark.parametrize("name", TEXT[:3])
@pytest.mark.parametrize("scale", [1.5, 3.0, 0.5])
def test_guidance_by_definition_and_as_the_reference(name, scale):
    f = family(name)
    prompts = [row for row in prompt_rows("text") if len(row) < 25]
    asked = {"guidance_scale": scale, "max_new_tokens": NEW}
    expected = [guided(f.ours, p, p[-1:], scale, NEW) for p in prompts]
    for options in ({}, {"max_tokens_per_step": 7, "block_size": 2}):
        engine = roomy(f.ours, **options)
        assert [c.tokens for c in engine.generate_batch(prompts, **asked)] == expected
        idle(engine)
    theirs = f.theirs.generate(torch.tensor([prompts[0]]), attention_mask=torch.ones(1, len(prompts[0])), **asked)
    assert theirs[0].tolist() == prompts[0] + expected[0]
    negative = [9, 8, 7, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45]
    away = guided(f.ours, prompts[0], negative, scale, NEW)
    assert f.ours.generate([prompts[0]], negative_prompt_ids=torch.tensor([negative]), **asked)[0].tolist() == (
        prompts[0] + away
    )
    padded = torch.tensor([[0, 0, *negative], [0] * 19 + [5, 6]])
    both = f.ours.generate(
        prompts[:2], negative_prompt_ids=padded, negative_prompt_attention_mask=(padded != 0).long(), **asked,
        eos_token_id=None,
    )  # fmt: skip
    second = guided(f.ours, prompts[1], [5, 6], scale, NEW)
    assert both[0, -NEW:].tolist()[: len(away)] == away and both[1, -NEW:].tolist()[: len(second)] == second


def test_guided_draws_are_the_reference_s():
    f = family("llama")
    ids = torch.stack(ragged(60, [6, 6, 6]))
    asked = {"guidance_scale": 2.0, "do_sample": True, "max_new_tokens": 8, "top_k": 9, "num_return_sequences": 2}
    torch.manual_seed(3)
    expected = f.theirs.generate(ids, attention_mask=torch.ones_like(ids), **asked)
    torch.manual_seed(3)
    assert f.ours.generate(ids, **asked).tolist() == expected.tolist()


def test_guidance_beside_pictures():
    f = family("llava")
    prompt = f.prompt(prompt_rows("picture")[0])
    free = roomy(f.ours).generate(prompt, max_new_tokens=6)
    found = roomy(f.ours).generate(prompt, max_new_tokens=6, guidance_scale=8.0, negative_prompt_ids=[[5, 6]])
    assert found.tokens != free.tokens
    assert roomy(f.ours).generate(prompt, max_new_tokens=6, guidance_scale=1.0).tokens == free.tokens


def test_giving_way_changes_nothing():
    f = family("llama")
    prompts = [row[:4] for row in prompt_rows("text")[:4]]
    for asked in ({"guidance_scale": 2.0}, {"penalty_alpha": 0.6, "top_k": 3}, {"dola_layers": "low"}):
        settings = {**asked, "max_new_tokens": 30, "eos_token_id": None}
        expected = [c.tokens for c in roomy(f.ours).generate_batch(prompts, **settings)]
        small, found = tight(
            f.ours, prompts, [settings] * len(prompts), block_size=2, preempts="penalty_alpha" not in asked
        )
        assert [c.tokens for c in found] == expected
        idle(small)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"guidance_scale": 2.0, "num_beams": 2}, "guidance_scale and num_beams"),
        ({"guidance_scale": 2.0, "penalty_alpha": 0.5, "top_k": 3}, "guidance_scale and penalty_alpha"),
        ({"guidance_scale": 2.0, "dola_layers": "low"}, "guidance_scale and dola_layers"),
        ({"dola_layers": "low", "num_beams": 2}, "dola_layers and num_beams"),
        ({"dola_layers": "low", "prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens.*dola_layers"),
        ({"dola_layers": "middle"}, "dola_layers"),
        ({"dola_layers": [40]}, "dola_layers"),
        ({"guidance_scale": 2.0, "negative_prompt_ids": [[99]]}, "negative_prompt_ids"),
        ({"guidance_scale": 2.0, "negative_prompt_ids": "no"}, "input_ids|negative"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"penalty_alpha": 1.5, "top_k": 3}, "penalty_alpha"),
    ],
)
def test_what_does_not_go_together_is_said(asked, says):
    with pytest.raises(InputError, match=says):
        family("llama").ours.generate([[5, 6, 7]], max_new_tokens=4, **asked)
