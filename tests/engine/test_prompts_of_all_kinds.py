"""Prompts that are more than ids: pictures and sounds of any lengths, vectors, places on several axes, spans."""

from collections import UserList

import pytest
import torch
from torch import nn

from engines import family, idle, tight
from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.architectures.generative import RowLayout
from omniform.blocks.attention import Attention
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import GatedMLP
from omniform.core.batch import Item, Span
from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.core.rules import Causal, Window
from omniform.core.spans import numbered
from omniform.core.state import DenseState, number_mixers
from omniform.engine.engine import Engine
from omniform.engine.request import Prompt
from omniform.engine.settings import Asked
from reference import ragged, randomise

WIDTH, VOCABULARY, NEW = 16, 41, 6
PICTURE, SOUND = 39, 40
NAMES = {"image": "pixel_values", "audio": "input_features"}


PLAIN = (Causal(), Causal())


class TwoAxes:
    """Turns half of each head by a token's place on the first axis, half by that on the last."""

    def __call__(self, q, k, ctx):
        axes = ctx.positions if ctx.positions.dim() == 3 else ctx.positions[None]
        angles = torch.stack([axes[0], axes[-1]], -1)[:, :, None] * torch.tensor([1.0, 0.3])
        turn = torch.polar(torch.ones_like(angles), angles)
        pairs = (torch.view_as_complex(x.unflatten(-1, (2, 2)).contiguous()) for x in (q, k))
        return tuple(torch.view_as_real(x * turn).flatten(-2) for x in pairs)


class Talker(CausalLM):
    """Reads pictures of 1 to 5 vectors and sounds of 2 to 4, which see one another or not."""

    axes, both_ways = 1, False

    def __init__(self, *rules):
        layers = [
            PreNorm(
                input_layernorm=nn.LayerNorm(WIDTH),
                self_attn=Attention(WIDTH, 4, rule=rule, positions=TwoAxes(), kv_heads=2),
                post_attention_layernorm=nn.LayerNorm(WIDTH),
                mlp=GatedMLP(WIDTH, 24, "silu"),
            )
            for rule in rules
        ]
        table, head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        parts = {"embed_tokens": table, "embeddings": Embeddings(), "layers": nn.ModuleList(layers)}
        super().__init__(model=TextDecoder(**parts, max_positions=96), lm_head=head)
        self.eyes, self.ears = nn.Linear(3, 5 * WIDTH), nn.Linear(2, 4 * WIDTH)
        self.encoded = UserList()  # no setting of the module: those are watched

    reads_items = True

    @staticmethod
    def length(kind, inputs):
        first = int(inputs[NAMES[kind]][0, 0])
        return first % 5 + 1 if kind == "image" else first % 3 + 2

    def items(self, rows, features):
        left = {kind: list(features[name].split(1)) for kind, name in NAMES.items() if name in features}
        found = []
        for row in rows:
            own, at = [], 0
            while at < len(row):
                kind = {PICTURE: "image", SOUND: "audio"}.get(row[at])
                if kind is not None:
                    own.append(Item(kind, {NAMES[kind]: left[kind].pop(0)}))
                at += 1 if kind is None else self.length(kind, own[-1].inputs)
            found.append(own)
        return found

    def encode_items(self, items):
        assert len({item.modality for item in items}) == 1, "one kind at a time"
        self.encoded += [item.modality for item in items]
        made = []
        for item in items:
            x, size = item.inputs[NAMES[item.modality]], self.length(item.modality, item.inputs)
            made.append((self.eyes if item.modality == "image" else self.ears)(x).view(-1, WIDTH)[:size])
        return made

    def spans(self, row, items, lengths):
        found, at, counts = [], 0, {"image": 0, "audio": 0}
        for item, length in zip(items, lengths, strict=True):
            while row[at] not in (PICTURE, SOUND):
                at += 1
            found.append(Span(item.modality, 0, at, length, counts[item.modality]))
            counts[item.modality] += 1
            at += length
        return found

    def layout(self, row, items, spans):
        """Tokens of an item share one place on the first axis."""
        bidirectional = tuple((s.start, s.start + s.length) for s in spans if s.modality == "image" and self.both_ways)
        if self.axes == 1:
            return RowLayout(bidirectional=bidirectional)
        first, second, place, at = [], [], 0, 0
        for span in [*spans, None]:
            stop = len(row) if span is None else span.start
            first += range(place, place + stop - at)
            second += range(place, place + stop - at)
            place, at = place + stop - at, stop
            if span is not None:
                first += [place] * span.length
                second += range(place, place + span.length)
                place, at = place + 2, stop + span.length
        return RowLayout(torch.tensor([first, second]), place - len(row), bidirectional)


