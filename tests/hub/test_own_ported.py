"""Code as people have written it for the ecosystem, ported by its imports alone: one text, run under both libraries."""

from __future__ import annotations

import importlib
import sys
import types

import numpy as np
import pytest
import torch

import omniform
from omniform.core.errors import UnknownArgumentError
from omniform.hub import own
from omniform.models import registry
from reference import transformers

MODEL = """
import torch
from dataclasses import dataclass
from torch import nn
from LIB import GenerationMixin, PretrainedConfig, PreTrainedModel
from LIB.activations import ACT2FN
from LIB.cache_utils import DynamicCache
from LIB.modeling_layers import GradientCheckpointingLayer
from LIB.modeling_outputs import (
    BaseModelOutput, BaseModelOutputWithPast, CausalLMOutputWithPast, Seq2SeqLMOutput, SequenceClassifierOutput,
)
from LIB.processing_utils import Unpack
from LIB.pytorch_utils import Conv1D
from LIB.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging

logger = logging.get_logger(__name__)


class Config(PretrainedConfig):
    model_type = "ported"

    def __init__(self, vocab_size=31, n_embd=16, n_head=2, act="gelu_new", eos_token_id=2, pad_token_id=0, **kwargs):
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)
        self.vocab_size, self.n_embd, self.n_head, self.act = vocab_size, n_embd, n_head, act
        self.num_hidden_layers = 2


class Attention(nn.Module):
    def __init__(self, c, layer_idx):
        super().__init__()
        self.layer_idx, self.heads = layer_idx, c.n_head
        self.qkv, self.o = Conv1D(3 * c.n_embd, c.n_embd), nn.Linear(c.n_embd, c.n_embd)

    def forward(self, x, mask, past):
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in parts)
        if past is not None:
            k, v = past.update(k, v, self.layer_idx)
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class Block(GradientCheckpointingLayer):
    def __init__(self, c, i):
        super().__init__()
        self.ln, self.attn = nn.LayerNorm(c.n_embd), Attention(c, i)
        self.mlp = nn.Sequential(nn.Linear(c.n_embd, 32), ACT2FN[c.act], nn.Linear(32, c.n_embd))

    def forward(self, x, mask=None, past_key_values=None):
        return self.mlp(x + self.attn(self.ln(x), mask, past_key_values))


class Base(PreTrainedModel):
    config: Config
    config_class = Config
    base_model_prefix = "model"
    supports_gradient_checkpointing: bool = True


class Model(Base):
    def __init__(self, c):
        super().__init__(c)
        self.wte, self.h = nn.Embedding(c.vocab_size, c.n_embd), nn.ModuleList([Block(c, i) for i in range(2)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, use_cache=None,
                **kwargs: Unpack[TransformersKwargs]):
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        new = x.shape[1]
        places = torch.arange(seen + new)
        mask = (places <= places[seen:, None])[None, None]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None].bool() | (places == places[seen:, None])
        for block in self.h:
            x = block(x, mask, past_key_values=past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)


class LM(Base, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.wte.weight"}

    def __init__(self, c):
        super().__init__(c)
        self.model, self.lm_head = Model(c), nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, labels=None,
                use_cache=None, **kwargs):
        out = self.model(input_ids, attention_mask, past_key_values, inputs_embeds, use_cache)
        logits = self.lm_head(out.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)


class ForSequenceClassification(Base):
    def __init__(self, c):
        super().__init__(c)
        self.model, self.score_head = Model(c), nn.Linear(c.n_embd, c.num_labels)
        self.post_init()

    def forward(self, input_ids, labels=None):
        logits = self.score_head(self.model(input_ids, return_dict=False)[0].mean(1))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Encoder(Base):
    def __init__(self, c):
        super().__init__(c)
        self.table, self.f = nn.Embedding(c.vocab_size, c.n_embd), nn.Linear(c.n_embd, c.n_embd)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        mask = 1 if attention_mask is None else attention_mask[..., None]
        return BaseModelOutput(torch.tanh(self.f(self.table(input_ids)) * mask).cumsum(1))


class Seq2Seq(Base, GenerationMixin):
    def __init__(self, c):
        super().__init__(c)
        self.encoder, self.table = Encoder(c), nn.Embedding(c.vocab_size, c.n_embd)
        self.decoder, self.head = nn.GRU(c.n_embd, c.n_embd, batch_first=True), nn.Linear(c.n_embd, c.vocab_size)
        self.post_init()

    def get_encoder(self):
        return self.encoder

    def get_output_embeddings(self):
        return self.head

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False

    def forward(self, input_ids=None, attention_mask=None, decoder_input_ids=None, encoder_outputs=None, **kwargs):
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask=attention_mask)
        start = encoder_outputs[0][:, -1][None].contiguous()
        return Seq2SeqLMOutput(logits=self.head(self.decoder(self.table(decoder_input_ids), start)[0]))


@dataclass
class Scores(ModelOutput):
    loss: torch.Tensor | None = None
    scores: torch.Tensor | None = None
"""


