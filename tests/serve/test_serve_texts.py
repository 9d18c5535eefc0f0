"""Vectors, scores, classes and tokens over HTTP, beside the packages' own answers."""

from __future__ import annotations

import json

import numpy as np
import openai
import pytest
from serving import serving

from checkpoints import TEXT, text_checkpoint, tokenizer
from omniform.embeddings.embedder import Embedder
from omniform.serve.config import ModelSource
from reference import saved_reference, transformers

TEXTS = ["the cat sat", "a dog", "rain and birds, and rain"]
BERT = {**TEXT, "num_hidden_layers": 1}


def bert(folder, kind, **more):
    named = {"bos_token_id", "eos_token_id"}
    config = transformers.BertConfig(**{n: v for n, v in BERT.items() if n not in named}, **more)
    saved_reference(getattr(transformers, kind), config, folder)
    tokenizer().save_pretrained(folder)
    return folder


def layout(folder):
    """The layout of sentence-transformers: a Bert, and the first token's vector."""
    bert(folder, "BertModel")
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    steps = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    labels = {0: "calm", 1: "glad", 2: "sad"}
    return {
        "plain": bert(folder / "plain", "BertModel"),
        "first": layout(folder / "first"),
        "cross": bert(folder / "cross", "BertForSequenceClassification", num_labels=1),
        "moods": bert(folder / "moods", "BertForSequenceClassification", id2label=labels,
                      label2id={v: k for k, v in labels.items()}),
        "writer": text_checkpoint(folder / "writer", chat=True),
    }  # fmt: skip


@pytest.fixture(scope="module")
def served(places):
    sources = tuple(ModelSource(name=name, source=str(place)) for name, place in places.items())
    with serving(models=sources, preload=False) as server:
        yield server


@pytest.fixture(scope="module")
def client(served):
    return served.client()


@pytest.fixture(scope="module")
def raw(served):
    with served.raw() as client:
        yield client


@pytest.mark.parametrize("name", ["plain", "first"])
def test_vectors(client, places, name):
    own = Embedder(str(places[name]))
    expected = own.encode(TEXTS)
    for asked in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = client.embeddings.create(model=name, input=TEXTS, **asked)
        assert [one.index for one in found.data] == [0, 1, 2]
        vectors = [one.embedding for one in found.data]
        if asked.get("encoding_format") == "base64":
            import base64

            vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]
        np.testing.assert_allclose(np.array(vectors), expected, atol=1e-5)
        assert found.usage.total_tokens == sum(len(own.tokenizer(text)["input_ids"]) for text in TEXTS)
    np.testing.assert_allclose(
        client.embeddings.create(model=name, input=TEXTS[0]).data[0].embedding, expected[0], atol=1e-5
    )
    ids = [own.tokenizer(text)["input_ids"] for text in TEXTS]
    for given, places_ in ((ids, [0, 1, 2]), (ids[1], [1])):
        found = client.embeddings.create(model=name, input=given)
        np.testing.assert_allclose([one.embedding for one in found.data], expected[places_], atol=1e-5)
    short = np.array(client.embeddings.create(model=name, input=TEXTS, dimensions=5).data[1].embedding)
    np.testing.assert_allclose(short, expected[1, :5] / np.linalg.norm(expected[1, :5]), atol=1e-5)


def test_scores_by_vectors(raw, places):
    own = Embedder(str(places["first"]))
    vectors = own.encode(TEXTS, convert_to_tensor=True)
    expected = own.similarity(vectors, vectors).tolist()
    found = raw.post("/score", json={"model": "first", "text_1": TEXTS[0], "text_2": TEXTS}).json()
    assert [one["score"] for one in found["data"]] == pytest.approx(expected[0], abs=1e-5)
    found = raw.post("/v1/score", json={"model": "first", "text_1": TEXTS, "text_2": TEXTS[::-1]}).json()
    assert [one["score"] for one in found["data"]] == pytest.approx(
        [expected[0][2], expected[1][1], expected[2][0]], abs=1e-5
    )


def test_documents_are_ranked(raw, places):
    from omniform.embeddings.cross import CrossEncoder

    own = CrossEncoder(str(places["cross"])).rank("birds?", TEXTS)
    documents = [TEXTS[0], {"text": TEXTS[1], "id": 7}, TEXTS[2]]
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        found = raw.post(path, json={"model": "cross", "query": "birds?", "documents": documents}).json()
        assert [one["index"] for one in found["results"]] == [one["corpus_id"] for one in own]
        scores = [one["relevance_score"] for one in found["results"]]
        assert scores == pytest.approx([one["score"] for one in own], abs=1e-5) and found["usage"]["total_tokens"] > 9
        assert found["results"][0]["document"]["text"] == TEXTS[found["results"][0]["index"]]
    asked = {"model": "cross", "query": "birds?", "documents": TEXTS, "top_n": 1, "return_documents": False}
    (best,) = raw.post("/rerank", json=asked).json()["results"]
    assert best["index"] == own[0]["corpus_id"] and "document" not in best