def talker(axes=1, both_ways=False, rules=PLAIN):
    torch.manual_seed(0)
    lm = Talker(*rules).eval().bind(family("llama").ours.origin)
    lm.axes, lm.both_ways = axes, both_ways
    number_mixers(lm.keeper())
    randomise(lm, scale=0.7)
    with torch.no_grad():
        lm.lm_head.bias[torch.tensor([2, PICTURE, SOUND])] = -1e4
    return lm


def prompt(seed, kinds):
    """Text with pictures (``i``) and sounds (``a``) in it."""
    torch.manual_seed(seed)
    ids, pictures, sounds = [], [], []
    for kind in kinds:
        if kind == "t":
            ids += torch.randint(3, 38, (4,)).tolist()
            continue
        x = torch.randn(3 if kind == "i" else 2)
        x[0] = float(torch.randint(0, 9, (1,)))
        (pictures if kind == "i" else sounds).append(x)
        name = "image" if kind == "i" else "audio"
        ids += [PICTURE if kind == "i" else SOUND] * Talker.length(name, {NAMES[name]: x[None]})
    features = {"pixel_values": pictures, "input_features": sounds}
    return {"input_ids": torch.tensor([ids]), **{n: torch.stack(xs) for n, xs in features.items() if xs}}


@torch.no_grad()
def alone(lm, asked, new=NEW):
    """What a model writes: one row, the whole of it anew for every token, without any state."""
    row = asked["input_ids"][0].tolist()
    (items,) = lm.items([row], {k: v for k, v in asked.items() if k != "input_ids"})
    vectors = [lm.encode_items([item])[0] for item in items]
    spans = lm.spans(row, items, list(map(len, vectors)))
    layout, tokens = lm.layout(row, items, spans), list(row)
    lm.encoded.clear()
    for _ in range(new):
        embeds = lm.embed(torch.tensor([tokens]))
        for span, own in zip(spans, vectors, strict=True):
            embeds[0, span.start : span.start + span.length] = own
        positions = layout.of(0, len(tokens))
        marked = torch.zeros(1, len(tokens), dtype=torch.long)
        for number, (first, stop) in enumerate(layout.bidirectional):
            marked[0, first:stop] = number + 1
        places = positions[:, None] if lm.axes > 1 else positions
        ctx = StepContext(places, bidirectional=marked if layout.bidirectional else None)
        tokens.append(int(lm.project(lm.decoder.decode(embeds, ctx))[0, -1].argmax()))
    return tokens[len(row) :]


KINDS = ["tit", "tatit", "t", "iat", "itiatat", "tti"]
VARIANTS = {
    "one axis": {},
    "two axes": {"axes": 2},
    "both ways": {"both_ways": True},
    "both ways, windows": {"both_ways": True, "rules": (Causal() & Window(3), Causal())},
    "all": {"axes": 2, "both_ways": True, "rules": (Causal(), Causal() & Window(3))},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [1, 5, 512])
