"""Models of the user's own, in plain torch: built, saved, loaded and written with as over the reference's base."""

# ruff: noqa: RUF012
from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from own_bodies import classes, table
from safetensors.torch import load_file, save_file
from torch import nn

import omniform
from omniform import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError, UnknownNameError, WeightsError
from omniform.hub import own
from omniform.models import registry
from reference import transformers

THEIRS, OURS = classes(transformers), classes(omniform)
IDS = torch.tensor([[1, 5, 9, 33], [0, 0, 3, 4]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.fixture
def registries(monkeypatch):
    monkeypatch.setattr(registry, "_CONFIGS", {})
    monkeypatch.setattr(own, "_REGISTERED", {})


def made(side, kind: str = "LM", **keys):
    torch.manual_seed(0)
    return vars(side)[kind](side.LMConfig(**keys)).eval()


@pytest.mark.parametrize("kind", ["LM", "Plain", "Classifier"])
def test_equal_seeds_give_equal_weights_and_files(kind, tmp_path):
    theirs, ours = made(THEIRS, kind), made(OURS, kind)
    assert {k: v.tolist() for k, v in theirs.state_dict().items()} == {
        k: v.tolist() for k, v in ours.state_dict().items()
    }
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    for file in ("model.safetensors", "config.json"):
        here, there = ((tmp_path / side / file).read_bytes() for side in ("ours", "theirs"))
        said = b'  "transformers_version": "5.23.0",\n'
        assert here == there.replace(said, b""), file
    given = {} if kind == "Plain" else {"attention_mask": MASK}
    wanted = theirs(IDS, **given)["logits"]
    for folder in ("ours", "theirs"):
        for side in (THEIRS, OURS):
            model = vars(side)[kind].from_pretrained(tmp_path / folder)
            assert not model.training and torch.equal(model(IDS, **given)["logits"], wanted)


def test_loading_keeps_what_constructors_computed_and_ties(tmp_path):
    model = made(OURS)
    assert model.lm_head.weight is model.trunk.embed_tokens.weight
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) >= {"trunk.embed_tokens.weight", "trunk.counts"}
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = OURS.LM.from_pretrained(tmp_path)
    assert torch.equal(again.trunk.places, table(16)) and again.lm_head.weight is again.trunk.embed_tokens.weight
    assert again.base_model is again.trunk and again.get_input_embeddings() is again.trunk.embed_tokens
    apart = made(OURS, tie_word_embeddings=False)
    assert apart.lm_head.weight is not apart.trunk.embed_tokens.weight
    half = OURS.LM.from_pretrained(tmp_path, dtype="bfloat16")
    assert (
        half.dtype == torch.bfloat16 and half.config.dtype == torch.bfloat16
    ) or half.trunk.gain.dtype == torch.bfloat16
    again.resize_token_embeddings(40)
    assert again.lm_head.weight is again.trunk.embed_tokens.weight and again.config.vocab_size == 40
    assert torch.equal(copy.deepcopy(model)(IDS).logits, model(IDS).logits)
    model.train().gradient_checkpointing_enable()
    model(IDS, labels=IDS).loss.backward()
    assert model.trunk.gain.grad is not None


def test_a_head_beside_the_one_that_wrote(tmp_path, caplog):
    model = made(OURS)
    model.save_pretrained(tmp_path / "lm")
    with caplog.at_level(logging.WARNING, logger="omniform"):
        head, report = OURS.Classifier.from_pretrained(tmp_path / "lm", num_labels=4, output_loading_info=True)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1 and "score.weight" in said[0] and "scratch" not in said[0]
    assert set(report["missing_keys"]) >= {"score.weight", "score.bias"}
    assert torch.equal(head.trunk.gain, model.trunk.gain) and head.score.weight.shape == (4, 16)
    assert head.scratch.tolist() == [7, 7] and head.score.bias.tolist() == [0] * 4
    assert 0.2 < head.score.weight.std() < 0.6  # as _init_weights says
    head.save_pretrained(tmp_path / "head")
    held = load_file(tmp_path / "head" / "model.safetensors")
    assert "scratch" not in held and held["score.weight"].shape == (4, 16)
    trunk = OURS.Trunk.from_pretrained(tmp_path / "head")
    assert torch.equal(trunk.embed_tokens.weight, model.trunk.embed_tokens.weight)
    save_file({**held, "extra.thing": torch.zeros(1)}, tmp_path / "head" / "model.safetensors")
    OURS.Classifier.from_pretrained(tmp_path / "head")
    for changed in ({**held, "strange": torch.zeros(1)}, {k: v for k, v in held.items() if k != "trunk.gain"}):
        save_file(changed, tmp_path / "head" / "model.safetensors")
        with pytest.raises(WeightsError, match=r"strange|trunk\.gain"):
            OURS.Classifier.from_pretrained(tmp_path / "head")


def test_registered_with_auto_classes(registries, tmp_path):
    AutoConfig.register("own-lm", OURS.LMConfig)
    AutoModel.register(OURS.LMConfig, OURS.Trunk)
    AutoModelForCausalLM.register(OURS.LMConfig, OURS.LM)
    AutoModelForSequenceClassification.register(OURS.LMConfig, OURS.Classifier)
    model = made(OURS)
    model.save_pretrained(tmp_path)
    for auto, kind in ((AutoModelForCausalLM, OURS.LM), (AutoModel, OURS.Trunk)):
        assert type(auto.from_pretrained(tmp_path)) is kind
        assert type(auto.from_config(AutoConfig.from_pretrained(tmp_path))) is kind
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)
    with pytest.raises(UnknownNameError, match="own-lm"):
        omniform.AutoModelForTokenClassification.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="exist_ok"):
        AutoModel.register(OURS.LMConfig, OURS.LM)
    with pytest.raises(InputError, match=r"(?s)config_class.*OldConfig.*LMConfig"):
        AutoModel.register(OURS.OldConfig, OURS.LM)
    with pytest.raises(ConfigError, match="own-lm"):
        AutoConfig.register("own-lm", type("Another", (OURS.LMConfig,), {}))
    AutoConfig.register("own-lm", OURS.LMConfig)  # the same class again, as when a notebook's cell is run once more
    AutoConfig.register("own-lm", OURS.LMConfig, exist_ok=True)


