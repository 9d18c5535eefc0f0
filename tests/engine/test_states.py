"""Engines whose models keep states of every kind: convolutions and recurrences, latent vectors, keys, or no keys."""

import pytest
import torch
from torch import nn

from engines import family, idle, tight
from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.blocks.attend import attend
from omniform.blocks.attention import Attention
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.recurrent import GatedDeltaRule, ShortConv
from omniform.blocks.scores import Scores
from omniform.core.errors import InputError
from omniform.core.rules import Causal, Window
from omniform.core.state import KV, Conv, CrossKV, Latent, Recurrent, StatefulModule, mixers, number_mixers, state_specs
from omniform.engine.engine import Engine
from omniform.engine.paged_state import MEMORY, ROWS
from omniform.hub.plan import _states
from reference import omniform, ragged, randomise

WIDTH, VOCABULARY, NEW = 16, 41, 8


class Delta(nn.Module):
    """A convolution, then the gated delta rule: two mixers of one layer."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(WIDTH, 2 * 8 + 12)
        self.gates = nn.Linear(WIDTH, 4)
        self.conv = ShortConv(28, 4)
        self.rule = GatedDeltaRule(2, 4, 6)
        self.out = nn.Linear(12, WIDTH)

    def forward(self, x, ctx):
        q, k, v = torch.nn.functional.silu(self.conv(self.proj(x), ctx)).split([8, 8, 12], -1)
        g, beta = self.gates(x).split(2, -1)
        heads = [y.unflatten(-1, (2, -1)) for y in (q, k, v)]
        return self.out(ctx.only_wanted(self.rule(*heads, -g.exp(), beta.sigmoid(), ctx).flatten(2)))


class LatentAttention(StatefulModule):
    """Four heads over one small vector per token, wider as a key than as a value."""

    def __init__(self, window=None):
        super().__init__()
        self.rule = Causal() if window is None else Causal() & Window(window)
        self.down, self.q, self.out = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 40), nn.Linear(4 * 6, WIDTH)

    def state_spec(self):
        return Latent(10, self.rule.reach)

    def forward(self, x, ctx):
        c = self.down(x)[:, None]
        if ctx.state is not None:
            c = ctx.state.latent(self.slot).extend(c)
        q, mask = self.q(x).unflatten(-1, (4, 10)), ctx.mask(self.rule, x.shape[1], x.device)
        return self.out(attend(ctx.only_wanted(q), c, c[..., :6], mask, scores=Scores(0.3), backend=ctx.backend))


class AfterTen:
    """Rows of more than ten tokens are kept otherwise."""

    renews = True

    def regime(self, length):
        return length > 10


class LengthMinded(LatentAttention):
    """A mixer of its own, whose vectors depend on the length of the row, as long rotary frequencies do."""

    def regimes(self):
        return (AfterTen(),)

    def forward(self, x, ctx):
        longer = (ctx.lengths_seen > 10).to(x.dtype)
        return super().forward(x * (1 + longer[..., None] if longer.dim() else 1 + longer), ctx)


MIXERS = {
    "length": LengthMinded,
    "delta": Delta,
    "latent": LatentAttention,
    "latent window": lambda: LatentAttention(5),
    "full": lambda: Attention(WIDTH, 4, rule=Causal(), kv_heads=2),
    "window": lambda: Attention(WIDTH, 4, rule=Causal() & Window(5)),
}
MODELS = {
    "recurrent only": ["delta", "delta"],
    "hybrid": ["delta", "full", "delta"],
    "hybrid of all": ["delta", "full", "window", "latent", "delta"],
    "latent": ["latent", "latent window"],
}


def model(name):
    """A tiny language model of some mixers, by the name of a model or theirs."""
    torch.manual_seed(0)
    layers = [
        PreNorm(
            input_layernorm=nn.LayerNorm(WIDTH),
            self_attn=MIXERS[kind](),
            post_attention_layernorm=nn.LayerNorm(WIDTH),
            mlp=GatedMLP(WIDTH, 24, "silu"),
        )
        for kind in (MODELS[name] if isinstance(name, str) else name)
    ]
    table, norm = nn.Embedding(VOCABULARY, WIDTH), nn.LayerNorm(WIDTH)
    parts = {"embed_tokens": table, "embeddings": Embeddings(), "layers": nn.ModuleList(layers), "norm": norm}
    decoder = TextDecoder(**parts, max_positions=64)
    whole = CausalLM(model=decoder, lm_head=nn.Linear(WIDTH, VOCABULARY)).eval().bind(family("llama").ours.origin)
    number_mixers(whole.keeper())
    randomise(whole, scale=0.8)
    with torch.no_grad():
        whole.lm_head.bias[2] = -1e4  # no row ends before its time
    return whole


@torch.no_grad()
def alone(lm, prompt, new=NEW):
    """What a model writes, without any cache."""
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(int(lm(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def prompts(lengths, seed=0):
    return [row.tolist() for row in ragged(VOCABULARY - 1, lengths, seed=seed)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step", [1, 7, 512])
def test_ragged_rows_and_chunks_are_rows_alone(name, step):
    lm, rows = model(name), prompts([3, 17, 1, 9, 9, 30])
    engine = Engine(lm, memory="4MB", max_tokens_per_step=step)
    found = [c.tokens for c in engine.generate_batch(rows, max_new_tokens=NEW)]
    assert found == [alone(lm, row) for row in rows]
    idle(engine)


@pytest.mark.parametrize("name", MODELS)
def test_who_gives_way_goes_on_with_the_same_tokens(name, monkeypatch):
    monkeypatch.setattr("omniform.engine.memory.TYPICAL_ROW", 8)  # more states than tokens for all of their rows
    lm, rows = model(name), prompts([9, 14, 21, 6], seed=1)
    if name == "recurrent only":  # which never gives way: a row that runs needs no more room
        memory = 2 * Engine(lm, memory="1MB")._sizes[ROWS]
        engine = Engine(lm, memory=memory)
        found = engine.generate_batch(rows, max_new_tokens=NEW)
        assert engine.stats().blocks_total == 2
    else:
        engine, found = tight(lm, rows, [{"max_new_tokens": NEW}] * len(rows))
    assert [c.tokens for c in found] == [alone(lm, row) for row in rows]
    idle(engine)


def test_state_that_depends_on_the_length_of_its_row():
    """Any mixer may say so: what is kept in one regime is shared with no row of another, and none mixes the two."""
    lm = model(["full", "length"])
    longest = prompts([24], seed=2)[0]
    engine = Engine(lm, memory="4MB", block_size=4)
    for length in (9, 24, 10, 14, 5, 20):  # each begins as the others do
        assert engine.generate(longest[:length], max_new_tokens=NEW).tokens == alone(lm, longest[:length])
    assert engine.stats().tokens_cached == 0 + 8 + 8 + 12 + 4 + 16
    idle(engine)


@pytest.mark.parametrize("name", MODELS)
def test_beams_and_several_answers_have_states_of_their_own(name):
    lm, row = model(name), prompts([11])[0]
    wide = Engine(lm, memory="4MB")
    one = wide.generate_batch([row, row[:4]], num_beams=3, num_return_sequences=3, max_new_tokens=NEW)
    for completion, prompt in zip(one, (row, row[:4]), strict=True):
        padded = beams_by_hand(lm, prompt)
        assert [s.tokens for s in completion.sequences] == padded
    drawn = {"do_sample": True, "temperature": 4.0, "seed": 3, "max_new_tokens": NEW}
    several = [s.tokens for s in wide.generate(row, num_return_sequences=4, **drawn).sequences]
    assert several[0] == wide.generate(row, **drawn).tokens
    assert len({*map(tuple, several)}) == 4
    for tokens in several:  # each goes on as itself
        assert wide.generate([*row, *tokens], max_new_tokens=1).tokens == alone(lm, [*row, *tokens], 1)
    idle(wide)


@torch.no_grad()
def beams_by_hand(lm, prompt, beams=3, new=NEW):
    """Beam search without end tokens, every beam read anew."""
    found = [(0.0, [])]
    for _ in range(new):
        next_ones = []
        for score, tokens in found:
            scores = lm(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1].log_softmax(-1)
            next_ones += [(score + float(s), [*tokens, t]) for t, s in enumerate(scores)]
        found = sorted(next_ones, key=lambda pair: -pair[0])[:beams]
    return [tokens for _, tokens in found]


@pytest.mark.parametrize("name", MODELS)
def test_padded_cached_and_chunked_forwards_agree(name):
    lm = model(name)
    rows = [torch.tensor(row) for row in prompts([4, 9])]
    with torch.no_grad():
        whole = lm(rows[1][None], use_cache=False).logits
        for side in ("left", "right"):
            pad = 9 - 4
            ids = torch.stack([torch.nn.functional.pad(rows[0], (pad, 0) if side == "left" else (0, pad)), rows[1]])
            mask = torch.ones(2, 9, dtype=torch.long)
            mask[0, :pad] = side == "right"
            mask[0, -pad:] = side == "left"
            if side == "right":
                mask[0, :4], mask[0, 4:] = 1, 0
            else:
                mask[0, :pad], mask[0, pad:] = 0, 1
            out = lm(ids, attention_mask=mask).logits
            torch.testing.assert_close(out[0, mask[0].bool()], lm(rows[0][None]).logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(out[1], whole[0], atol=1e-4, rtol=1e-4)
        past, parts = None, []
        for first, stop in ((0, 2), (2, 7), (7, 8), (8, 9)):
            out = lm(rows[1][None, first:stop], past_key_values=past, use_cache=True)
            past = out.past_key_values
            parts.append(out.logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_generate_holds_exactly_what_it_needs(name):
    lm, rows = model(name), prompts([5, 12])
    longest = max(map(len, rows))
    ids = torch.stack([torch.tensor([0] * (longest - len(row)) + row) for row in rows])
    mask = torch.stack([torch.tensor([0] * (longest - len(row)) + [1] * len(row)) for row in rows])
    out = lm.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    assert out[:, longest:].tolist() == [alone(lm, row) for row in rows]


def test_beginnings_are_shared_only_where_they_can_be():
    """What a recurrence remembers cannot be taken over from half-way; whoever asks is told so."""
    for name in MODELS:
        engine = Engine(model(name), memory="4MB", block_size=4)
        row = prompts([30])[0]
        first, second = (engine.generate(row, max_new_tokens=NEW) for _ in range(2))
        assert first.tokens == second.tokens
        shares = name == "latent"
        assert (second.cached_tokens > 0) == shares
        assert ("recurrent" in engine.stats().prefix_cache) != shares


def test_too_little_memory_is_said_in_rows():
    lm = model("recurrent only")
    need = Engine(lm, memory="1MB")._sizes[ROWS]
    with pytest.raises(InputError, match=f"at least {need} bytes"):
        Engine(lm, memory=need - 1)
    engine = Engine(lm, memory=need)
    with pytest.raises(InputError, match="at most 1 rows at once"):
        engine.generate(prompts([3])[0], num_beams=2, max_new_tokens=2)
    assert engine.generate(prompts([3])[0], max_new_tokens=2).tokens


def test_one_failed_step_leaves_no_trace_in_states():
    """A step that fails half-way has changed some layers' states: whoever was in it begins anew."""
    lm, rows = model("hybrid"), prompts([5, 9])
    expected = [alone(lm, row) for row in rows]
    engine, calls = Engine(lm, memory="4MB"), []

    def fail_once(module, args):
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("once")

    handle = lm.model.layers[-1].mlp.register_forward_pre_hook(fail_once)
    try:
        found = [c.tokens for c in engine.generate_batch(rows, max_new_tokens=NEW)]
    finally:
        handle.remove()
    assert found == expected