def run(library: types.ModuleType, text: str, name: str) -> types.ModuleType:
    module = types.ModuleType(f"{name}_{library.__name__}")
    sys.modules[module.__name__] = module
    exec(text.replace("LIB", library.__name__), vars(module))
    return module


THEIRS, OURS = run(transformers, MODEL, "ported"), run(omniform, MODEL, "ported")
IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
MASK = (IDS > 0).long()


@pytest.fixture
def registries(monkeypatch):
    monkeypatch.setattr(registry, "_CONFIGS", {})
    monkeypatch.setattr(own, "_REGISTERED", {})


def made(side: types.ModuleType, kind: str, **keys: object) -> torch.nn.Module:
    model = vars(side)[kind](side.Config(**keys)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def test_fresh_weights_and_ties_are_the_references():
    for keys, tied in (({}, False), ({"tie_word_embeddings": True}, True), ({"tie_word_embeddings": False}, False)):
        models = []
        for side in (THEIRS, OURS):
            torch.manual_seed(0)
            models.append(side.LM(side.Config(**keys)))
        for model in models:
            assert (model.lm_head.weight is model.model.wte.weight) is tied
        theirs, ours = (model.state_dict() for model in models)
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    with pytest.raises(AttributeError):
        _ = OURS.Config().tie_word_embeddings


def test_a_decoder_writes_from_ids_vectors_and_a_cache():
    theirs, ours = made(THEIRS, "LM"), made(OURS, "LM")
    vectors = ours.get_input_embeddings()(IDS)
    for call in (
        {},
        {"attention_mask": MASK},
        {"attention_mask": MASK, "num_beams": 3, "num_return_sequences": 2},
        {"attention_mask": MASK, "use_cache": False},
    ):
        assert torch.equal(theirs.generate(IDS, max_new_tokens=6, **call), ours.generate(IDS, max_new_tokens=6, **call))
    for call in ({}, {"attention_mask": MASK}, {"attention_mask": MASK, "num_beams": 2}):
        wanted = theirs.generate(inputs_embeds=vectors, max_new_tokens=5, **call)
        assert torch.equal(ours.generate(inputs_embeds=vectors, max_new_tokens=5, **call), wanted)
    found = []
    for model in (theirs, ours):
        past = model(IDS[:, :3], use_cache=True).past_key_values
        found.append(model.generate(IDS, past_key_values=past, max_new_tokens=5))
    assert torch.equal(found[0], found[1])
    past = ours(IDS[:1, :3], use_cache=True).past_key_values  # the reference cannot search from it
    wanted = ours.generate(IDS[:1], max_new_tokens=5, num_beams=2)
    assert torch.equal(ours.generate(IDS[:1], past_key_values=past, max_new_tokens=5, num_beams=2), wanted)
    with pytest.raises(UnknownArgumentError, match="max_new_tokens"):
        ours.generate(IDS, max_new_token=3)  # though the forward takes anything


def test_an_encoder_decoder_writes_what_the_references_does():
    keys = {"is_encoder_decoder": True, "decoder_start_token_id": 1}
    theirs, ours = made(THEIRS, "Seq2Seq", **keys), made(OURS, "Seq2Seq", **keys)
    for call in (
        {},
        {"attention_mask": MASK},
        {"attention_mask": MASK, "num_beams": 3, "num_return_sequences": 2},
        {"decoder_input_ids": torch.tensor([[1, 5], [1, 6]])},
        {"decoder_input_ids": torch.tensor([[4], [6]])},
        {"max_length": 4},
    ):
        # Without a state the reference would read the last token only, unless it is told that there is none.
        call = {"use_cache": False, **({} if "max_length" in call else {"max_new_tokens": 6}), **call}
        assert torch.equal(theirs.generate(IDS, **call), ours.generate(IDS, **call)), call
    found = [
        m.generate(IDS, max_new_tokens=3, use_cache=False, return_dict_in_generate=True, output_scores=True)
        for m in (theirs, ours)
    ]
    assert type(found[0]).__name__ == type(found[1]).__name__ and [*found[0].keys()] == [*found[1].keys()]
    torch.testing.assert_close(found[1].scores, found[0].scores)
    encoded = ours.encoder(IDS, attention_mask=MASK)
    wanted = ours.generate(IDS, attention_mask=MASK, max_new_tokens=4)
    assert torch.equal(
        ours.generate(encoder_outputs=encoded, decoder_input_ids=IDS[:, :1] * 0 + 1, max_new_tokens=4), wanted
    )


def test_losses_are_the_references():
    theirs, ours = made(THEIRS, "LM"), made(OURS, "LM")
    for more in ({}, {"num_items_in_batch": 4}, {"shift_labels": IDS}):
        wanted = theirs(IDS, attention_mask=MASK, labels=IDS, **more).loss
        torch.testing.assert_close(ours(IDS, attention_mask=MASK, labels=IDS, **more).loss, wanted)
    for labels, number in ((torch.tensor([1, 2]), 3), (torch.tensor([0.5, 2.0]), 1), (torch.ones(2, 3), 3)):
        models = [made(side, "ForSequenceClassification", num_labels=number) for side in (THEIRS, OURS)]
        wanted, found = (model(IDS, labels=labels).loss for model in models)
        torch.testing.assert_close(found, wanted)
    ours.loss_function = lambda logits, labels, **rest: logits.sum() * 0 + 7
    assert ours(IDS, labels=IDS).loss == 7


def test_layers_are_computed_again_for_their_gradients():
    model = made(OURS, "LM").train()
    grads = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing and model.model.h[0].gradient_checkpointing
        calls = []
        hook = model.model.h[0].ln.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model.zero_grad()
        model(IDS, labels=IDS, use_cache=False).loss.backward()
        hook.remove()
        assert len(calls) == 1 + enable
        grads.append(model.model.h[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_outputs_of_their_own():
    for side in (THEIRS, OURS):
        one = side.Scores({"loss": torch.ones(1), "scores": torch.zeros(2)})
        assert [*one.keys()] == ["loss", "scores"] and one[1].shape == (2,)
        assert [*side.Scores([("scores", torch.zeros(2))]).keys()] == ["scores"]
        leaves, spec = torch.utils._pytree.tree_flatten(one)
        assert len(leaves) == 2 and type(torch.utils._pytree.tree_unflatten(leaves, spec)) is side.Scores
    exported = torch.export.export(made(OURS, "ForSequenceClassification"), (IDS,))
    assert type(exported.module()(IDS)) is OURS.SequenceClassifierOutput


def test_a_dtype_that_was_asked_for_is_the_configs(tmp_path):
    made(OURS, "LM").save_pretrained(tmp_path)
    half = OURS.LM.from_pretrained(tmp_path, dtype=torch.float16)
    assert half.dtype is half.config.dtype is torch.float16
    assert OURS.LM.from_pretrained(tmp_path).config.dtype is torch.float32
    assert OURS.LM._from_config(OURS.Config(), dtype=torch.bfloat16).config.dtype is torch.bfloat16
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # what the ecosystem raises
        OURS.LM.from_pretrained(tmp_path, vocab_size=9)


def test_a_definition_that_is_run_again_takes_its_own_place(registries):
    body = "class Config(LIB.PretrainedConfig):\n    model_type = 'cell'\n"
    body += "class Model(LIB.PreTrainedModel):\n    config_class = Config\n"
    for _ in range(2):
        cell = run(omniform, f"import LIB\n{body}", "cell")
        omniform.AutoConfig.register("cell", cell.Config)
        omniform.AutoModel.register(cell.Config, cell.Model)
        omniform.AutoModel.register(cell.Config, cell.Model)
    assert type(omniform.AutoModel.from_config(omniform.AutoConfig.for_model("cell"))) is cell.Model


PICTURE = np.random.RandomState(0).randint(0, 255, (20, 30, 3), dtype=np.uint8)
SOFT = PICTURE.astype(np.float32) / 255


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("image_transforms", lambda m: m.resize(SOFT, (7, 9))),
        ("image_transforms", lambda m: m.resize(PICTURE.transpose(2, 0, 1), (7, 9), 0, data_format="channels_last")),
        ("image_transforms", lambda m: m.resize(PICTURE[..., :1], (5, 5), resample=3)),
        ("image_transforms", lambda m: m.pad(PICTURE, 2)),
        ("image_transforms", lambda m: m.pad(PICTURE, ((1, 2), (0, 3)), mode=m.PaddingMode.REFLECT)),
        ("image_transforms", lambda m: m.pad(PICTURE, (1, 2), mode="replicate", data_format="channels_first")),
        ("image_transforms", lambda m: m.pad(PICTURE.transpose(2, 0, 1), (3,), constant_values=7)),
        ("image_transforms", lambda m: m.center_crop(PICTURE, (10, 40))),
        ("image_transforms", lambda m: m.normalize(PICTURE, [0.5] * 3, [0.25] * 3, data_format="channels_first")),
        ("image_transforms", lambda m: m.rescale(PICTURE, 2, dtype=np.float64)),
        ("image_transforms", lambda m: np.asarray(m.to_pil_image(SOFT))),
        ("image_transforms", lambda m: m.flip_channel_order(PICTURE)),
        ("image_transforms", lambda m: m.center_to_corners_format(torch.tensor([[0.5, 0.5, 0.2, 0.4]])).numpy()),
        ("image_transforms", lambda m: m.corners_to_center_format(np.array([[0.1, 0.2, 0.3, 0.4]]))),
        ("image_transforms", lambda m: m.get_resize_output_image_size(PICTURE, 18, False, 20)),
        ("image_transforms", lambda m: m.get_resize_output_image_size(PICTURE, 8)),
        ("image_utils", lambda m: m.get_image_size(PICTURE)),
        ("image_utils", lambda m: m.get_channel_dimension_axis(PICTURE.transpose(2, 0, 1))),
        ("image_utils", lambda m: [m.is_scaled_image(PICTURE), m.is_scaled_image(SOFT)]),
        ("image_utils", lambda m: len(m.make_list_of_images(np.zeros((2, 3, 4, 4))))),
        ("image_utils", lambda m: len(m.make_flat_list_of_images([[PICTURE, PICTURE], [PICTURE]]))),
        ("image_utils", lambda m: m.infer_channel_dimension_format(np.zeros((4, 4, 4)), (4,)) == "channels_first"),
        ("image_utils", lambda m: [m.valid_images([PICTURE, "x"]), m.is_valid_image(None)]),
        ("image_processing_utils", lambda m: sorted(m.get_size_dict((3, 4)).items())[0][1]),
        ("image_processing_utils", lambda m: m.get_size_dict(4, default_to_square=False)["shortest_edge"]),
    ],
)
def test_pictures_are_changed_as_the_references_are(path, call):
    wanted, found = (
        np.asarray(call(importlib.import_module(f"{library}.{path}"))) for library in ("transformers", "omniform")
    )
    assert wanted.dtype == found.dtype
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("image_transforms", lambda m: m.to_pil_image(SOFT * 3)),
        ("image_utils", lambda m: m.infer_channel_dimension_format(np.zeros((5, 4, 4)))),
        ("image_utils", lambda m: m.make_list_of_images("x")),
        ("image_utils", lambda m: m.validate_preprocess_arguments(do_resize=True)),
        ("image_processing_utils", lambda m: m.get_size_dict({"side": 3})),
        ("activations", lambda m: m.ACT2FN["nope"]),
    ],
)
def test_bad_input_is_refused_as_there(path, call):
    for library in ("transformers", "omniform"):
        with pytest.raises((ValueError, KeyError)):
            call(importlib.import_module(f"{library}.{path}"))