WAYS = [
    {}, {"num_beams": 3}, {"do_sample": True}, {"use_cache": False}, {"num_beams": 4, "do_sample": True},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.3},
    {"do_sample": True, "top_k": 7, "temperature": 0.6, "num_return_sequences": 3},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}, {"eos_token_id": 5, "min_new_tokens": 3},
    {"num_beams": 3, "early_stopping": True, "eos_token_id": [3, 7]},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["LM", "Plain"])
def test_it_writes_what_the_reference_writes(kind):
    theirs, ours = made(THEIRS, kind), made(OURS, kind)
    given = {"attention_mask": MASK} if kind == "LM" else {}
    for way in WAYS:
        found = []
        for model in (theirs, ours):
            torch.manual_seed(3)
            found.append(model.generate(IDS, **given, max_new_tokens=9, pad_token_id=0, **way).tolist())
        assert found[0] == found[1], way
    assert ours.can_generate()


def test_outputs_processors_criteria_and_streams():
    theirs, ours = made(THEIRS), made(OURS)
    given = {"attention_mask": MASK, "max_new_tokens": 5, "pad_token_id": 0, "return_dict_in_generate": True}
    for way in ({}, {"num_beams": 2}):
        one, two = (m.generate(IDS, **given, **way, output_scores=True) for m in (theirs, ours))
        assert one.sequences.tolist() == two.sequences.tolist()
        for a, b in zip(one.scores, two.scores, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        if way:
            torch.testing.assert_close(one.sequences_scores, two.sequences_scores)
            assert one.beam_indices.tolist() == two.beam_indices.tolist()
    seen = []

    class Streamer:
        def put(self, value):
            seen.append(value.tolist())

        def end(self):
            seen.append("end")

    def never(ids, scores):
        scores[:, 9] = float("inf")
        return scores

    def stops(ids, scores, **kwargs):
        return ids.shape[1] >= 7

    found = ours.generate(
        IDS,
        attention_mask=MASK,
        max_new_tokens=9,
        logits_processor=[never],
        stopping_criteria=[stops],
        streamer=Streamer(),
    )
    assert found[:, 4:].tolist() == [[9] * 3] * 2 and seen == [IDS.tolist(), [9, 9], [9, 9], [9, 9], "end"]
    allowed = ours.generate(IDS[:1], max_new_tokens=2, prefix_allowed_tokens_fn=lambda row, ids: [3])
    assert allowed[0, 4:].tolist() == [3, 3]
    seeded = [ours.generate(IDS, do_sample=True, seed=4, max_new_tokens=6).tolist() for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_a_cache_of_its_own_and_bad_input():
    class Own(OURS.Base, omniform.GenerationMixin):
        """Keeps the sum of what it has read in a tuple."""

        @classmethod
        def _supports_default_dynamic_cache(cls):
            return False

        def __init__(self, config):
            super().__init__(config)
            self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
            self.head = nn.Linear(config.hidden_size, config.vocab_size)
            self.steps = 0
            self.post_init()

        def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
            ids = input_ids if past_key_values is None else input_ids[:, -1:]
            return {"input_ids": ids, "past_key_values": past_key_values, "use_cache": kwargs.get("use_cache")}

        def forward(self, input_ids, past_key_values=None, use_cache=True):
            self.steps += input_ids.shape[1]
            x = self.embed(input_ids).cumsum(1)
            x = x if past_key_values is None else x + past_key_values[0][0]
            return (self.head(x.sin()), ((x[:, -1:],),)) if use_cache else (self.head(x.sin()),)

    torch.manual_seed(0)
    model = Own(OURS.LMConfig()).eval()
    for way in ({}, {"num_beams": 3}):
        model.steps = 0
        kept = model.generate(IDS, max_new_tokens=5, **way)
        assert model.steps == 4 + 4
        assert torch.equal(kept, model.generate(IDS, max_new_tokens=5, use_cache=False, **way))
    lm = made(OURS)
    with pytest.raises(InputError, match=r"Named\.transforms"):

        class Named(OURS.Base):
            def __init__(self, config):
                super().__init__(config)
                self.transforms = nn.ModuleList()

        Named(OURS.LMConfig())
    for wrong in ({"penalty_alpha": 0.5, "top_k": 4}, {"prompt_lookup_num_tokens": 3}, {"output_attentions": True}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            lm.generate(IDS, max_new_tokens=3, return_dict_in_generate=True, **wrong)
    for wrong in (IDS.float(), [[1], [1, 2]], None, IDS[0], "text", IDS[:, :0]):
        with pytest.raises(InputError, match="input_ids"):
            lm.generate(wrong, max_new_tokens=3)
    with pytest.raises(InputError, match="attention_mask"):
        lm.generate(IDS, attention_mask=MASK[:, :2])
    with pytest.raises(UnknownArgumentError, match="attention_mask"):
        made(OURS, "Plain").generate(IDS, atention_mask=MASK)
    with pytest.raises(InputError, match=r"model\.generate"):
        next(lm.stream(IDS))
    with pytest.raises(InputError, match="logits"):
        type("Odd", (Own,), {"forward": lambda self, input_ids, **rest: self.embed(input_ids).sum()})(
            OURS.LMConfig()
        ).generate(IDS)


def test_forwards_take_and_give_what_they_like():
    class Free(OURS.Base):
        def forward(self, x, scale=1.0, return_dict=None):
            return (x * scale,) if return_dict is False else {"y": x * scale}

    class Open(OURS.Base):
        def forward(self, x, **kwargs):
            return kwargs

    config = OURS.LMConfig()
    free, x = Free(config), torch.ones(2)
    assert torch.equal(free(x, scale=2)["y"], x * 2) and torch.equal(free(x, return_dict=False)[0], x)
    with pytest.raises(UnknownArgumentError, match="scale"):
        free(x, skale=2)
    assert Open(config)(x, anything=3, use_cache=True) == {"anything": 3, "use_cache": True}
    free.config = OURS.LMConfig(vocab_size=9)
    assert free.config.vocab_size == 9


def test_an_attribute_that_the_config_lacks_and_wrong_ties(tmp_path):
    class Wrong(OURS.LM):
        _tied_weights_keys = {"head.weight": "trunk.embed_tokens.weight", "nothing": "nothing_either"}

    with pytest.raises(ConfigError, match=r"Wrong\._tied_weights_keys"):
        Wrong(OURS.LMConfig())

    class Listed(OURS.LM):
        _tied_weights_keys = ["lm_head.weight"]

    torch.manual_seed(0)
    model = Listed(OURS.LMConfig())
    assert model.lm_head.weight is model.trunk.embed_tokens.weight
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Listed"]
    assert torch.equal(Listed.from_pretrained(tmp_path)(IDS).logits, model.eval()(IDS).logits)


def test_torchs_own_modules_within(tmp_path):
    """What torch's modules keep beside their parameters follows the weights that are loaded."""

    class Many(OURS.Base):
        def __init__(self, config):
            super().__init__(config)
            self.rnn = nn.GRU(16, 16, batch_first=True, bidirectional=True)
            self.lstm = nn.LSTM(32, 16, batch_first=True)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.norm = nn.BatchNorm1d(16)
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 3, padding=1))
            self.layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
            self.tables = nn.ParameterList([torch.randn(16), torch.randn(16)])
            self.post_init()

        def forward(self, x):
            x = self.lstm(self.rnn(x)[0])[0]
            x = self.attention(x, x, x)[0] + self.tables[0] * self.tables[1]
            return self.layer(self.conv(self.norm(x.mT)).mT)

    torch.manual_seed(0)
    model = Many(OURS.LMConfig())
    x = torch.randn(2, 5, 16)
    model(x)  # running means
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(Many.from_pretrained(tmp_path)(x), model(x))
    half = Many.from_pretrained(tmp_path, dtype="float64")
    torch.testing.assert_close(half(x.double()).float(), model(x), atol=1e-5, rtol=1e-4)


def test_the_paths_that_own_code_imports_from():
    from omniform.configuration_utils import PreTrainedConfig
    from omniform.feature_extraction_sequence_utils import SequenceFeatureExtractor
    from omniform.generation import GenerationMixin
    from omniform.image_processing_utils import BaseImageProcessor, BatchFeature
    from omniform.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput
    from omniform.modeling_utils import PreTrainedModel
    from omniform.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, Unpack

    assert PreTrainedConfig is omniform.PretrainedConfig and BatchFeature is omniform.BatchFeature
    assert all((SequenceFeatureExtractor, GenerationMixin, BaseImageProcessor, PreTrainedModel, ProcessorMixin, Unpack))
    assert ProcessingKwargs.__annotations__["images_kwargs"] and ImagesKwargs.__annotations__["size"]
    output = CausalLMOutputWithPast(logits=IDS, past_key_values=((IDS,),))
    assert output.to_tuple() == (IDS, ((IDS,),)) and SequenceClassifierOutput(logits=IDS)[0] is IDS
