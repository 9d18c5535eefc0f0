"""Whatever was computed with old weights is used no more: one way of changing them after the other, for every cache."""

from __future__ import annotations

import copy
import time
from functools import partial

import pytest
import torch
from torch import nn

import omniform
from omniform.blocks.scores import Scores
from omniform.transforms.prepack import PrepackedLinear, prepack
from omniform.weights.version import SAMPLES, WHOLE, WeightWatch

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.6,
}  # fmt: skip
PROMPT = [list(range(3, 43))]
HOW = {"max_new_tokens": 6, "eos_token_id": -1}


def made(**changes):
    torch.manual_seed(0)
    return omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **{**SIZES, **changes}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    made().save_pretrained(path)
    return path


@pytest.fixture(params=["mapped", "ordinary"])
def model(request, folder):
    return omniform.AutoModelForCausalLM.from_pretrained(folder) if request.param == "mapped" else made()


def value(model):
    return model.model.layers[0].self_attn.v_proj.weight


@torch.no_grad()
def in_place(model):
    value(model).mul_(-1)


def through_data(model):
    value(model).data.mul_(-1)


def one_row_through_data(model):
    model.model.embed_tokens.weight.data[7] = 3.0


def one_number_through_data(model):
    model.model.norm.weight.data[3] = -4.0


def data_replaced(model):
    value(model).data = -value(model).data


def data_replaced_twice(model):
    data_replaced(model)
    value(model).data = value(model).data * 3


def copied_through_data(model):
    value(model).data.copy_(torch.randn(32, 32))


def by_numpy(model):
    value(model).detach().numpy()[:] *= -1


def state_dict(model):
    model.load_state_dict({key: -tensor if "v_proj" in key else tensor for key, tensor in model.state_dict().items()})


def state_dict_assigned(model):
    held = {key: -tensor if "v_proj" in key else tensor.clone() for key, tensor in model.state_dict().items()}
    model.load_state_dict(held, assign=True)


def trained(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ids = torch.tensor(PROMPT)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()


def parameter_replaced(model):
    model.model.layers[0].self_attn.v_proj.weight = nn.Parameter(-value(model).detach())


def layer_replaced(model):
    torch.manual_seed(5)
    model.model.layers[1].mlp.down_proj = nn.Linear(48, 32, bias=False)


def layer_wrapped(model):
    attention = model.model.layers[0].self_attn
    attention.v_proj = nn.Sequential(attention.v_proj, nn.Tanh())


def vector_to_parameters(model):
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(vector * torch.linspace(-1, 1, len(vector)), model.parameters())


def initialised(model):
    nn.init.normal_(value(model))


def hooked(model):
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output * 3)


def spectrally_normed(model):
    model.eval()
    nn.utils.parametrizations.spectral_norm(model.model.layers[0].self_attn.v_proj)


def forward_patched(model):
    layer = model.model.layers[0].mlp
    forward = layer.forward
    layer.forward = lambda x: forward(x) * 3  # as tools that hook into modules do


def scores_replaced(model):
    model.model.layers[0].self_attn.scores = Scores(0.01)


def swapped(model):
    torch.utils.swap_tensors(value(model), nn.Parameter(-value(model).detach()))


CHANGES = [
    in_place, through_data, one_row_through_data, one_number_through_data, data_replaced, data_replaced_twice,
    copied_through_data, by_numpy, state_dict, state_dict_assigned, trained, parameter_replaced, layer_replaced,
    layer_wrapped, vector_to_parameters, initialised, hooked, spectrally_normed,
    forward_patched, scores_replaced, swapped,
]  # fmt: skip


def tokens(engine):
    return engine.generate_batch(PROMPT, None, output_logits=True, **HOW)[0].sequences[0]


def same(one, other):
    return one.tokens == other.tokens and all(
        torch.allclose(a, b, atol=1e-4) for a, b in zip(one.logits, other.logits, strict=True)
    )


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_an_engine_that_lives_on(model, change):
    engine = omniform.Engine(model, memory="4MB")
    before = tokens(engine)
    assert same(tokens(engine), before) and engine.stats().tokens_cached > 30
    change(model)
    after, fresh = tokens(engine), tokens(omniform.Engine(model, memory="4MB"))
    assert same(after, fresh)
    assert not same(after, before)
    known = engine.stats().tokens_cached
    tokens(engine)
    assert engine.stats().tokens_cached > known  # and what is computed since is shared again