def test_activations_and_tools_are_the_references():
    from omniform import activations, pytorch_utils

    x = torch.linspace(-4, 4, 33)
    for name in activations.ACT2FN:
        if name in transformers.activations.ACT2FN:
            theirs = transformers.activations.ACT2FN[name]
            torch.testing.assert_close(activations.ACT2FN[name](x), theirs(x), atol=1e-5, rtol=1e-5)
    theirs, ours = transformers.pytorch_utils, pytorch_utils
    layer, keep = torch.nn.Linear(4, 6), torch.tensor([0, 2, 3])
    for dim in (0, 1):
        assert torch.equal(*(side.prune_linear_layer(layer, keep, dim).weight for side in (theirs, ours)))
    rows = torch.randn(2, 6, 3)
    for side in (theirs, ours):
        assert torch.equal(side.apply_chunking_to_forward(lambda t: t * 2, 2, 1, rows), rows * 2)
    heads, stay = ours.find_pruneable_heads_and_indices([0, 2], 3, 2, {0})
    assert heads == {2} and stay.tolist() == [0, 1, 4, 5]  # the third of once four is the second of three


def test_what_is_not_here_says_what_to_use(caplog):
    for line, said in (
        ("import omniform.modeling_rope_utils", "own_family.md"),
        ("from omniform.masking_utils import create_causal_mask", "scaled_dot_product_attention"),
        ("from omniform.models.llama.modeling_llama import LlamaRMSNorm", "own_family.md"),
    ):
        with pytest.raises(ImportError, match=said):
            exec(line)
    logger = omniform.logging.get_logger("ported.once")
    for _ in range(3):
        logger.warning_once("said once")
    assert [one.message for one in caplog.records].count("said once") == 1