def test_rows_of_all_kinds_are_rows_alone(variant, step):
    lm = talker(**VARIANTS[variant])
    asked = [prompt(i, kinds) for i, kinds in enumerate(KINDS)]
    expected = [alone(lm, one) for one in asked]
    engine = Engine(lm, memory="1MB", max_tokens_per_step=step, block_size=4)
    for _ in range(2):  # the second time from what is remembered
        found = engine.generate_batch(asked, max_new_tokens=NEW)
        assert [c.tokens for c in found] == expected
    assert sum(c.cached_tokens for c in found) > 20
    assert sorted(lm.encoded) == sorted("image" if k == "i" else "audio" for kinds in KINDS for k in kinds if k != "t")
    idle(engine)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_all_kinds_give_way_and_fork(variant):
    lm = talker(**VARIANTS[variant])
    asked = [prompt(i, kinds) for i, kinds in enumerate(KINDS)]
    expected = [alone(lm, one) for one in asked]
    engine, found = tight(lm, asked, [{"max_new_tokens": NEW}] * len(asked), block_size=4, max_tokens_per_step=8)
    assert [c.tokens for c in found] == expected
    idle(engine)
    beams = Engine(lm, memory="1MB").generate_batch(asked, num_beams=3, max_new_tokens=NEW)
    small = Engine(lm, memory="1MB", max_tokens_per_step=3, block_size=4)
    again = small.generate_batch(asked, num_beams=3, max_new_tokens=NEW)
    assert [c.tokens for c in beams] == [c.tokens for c in again]


def test_a_span_is_never_split_and_never_half_remembered():
    """Two prompts that differ in the last vector of a long span, whose first blocks would else look the same."""
    lm = talker(both_ways=True)
    lm.layout = lambda row, items, spans: RowLayout(bidirectional=((1, 12),))
    rows = [[3, *range(4, 14), last, 20, 21] for last in (30, 31, 30, 31)]
    engines = [Engine(lm, memory="1MB", prefix_cache=False, max_tokens_per_step=step) for step in (2, 99)]
    fresh = [engine.generate(row, max_new_tokens=NEW).tokens for row in rows for engine in engines]
    assert fresh[0::2] == fresh[1::2]
    engine = Engine(lm, memory="1MB", block_size=4)
    assert [engine.generate(row, max_new_tokens=NEW).tokens for row in rows] == fresh[0::2]
    longer = [*rows[0], 5, 6, 7]
    expected = Engine(lm, memory="1MB", prefix_cache=False).generate(longer, max_new_tokens=NEW)
    found = engine.generate(longer, max_new_tokens=NEW)
    assert (found.tokens, found.cached_tokens) == (expected.tokens, 12)


def test_dense_spans_cached_and_numbered():
    marked = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 1, 1]]).bool()
    assert numbered(marked).tolist() == [[0, 1, 1, 0, 2, 0], [1, 1, 0, 0, 2, 2]]
    lm, embeds = talker(rules=(Causal() & Window(2), Causal())), torch.randn(2, 6, WIDTH)
    places = torch.arange(6)[None]
    with torch.no_grad():
        whole = lm.decoder.decode(embeds, StepContext(places, bidirectional=numbered(marked)))
        state, parts = DenseState(), []
        for first, stop in ((0, 3), (3, 6)):
            part = numbered(marked)[:, first:stop]
            ctx = StepContext(places[:, first:stop], past=first, bidirectional=part, state=state)
            parts.append(lm.decoder.decode(embeds[:, first:stop], ctx))
            state.advance(stop - first)
        padded = torch.nn.functional.pad(embeds[:1, 1:], (0, 0, 1, 0))
        ctx = StepContext(places, bidirectional=numbered(marked[:1]), padding=torch.tensor([[0, 1, 1, 1, 1, 1]]).bool())
        hidden = lm.decoder.decode(padded, ctx)
        bare = lm.decoder.decode(embeds[:1, 1:], StepContext(places[:, 1:], bidirectional=numbered(marked[:1, 1:])))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden[:, 1:], bare, atol=1e-5, rtol=1e-4)


# -- vectors -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama():
    return family("llama")