@pytest.mark.parametrize("how", [lambda m: m.bfloat16(), lambda m: m.double(), lambda m: m.half().float()])
def test_an_engine_whose_model_changes_its_dtype(model, how):
    engine = omniform.Engine(model, memory="4MB")
    tokens(engine)
    how(model)
    fresh = omniform.Engine(model, memory="4MB")
    assert same(tokens(engine), tokens(fresh))
    assert engine.stats().blocks_total == fresh.stats().blocks_total


def test_a_change_in_the_midst_of_an_answer(model):
    """Who is being answered goes on; who comes later gets no old keys, nor do they get his."""
    engine = omniform.Engine(model, memory="4MB")
    slow = engine.submit(PROMPT[0], **{**HOW, "max_new_tokens": 20})
    next(iter(slow))
    through_data(model)
    later = engine.submit(PROMPT[0], **HOW)
    fresh = omniform.Engine(model, memory="4MB").generate(PROMPT[0], **HOW)
    assert later.result().tokens == fresh.tokens and len(slow.result().tokens) == 20
    assert engine.generate(PROMPT[0], **HOW).tokens == fresh.tokens
    assert engine.stats().blocks_used == 0


def test_nothing_changes_and_all_is_remembered(model):
    watch = WeightWatch.of(model)
    version = watch.look()
    engine = omniform.Engine(model, memory="4MB")
    tokens(engine)
    model.state_dict()
    copy.deepcopy(model)
    with torch.no_grad():
        model(input_ids=torch.tensor(PROMPT))
    tokens(engine)
    assert watch.look() == version and WeightWatch.of(model) is watch
    assert WeightWatch.of(copy.deepcopy(model)) is not watch


def test_buffers_and_settings_count():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    watch = WeightWatch.of(model)
    for change in (
        lambda: model[0].running_mean.add_(1), lambda: model[0].running_var.data.mul_(2), model.train, model.eval,
        lambda: setattr(model[0], "eps", 1e-2), lambda: model.register_buffer("more", torch.ones(2), persistent=False),
    ):  # fmt: skip
        version = watch.look()
        change()
        assert watch.look() == version + 1 == watch.look()


class Adapter(nn.Module):
    """Keeps its settings in containers, as PEFT's layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling, self.active = {"default": 1.0}, ["default"]


@pytest.mark.parametrize("change", [lambda a: a.scaling.update(default=2.0), lambda a: a.active.clear()])
def test_settings_of_foreign_modules_count(change):
    model = nn.ModuleList([Adapter()])
    watch = WeightWatch.of(model)
    version = watch.look()
    change(model[0])
    assert watch.look() > version


class Lora(nn.Module):
    """A linear layer with an adapter, as PEFT's are made: merged through ``.data``, switched off by a flag."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.off, self.merged = base, False, []
        self.a, self.b = nn.Linear(32, 4, bias=False), nn.Linear(4, 32, bias=False)

    def forward(self, x):
        return self.base_layer(x) if self.off or self.merged else self.base_layer(x) + self.b(self.a(x))

    def merge(self, sign=1):
        self.base_layer.weight.data += sign * (self.b.weight @ self.a.weight).detach()
        self.merged = ["default"] if sign > 0 else []


def test_an_adapter_put_on_merged_and_taken_off(model):
    engine = omniform.Engine(model, memory="4MB")
    plain = tokens(engine)
    attention = model.model.layers[0].self_attn
    adapted = attention.v_proj = Lora(attention.v_proj)
    off = partial(setattr, adapted, "off", True)
    for change, sameness in ((int, False), (adapted.merge, False), (partial(adapted.merge, -1), False), (off, True)):
        change()
        found = tokens(engine)
        assert same(found, tokens(omniform.Engine(model, memory="4MB"))) and same(found, plain) == sameness


def test_models_made_in_inference_mode():
    with torch.inference_mode():
        model = made()
    engine = omniform.Engine(model, memory="4MB")
    before = tokens(engine)
    with torch.inference_mode():
        value(model).mul_(-1)
    after = tokens(engine)
    assert same(after, tokens(omniform.Engine(model, memory="4MB"))) and not same(after, before)


def test_big_models_of_ordinary_memory():
    """What writes all of a matrix is seen; of what writes a few numbers one has to be told."""
    model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(2)))
    assert sum(p.nbytes for p in model.parameters()) > WHOLE
    watch = WeightWatch.of(model)
    for change in (
        lambda: model[0].weight.data.add_(torch.ones(1024, 1) @ torch.randn(1, 1024)),
        lambda: model[1].weight.data[100].zero_(), lambda: model[1].bias.data.add_(1),
    ):  # fmt: skip
        version = watch.look()
        change()
        assert watch.look() == version + 1
    version = watch.look()
    model[0].weight.data[5, 7] += 1
    watch.raise_()
    assert watch.look() == version + 1