# -- what is counted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tokens", "memory"),
    [
        ("llama", 2 * 2 * 2 * 8, 0),
        ("bert", 2 * 2 * 4 * 8, 0),
        ("gpt2", 2 * 2 * 4 * 8, 0),
        ("t5", 2 * 2 * 4 * 8, 2 * 2 * 4 * 8),
        ("whisper", 2 * 2 * 4 * 8, 2 * 2 * 4 * 8),
        ("llava", 2 * 2 * 2 * 8, 0),
    ],
)
def test_the_engine_counts_what_the_decoder_needs(name, tokens, memory):
    """Layers x (key and value) x heads x width, of the decoder alone."""
    lm = family(name).ours
    engine = Engine(lm, memory="2MB")
    assert engine._sizes == {None: 4 * tokens, **({MEMORY: 4 * memory} if memory else {})}
    slots = sorted(state_specs(lm.decoder))
    assert slots == list(range(len(slots))), "slots are numbered over the decoder's mixers"
    held = sum(x.nbytes for view in engine._state._kv.values() for x in view.whole)
    blocks = {key: pool.blocks for key, pool in engine._pools.items()}
    assert held == sum(blocks[key] * 8 * n for key, n in engine._sizes.items()) <= 2_000_000
    assert sum(_states(lm, lm.dtype, 1, 1, fixed=False).values()) == 4 * tokens, "plan() tells the same"
    assert {path for path, n in _states(lm, lm.dtype, 1, 1).items() if n} == {
        path for path, module in lm.named_modules() if module in mixers(lm.decoder)
    }


def test_specs_tell_their_sizes():
    half = torch.float16
    assert KV(2, 8, 4).nbytes(half) == 2 * 2 * 12 and KV(2, 8, 4, 5).reach == 5
    assert CrossKV(2, 8, 4).nbytes(half) == 2 * 2 * 12 and CrossKV(2, 8, 4).kept == "memory"
    assert Latent(10).nbytes(half) == 20 and Conv(6, 4).nbytes(half) == 36
    assert Recurrent((2, 3)).nbytes(half) == 24 and Recurrent((2, 3), half).nbytes(half) == 12


def test_a_model_without_any_layer_writes():
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 0}
    config = omniform.AutoConfig.for_model("llama", **sizes)
    model = omniform.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    expected = ids
    for _ in range(4):
        expected = torch.cat((expected, model(expected).logits[:, -1:].argmax(-1)), 1)
    how = {"max_new_tokens": 4, "eos_token_id": None}
    assert torch.equal(model.generate(ids, **how), expected)
    assert torch.equal(model.generate(ids, num_beams=2, **how)[:, :3], ids)