def test_vectors_of_tokens_write_what_the_tokens_write(llama):
    lm, theirs = llama.ours, llama.theirs
    ids = torch.stack(ragged(60, [9, 9], seed=3))
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
    embeds = lm.embed(ids).detach()
    asked = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False, "repetition_penalty": 1.7}
    expected = theirs.generate(inputs_embeds=embeds, **asked)
    assert torch.equal(lm.generate(inputs_embeds=embeds, **asked), expected), "penalties know only what was written"
    both = lm.generate(input_ids=ids, inputs_embeds=embeds, **asked)
    assert torch.equal(both, theirs.generate(input_ids=ids, inputs_embeds=embeds, **asked))
    one = lm.generate(inputs_embeds=[embeds[0], embeds[1, 3:]], **{**asked, "attention_mask": None})
    assert torch.equal(one, expected)


def test_vectors_in_chunks_and_from_what_is_remembered(llama):
    torch.manual_seed(1)
    rows = [torch.randn(n, 32) for n in (5, 21, 12, 21)]
    prompts = [{"inputs_embeds": row} for row in rows]
    roomy = Engine(llama.ours, memory="4MB", prefix_cache=False)
    expected = [roomy.generate(p, max_new_tokens=NEW).tokens for p in prompts]
    for step in (1, 4, 99):
        engine = Engine(llama.ours, memory="4MB", block_size=4, max_tokens_per_step=step)
        for _ in range(2):
            found = engine.generate_batch(prompts, max_new_tokens=NEW)
            assert [c.tokens for c in found] == expected
        assert all(c.cached_tokens >= 4 for c in found) and found[0].decoder_prompt == ()
        idle(engine)
    engine, found = tight(llama.ours, prompts, [{"max_new_tokens": NEW}] * 4, block_size=4)
    assert [c.tokens for c in found] == expected


def test_ids_with_vectors_in_places(llama):
    """A prompt whose third and fourth token are vectors of their own."""
    lm = llama.ours
    torch.manual_seed(2)
    vectors, answers = torch.randn(2, 32), []
    embeds = lm.embed(torch.tensor([[3, 4, 5, 6, 7, 8]])).detach()
    embeds[0, 2:4] = vectors
    expected = lm.generate(inputs_embeds=embeds, max_new_tokens=NEW, do_sample=False)[0].tolist()
    engine = Engine(lm, memory="4MB", block_size=2)

    class Sink:
        def piece(self, row, token, logprob): ...

        def end(self, completion, error):
            answers.append(completion or error)

    for tokens in ((3, 4, 5, 6, 7, 8), (3, 4, -1, -1, 7, 8)):
        call = Prompt(tokens, vectors=((2, vectors),))
        engine.enqueue(call, Asked(lm, {"max_new_tokens": NEW, "do_sample": False}), Sink())
        while engine.step():
            pass
    assert [a.tokens for a in answers] == [expected] * 2
    assert [a.decoder_prompt for a in answers] == [(3, 4, 5, 6, 7, 8), (3, 4, 7, 8)]


HOLE = torch.tensor([[1, 0, 1]])


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"inputs_embeds": torch.zeros(1, 3, 31)}, "inputs_embeds"),
        ({"inputs_embeds": torch.zeros(1, 3, 32).long()}, "inputs_embeds"),
        ({"inputs_embeds": torch.zeros(1, 0, 32)}, "inputs_embeds"),
        ({"inputs_embeds": "text"}, "inputs_embeds"),
        ({"inputs_embeds": torch.zeros(1, 99, 32)}, "inputs_embeds"),
        ({"inputs_embeds": torch.zeros(2, 3, 32), "attention_mask": torch.ones(2, 4)}, "attention_mask"),
        ({"inputs_embeds": torch.zeros(1, 3, 32), "attention_mask": HOLE}, "attention_mask, row 0"),
        ({"inputs_embeds": torch.zeros(1, 3, 32), "input_ids": torch.ones(1, 4).long()}, "input_ids"),
    ],
)  # fmt: skip
def test_vectors_that_do_not_fit_are_refused(llama, wrong, where):
    with pytest.raises(InputError) as error:
        llama.ours.generate(**wrong, max_new_tokens=2)
    assert error.value.where == where
