"""Scripts of the ecosystem with their imports changed: small things that they count on."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from kinds import checkpoint
from tiny import VOCABULARY, word_pieces

import omniform
from checkpoints import text_checkpoint
from omniform import pipeline
from omniform.core.errors import InputError
from omniform.pipelines import TextClassificationPipeline, TextGenerationPipeline
from reference import saved_reference, transformers

GREEDY = {"do_sample": False, "max_new_tokens": 6}


def classifier(**given: object) -> TextClassificationPipeline:
    return pipeline("text-classification", checkpoint("bert", "ForSequenceClassification"), device="cpu", **given)


def test_labels_that_are_renamed_in_place() -> None:
    pipe = classifier()
    pipe.model.config.id2label = {0: "bad", 1: "good"}
    assert {one["label"] for one in pipe("a", top_k=None)} == {"bad", "good"}
    pipe.model.config.id2label[0] = "poor"
    assert {one["label"] for one in pipe("a", top_k=None)} == {"poor", "good"}
    assert pipe.model.config.id2label[0] == "poor" and pipe.framework == "pt"
    with pytest.raises(InputError, match="framework"):
        classifier(framework="tf")


def test_a_subclass_that_passes_the_defaults_on() -> None:
    class Own(TextClassificationPipeline):
        def postprocess(self, model_outputs, function_to_apply=None, top_k=1, _legacy=True):
            return super().postprocess(model_outputs, function_to_apply=function_to_apply, top_k=top_k, _legacy=_legacy)

    assert classifier(pipeline_class=Own)("a") == classifier()("a")


def test_rows_of_a_dataset_hold_more_than_texts() -> None:
    pipe = classifier()
    assert pipe({"text": "a cat", "text_pair": "b", "label": 3}) == pipe({"text": "a cat", "text_pair": "b"})


def test_zero_shot_by_name_and_types() -> None:
    labels = {"entailment": 1, "other": 0}
    changes = {"label2id": labels, "id2label": {index: label for label, index in labels.items()}}
    folder = checkpoint("bert", "ForSequenceClassification", json.dumps(changes))
    pipe = pipeline("zero-shot-classification", folder, device="cpu")
    assert pipe(sequences="a cat", candidate_labels=["x", "y"]) == pipe("a cat", ["x", "y"])
    for text, given in ((None, ["x"]), ("a cat", None), ("a cat", 3)):
        with pytest.raises(TypeError):
            pipe(text, candidate_labels=given)
    with pytest.raises(TypeError):
        pipe("a cat")


def test_a_question_without_its_context() -> None:
    pipe = pipeline("question-answering", checkpoint("bert", "ForQuestionAnswering"), device="cpu")
    with pytest.raises(KeyError, match="no context; expected a text") as caught:
        pipe({"question": "who is it"})
    assert isinstance(caught.value, InputError)
    rows = datasets.Dataset.from_dict({"q": ["who", "where"], "c": ["anna lives at home", "in berlin"]})
    many = pipe(question=rows["q"], context=rows["c"])
    assert many == pipe(question=list(rows["q"]), context=list(rows["c"])) and len(many) == 2
    for context in ("", None):
        with pytest.raises(InputError, match="no context"):
            pipe({"question": "who is it", "context": context})


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("writer"), chat=True)


def test_an_assistant_by_its_name(writer: Path) -> None:
    plain = pipeline("text-generation", writer, device="cpu")
    pipe = pipeline("text-generation", writer, assistant_model=str(writer), device="cpu")
    assert isinstance(pipe, TextGenerationPipeline) and isinstance(pipe.assistant_model, omniform.PreTrainedModel)
    assert pipe.assistant_tokenizer is None
    assert pipe(text_inputs="The cat", **GREEDY) == plain("The cat", **GREEDY)
    given = omniform.AutoModelForCausalLM.from_pretrained(writer)
    assert plain("The cat", assistant_model=given, **GREEDY) == plain("The cat", **GREEDY)
    with pytest.raises(InputError, match="assistant_model: this is no model"):
        pipeline("text-generation", writer, assistant_model=3)


def test_settings_that_speak_of_texts_know_the_tokenizer(writer: Path) -> None:
    plain = pipeline("text-generation", writer, device="cpu", return_full_text=False, **GREEDY)
    written = plain("The cat")[0]["generated_text"]
    stop = {"stop_strings": [written[0]]}
    stopped = plain("The cat", **stop)[0]["generated_text"]
    assert stopped == plain("The cat", stop_sequence=written[0])[0]["generated_text"]
    assert written.startswith(stopped) and len(stopped) < len(written)
    for given in (stop, {"generation_config": omniform.GenerationConfig(**stop, **GREEDY)}):
        pipe = pipeline("text-generation", writer, device="cpu", return_full_text=False, **{**GREEDY, **given})
        assert pipe("The cat")[0]["generated_text"] == stopped
    pytest.importorskip("llguidance")
    choice = omniform.Guide.choice(["yes", "no"])
    for answers in plain(["The cat", "a dog"], guide=choice):
        assert answers[0]["generated_text"] in ("yes", "no")


def test_a_model_that_does_not_write() -> None:
    with pytest.raises(InputError, match="this BertLMHeadModel does not write"):
        pipeline("text-generation", checkpoint("bert", "ForSequenceClassification"))


def test_translation_without_languages(tmp_path: Path) -> None:
    tasks = {
        "summarization": {"prefix": "summarize : "},
        "translation_en_to_de": {"prefix": "translate english to german : ", "num_beams": 1, "max_length": 7},
        "translation_de_to_en": {"prefix": "translate german to english : ", "num_beams": 1, "max_length": 7},
    }
    config = transformers.T5Config(
        vocab_size=len(VOCABULARY), d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, pad_token_id=0,
        eos_token_id=3, decoder_start_token_id=0, task_specific_params=tasks,
    )  # fmt: skip
    saved_reference(transformers.T5ForConditionalGeneration, config, tmp_path)
    word_pieces().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="translation_de_to_en"):
        pipe = pipeline("translation", tmp_path)
    assert pipe.task == "translation_de_to_en"
    named = pipeline("translation_de_to_en", tmp_path)
    assert pipe("the cat", return_tensors=True)[0]["translation_token_ids"].equal(
        named("the cat", return_tensors=True)[0]["translation_token_ids"]
    )
    assert torch.is_tensor(
        named("the cat", src_lang="en", tgt_lang="fr", return_tensors=True)[0]["translation_token_ids"]
    )


def test_steps_of_the_users_own_read_what_they_read_there() -> None:
    class Filled(omniform.FillMaskPipeline):
        def postprocess(self, model_outputs, top_k=5, target_ids=None):
            best = super().postprocess(model_outputs)
            return model_outputs["logits"].shape[1:], model_outputs["input_ids"].shape, best[0]["token"]

    class Tags(omniform.TokenClassificationPipeline):
        def postprocess(self, all_outputs, aggregation_strategy="none", ignore_labels=None):
            names = ("logits", "input_ids", "offset_mapping", "special_tokens_mask")
            shapes = [tuple(one[name].shape) for one in all_outputs for name in names]
            return shapes, all_outputs[0]["sentence"], len(super().postprocess(all_outputs, ignore_labels=[]))

    class Mean(omniform.FeatureExtractionPipeline):
        def postprocess(self, model_outputs, return_tensors=False):
            return model_outputs[0].mean(1), model_outputs.last_hidden_state.shape

    class Plain(omniform.FeatureExtractionPipeline):
        def _forward(self, model_inputs):
            return self.model(**model_inputs)

    class Best(TextClassificationPipeline):
        def postprocess(self, model_outputs, **given):
            assert model_outputs.logits.equal(model_outputs["logits"])
            return model_outputs.logits.argmax().item(), super().postprocess(model_outputs)["label"]

    masked, tagged = checkpoint("bert", "ForMaskedLM"), checkpoint("bert", "ForTokenClassification")
    vectors, texts = checkpoint("bert", "Model"), ["the cat", "a dog ran over the hill"]
    for batch in ({}, {"batch_size": 2}):
        asked = ["a [MASK]", "[MASK] a cat"]
        both = pipeline("fill-mask", masked, pipeline_class=Filled, device="cpu")(asked, **batch)
        usual = pipeline("fill-mask", masked, device="cpu")(asked)
        assert [best for *_, best in both] == [one[0]["token"] for one in usual]
        assert all(len(logits) == 2 and ids[0] == 1 for logits, ids, _ in both)
        found = pipeline("ner", tagged, pipeline_class=Tags, device="cpu")(texts, **batch)
        assert [one[1] for one in found] == texts and [one[2] for one in found] == [2, 6]
        labels = pipeline("text-classification", checkpoint("bert", "ForSequenceClassification"), pipeline_class=Best)
        assert all(label == f"LABEL_{best}" for best, label in labels(texts, **batch))
    plain = pipeline("feature-extraction", vectors, device="cpu")
    means = pipeline("feature-extraction", vectors, pipeline_class=Mean, device="cpu")(texts)
    for (mean, shape), own in zip(means, plain(texts, return_tensors=True), strict=True):
        assert shape == own.shape and torch.allclose(mean, own.mean(1), atol=1e-5)
    own = pipeline("feature-extraction", vectors, pipeline_class=Plain, device="cpu")
    assert torch.allclose(own(texts[0], return_tensors=True), plain(texts[0], return_tensors=True), atol=1e-6)