def test_classes(raw, places):
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(places["moods"]).eval()
    words = transformers.AutoTokenizer.from_pretrained(places["moods"])
    found = raw.post("/v1/classify", json={"model": "moods", "input": TEXTS}).json()
    for text, told in zip(TEXTS, found["data"], strict=True):
        chances = theirs(**words(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        assert told["probs"] == pytest.approx(chances, abs=1e-5) and told["num_classes"] == 3
        assert told["label"] == theirs.config.id2label[int(np.argmax(chances))]


def test_tokens(raw, places):
    words = transformers.AutoTokenizer.from_pretrained(places["writer"])
    asked = {"model": "writer", "prompt": "the cat</s>", "return_token_strs": True}
    found = raw.post("/tokenize", json=asked).json()
    assert found["tokens"] == words("the cat</s>")["input_ids"] and found["count"] == len(found["tokens"])
    assert found["token_strs"] == words.convert_ids_to_tokens(found["tokens"]) and found["max_model_len"] == 64
    back = raw.post("/detokenize", json={"model": "writer", "tokens": found["tokens"]}).json()
    assert back == {"prompt": "the cat</s>"}
    chat = [{"role": "user", "content": "hi"}]
    for begun in (True, False):
        asked = {"model": "writer", "messages": chat, "add_generation_prompt": begun}
        expected = words.apply_chat_template(chat, add_generation_prompt=begun, return_dict=True)["input_ids"]
        assert raw.post("/tokenize", json=asked).json()["tokens"] == expected
    assert raw.post("/tokenize", json={"model": "plain", "prompt": "a"}).json()["count"] == 1


WRONG = {
    "no embedder": ("/v1/embeddings", {"model": "writer", "input": "a"}, 400, "model", "model_does_not_embed"),
    "a classifier is none": ("/v1/embeddings", {"model": "moods", "input": "a"}, 400, "model", "model_does_not_embed"),
    "a ranker is none": ("/v1/embeddings", {"model": "cross", "input": "a"}, 400, "model", "model_does_not_embed"),
    "no input": ("/v1/embeddings", {"model": "plain"}, 400, "input", "missing_required_parameter"),
    "an empty input": ("/v1/embeddings", {"model": "plain", "input": ""}, 400, "input", "invalid_value"),
    "an empty list": ("/v1/embeddings", {"model": "plain", "input": []}, 400, "input", "invalid_value"),
    "an empty one": ("/v1/embeddings", {"model": "plain", "input": ["a", ""]}, 400, "input.1", "invalid_value"),
    "a number": ("/v1/embeddings", {"model": "plain", "input": 5}, 400, "input", "invalid_value"),
    "a long text": ("/v1/embeddings", {"model": "plain", "input": "a" * 99}, 400, "input", "context_length_exceeded"),
    "long tokens": ("/v1/embeddings", {"model": "plain", "input": [5] * 99}, 400, "input", "context_length_exceeded"),
    "no token": ("/v1/embeddings", {"model": "plain", "input": [5, 999]}, 400, "input", "invalid_value"),
    "too wide": ("/v1/embeddings", {"model": "plain", "input": "a", "dimensions": 99}, 400, "dimensions",
                 "invalid_value"),
    "no width": ("/v1/embeddings", {"model": "plain", "input": "a", "dimensions": 0}, 400, "dimensions",
                 "invalid_value"),
    "a format": ("/v1/embeddings", {"model": "plain", "input": "a", "encoding_format": "hex"}, 400, "encoding_format",
                 "invalid_value"),
    "many": ("/v1/embeddings", {"model": "plain", "input": ["a"] * 2049}, 400, "input", "too_many"),
    "no model": ("/v1/embeddings", {"model": "x", "input": "a"}, 404, "model", "model_not_found"),
    "a writer ranks not": ("/rerank", {"model": "writer", "query": "a", "documents": ["b"]}, 400, "model",
                           "model_does_not_rank"),
    "moods rank not": ("/score", {"model": "moods", "text_1": "a", "text_2": "b"}, 400, "model", "model_does_not_rank"),
    "no documents": ("/rerank", {"model": "cross", "query": "a", "documents": []}, 400, "documents", "invalid_value"),
    "a document of none": ("/rerank", {"model": "cross", "query": "a", "documents": [5]}, 400, "documents.0",
                           "invalid_value"),
    "uneven": ("/score", {"model": "cross", "text_1": ["a", "b"], "text_2": ["c"]}, 400, "text_2", "invalid_value"),
    "a writer knows no classes": ("/v1/classify", {"model": "writer", "input": "a"}, 400, "model",
                                  "model_does_not_classify"),
    "two questions": ("/tokenize", {"model": "writer", "prompt": "a", "messages": [{"role": "user", "content": "a"}]},
                      400, "prompt", "invalid_value"),
    "no template": ("/tokenize", {"model": "plain", "messages": [{"role": "user", "content": "a"}]}, 400, "messages",
                    "no_chat_template"),
    "how a template is rendered": ("/tokenize", {"model": "writer", "messages": [{"role": "user", "content": "a"}],
                                   "chat_template_kwargs": {"tokenize": False}}, 400,
                                   "chat_template_kwargs.'tokenize'", "invalid_value"),
    "no such token": ("/detokenize", {"model": "writer", "tokens": [99999]}, 400, "tokens", "invalid_value"),
    "a chat with an embedder": (
        "/v1/chat/completions", {"model": "plain", "messages": [{"role": "user", "content": "a"}]}, 400, "model",
        "model_does_not_write",
    ),
    "a completion of an embedder": ("/v1/completions", {"model": "plain", "prompt": "a"}, 400, "model",
                                    "model_does_not_write"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(raw, name):
    path, body, status, param, code = WRONG[name]
    answer = raw.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"] and (error["param"], error["code"]) == (param, code)


def test_the_client_names_the_field(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="writer", input="a")
    assert caught.value.param == "model"