def test_the_look_is_cheap(tmp_path):
    """Once per request: a small part of one step of the same model."""
    model = made(hidden_size=256, intermediate_size=512, num_hidden_layers=8, vocab_size=512).bfloat16()
    model.save_pretrained(tmp_path)
    for one in (model, omniform.AutoModelForCausalLM.from_pretrained(tmp_path)):
        watch = WeightWatch.of(one)
        best = min(_timed(watch.look) for _ in range(20))
        step = min(_timed(lambda: one(input_ids=torch.tensor([[5]]))) for _ in range(10))  # noqa: B023
        assert best < step, (best, step)
    assert SAMPLES * 8 < WHOLE


def _timed(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# -- features of pictures, and prepacked matrices


def picture_answer(engine, processor):
    from PIL import Image

    picture = Image.new("RGB", (64, 64), (200, 30, 40))
    chat = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What color?"}]}]
    batch = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return engine.generate(dict(batch), max_new_tokens=4, output_logits=True).sequences[0]


def tower(model):
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "vision_tower" in n and n.endswith("v_proj.weight")).mul_(-1)


def tower_through_data(model):
    next(p for n, p in model.named_parameters() if "vision_tower" in n and n.endswith("v_proj.weight")).data.mul_(-1)


def projector(model):
    next(p for n, p in model.named_parameters() if "projector" in n and n.endswith("bias")).data[0] += 30


@pytest.mark.parametrize("change", [tower, tower_through_data, projector])
def test_pictures_are_encoded_anew(change):
    folder = omniform.bundled_checkpoint()
    model = omniform.AutoModelForImageTextToText.from_pretrained(folder)
    processor = omniform.AutoProcessor.from_pretrained(folder)
    engine = omniform.Engine(model, processor, memory="64MB")
    before = picture_answer(engine, processor)
    picture_answer(engine, processor)
    assert (engine.stats().encoder_runs, engine.stats().encoder_hits) == (1, 1)
    change(model)
    after = picture_answer(engine, processor)
    assert engine.stats().encoder_runs == 2
    assert same(after, picture_answer(omniform.Engine(model, processor, memory="64MB"), processor))
    assert not same(after, before)
    picture_answer(engine, processor)
    assert (engine.stats().encoder_runs, engine.stats().encoder_hits) == (2, 2)


def test_what_an_encoder_read_is_read_anew():
    torch.manual_seed(0)
    config = omniform.AutoConfig.for_model(
        "t5", vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = omniform.AutoModelForSeq2SeqLM.from_config(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    engine = omniform.Engine(model, memory="4MB")
    before = tokens(engine)
    tokens(engine)
    assert engine.stats().encoder_hits == 1
    model.model.encoder.layers[0].self_attn.v_proj.weight.data.mul_(-1)
    after = tokens(engine)
    assert same(after, tokens(omniform.Engine(model, memory="4MB"))) and not same(after, before)


packs = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 instructions")


@packs
@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("how", ["engine", "forward"])
@pytest.mark.parametrize("what", ["matrix", "row", "norm"])
def test_packed_matrices(tmp_path, mapped, how, what):
    sizes = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 97, "initializer_range": 0.1}
    made(**sizes).bfloat16().save_pretrained(tmp_path)
    ours, plain = (omniform.AutoModelForCausalLM.from_pretrained(tmp_path) for _ in range(2))
    if not mapped:
        ours = made(**sizes).bfloat16()
        prepack(ours)
    engine = omniform.Engine(ours, memory="8MB")
    tokens(engine)
    assert any(isinstance(m, PrepackedLinear) and m.prepacked is not None for m in ours.modules())
    path, rows = {
        "matrix": ("model.layers.1.mlp.down_proj", slice(None)), "row": ("model.layers.0.mlp.gate_proj", slice(77, 78)),
        "norm": ("model.norm", slice(0, 1)),
    }[what]  # fmt: skip
    for each in (ours, plain):
        each.get_submodule(path).weight.data[rows] += 1.0
    if how == "engine":
        one, other = tokens(engine), tokens(omniform.Engine(plain, memory="8MB"))
        found, expected = one.logits[0], other.logits[0]
    else:
        with torch.no_grad():
            found, expected = (each(input_ids=torch.tensor(PROMPT)).logits for each in (ours, plain))
    scale = float(expected.abs().max())
    assert torch.allclose(found.float(), expected.float(), atol=0.03 * scale)
    kept = [
        m.prepacked is not None for n, m in ours.named_modules() if isinstance(m, PrepackedLinear) and "layers.1" in n
    ]
    assert any(kept)  # the others stay prepacked
