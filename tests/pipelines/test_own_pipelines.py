"""Pipelines of the user's own, and ours over models of the user's own."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, word_pieces

import omniform
from omniform import PIPELINE_REGISTRY, AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, pipeline
from omniform.core.errors import InputError, UnknownNameError
from omniform.hub import own
from omniform.models import registry
from omniform.pipelines import TextClassificationPipeline, TextGenerationPipeline
from reference import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "hub"))

from own_bodies import classes

THEIRS, OURS = classes(transformers), classes(omniform)
TEXT = "the cat sat on the mat"


class Pair(omniform.Pipeline):
    """How near two texts are, by the model's logits."""

    def _sanitize_parameters(self, scale=None, **kwargs):
        return {}, {}, {} if scale is None else {"scale": scale}

    def preprocess(self, inputs):
        return self.tokenizer([inputs["text"], inputs["other"]], padding=True, return_tensors="pt")

    def _forward(self, model_inputs):
        ids, mask = model_inputs["input_ids"], model_inputs["attention_mask"]
        return {"logits": self.model(input_ids=ids, attention_mask=mask)["logits"]}

    def postprocess(self, model_outputs, scale=1):
        one, two = model_outputs["logits"]
        return {"score": scale * float(torch.cosine_similarity(one, two, dim=0))}


@pytest.fixture
def known(monkeypatch):
    """Registries that forget again."""
    monkeypatch.setattr(registry, "_CONFIGS", {})
    monkeypatch.setattr(own, "_REGISTERED", {})
    monkeypatch.setattr(PIPELINE_REGISTRY, "_tasks", dict(PIPELINE_REGISTRY.supported_tasks))
    AutoConfig.register("own-lm", OURS.LMConfig)
    AutoModelForSequenceClassification.register(OURS.LMConfig, OURS.Classifier)
    AutoModelForCausalLM.register(OURS.LMConfig, OURS.LM)


def saved(folder: Path, kind: str, side=OURS, **keys):
    torch.manual_seed(0)
    model = vars(side)[kind](side.LMConfig(vocab_size=len(VOCABULARY), pad_token_id=0, **keys)).eval()
    model.save_pretrained(folder)
    tokenizer = word_pieces()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return model


def test_a_task_of_ones_own_with_a_model_of_ones_own(known, tmp_path, caplog):
    model = saved(tmp_path / "model", "Classifier", num_labels=3)
    PIPELINE_REGISTRY.register_pipeline(
        "pair",
        pipeline_class=Pair,
        pt_model=OURS.Classifier,
        default={"pt": (str(tmp_path / "model"), None)},
        type="text",
    )
    pair = {"text": TEXT, "other": "a dog ran"}
    made = pipeline("pair", model=tmp_path / "model")
    assert type(made) is Pair and type(made.model) is OURS.Classifier
    ids = made.tokenizer([pair["text"], pair["other"]], padding=True, return_tensors="pt")
    logits = model(ids["input_ids"], ids["attention_mask"])["logits"]
    right = float(torch.cosine_similarity(*logits.detach(), dim=0))
    assert made(pair)["score"] == pytest.approx(right)
    assert made(pair, scale=2)["score"] == pytest.approx(2 * right)
    assert [one["score"] for one in made([pair, pair], batch_size=1)] == [pytest.approx(right)] * 2
    assert pipeline("pair")(pair)["score"] == pytest.approx(right)  # the model that was registered with it
    for models in (AutoModelForSequenceClassification, (AutoModelForCausalLM, OURS.Classifier), None):
        with caplog.at_level(logging.WARNING, logger="omniform"):
            PIPELINE_REGISTRY.register_pipeline("pair", Pair, pt_model=models)
        wanted = OURS.LM if isinstance(models, tuple) else OURS.Classifier
        assert type(pipeline("pair", model=tmp_path / "model").model) is wanted
    assert "already registered" in caplog.text
    made.save_pretrained(tmp_path / "saved")
    again = pipeline("pair", model=tmp_path / "saved")
    assert type(again) is Pair and again(pair)["score"] == pytest.approx(right)


def test_our_tasks_over_models_of_ones_own(known, tmp_path, caplog):
    labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    model = saved(tmp_path / "c", "Classifier", **labels)
    with caplog.at_level(logging.WARNING, logger="omniform"):
        classify = pipeline(model=tmp_path / "c")
        assert type(classify) is TextClassificationPipeline and type(classify.model) is OURS.Classifier
        found = classify(TEXT, top_k=None)
        assert [one["label"] for one in found] in (["bad", "good"], ["good", "bad"])
        assert pipeline("text-classification", model=model, tokenizer=classify.tokenizer)(TEXT)[0]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    theirs = saved(tmp_path / "lm", "LM", THEIRS)
    write = pipeline("text-generation", model=tmp_path / "lm")
    assert type(write.model) is OURS.LM and type(pipeline(model=tmp_path / "lm")) is TextGenerationPipeline
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "lm")
    right = transformers.pipeline("text-generation", model=theirs, tokenizer=tokens)
    for way in ({"max_new_tokens": 4, "do_sample": False}, {"max_new_tokens": 4, "num_beams": 2, "do_sample": False}):
        assert write(TEXT, **way) == right(TEXT, **way)


class Shouting(TextClassificationPipeline):
    def postprocess(self, model_outputs, **kwargs):
        found = super().postprocess(model_outputs, **kwargs)
        return {**found, "label": found["label"].upper()}


def test_a_subclass_of_ours(known, tmp_path):
    saved(tmp_path, "Classifier", id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    plain, loud = (pipeline("text-classification", model=tmp_path, pipeline_class=k) for k in (None, Shouting))
    assert [{**one, "label": one["label"].upper()} for one in plain(TEXT)] == loud(TEXT)
    PIPELINE_REGISTRY.register_pipeline("shout", Shouting, pt_model=AutoModelForSequenceClassification)
    assert pipeline("shout", model=tmp_path)(TEXT) == loud(TEXT)


def test_bad_input(known, tmp_path):
    for given, said in (
        ({"task": 3, "pipeline_class": Pair}, "register_pipeline"),
        ({"task": "x", "pipeline_class": Pair.__init__}, "Pipeline"),
        ({"task": "x", "pipeline_class": Pair, "pt_model": int}, "pt_model"),
        ({"task": "x", "pipeline_class": Pair, "pt_model": (AutoModelForCausalLM, "a name")}, "pt_model"),
        ({"task": "x", "pipeline_class": Pair, "type": "smell"}, "type"),
    ):
        with pytest.raises(InputError, match=said):
            PIPELINE_REGISTRY.register_pipeline(**given)
    with pytest.raises(UnknownNameError, match="pair"):
        pipeline("pair", model=tmp_path)
    saved(tmp_path, "Trunk")
    with pytest.raises(UnknownNameError, match=r"Trunk|own-lm"):
        pipeline(model=tmp_path)
