"""The vectors of sentence-transformers, on tiny seeded checkpoints of every kind, loaded plain and in its layout."""

from __future__ import annotations

import json

import folders
import numpy as np
import pytest
from folders import LAST, PLAIN, TEXTS, models, st

from reference import omniform, torch

KINDS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def same(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)).max() < tolerance


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "pegasus"])
def test_every_family_plain_and_in_the_layout(name, plain, tmp_path):
    theirs = st.SentenceTransformer(str(plain(name)), device="cpu")
    ours = omniform.SentenceTransformer(plain(name), device="cpu")
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert ours.max_seq_length == theirs.max_seq_length
    theirs = folders.built(tmp_path / "a", plain(name), models.Dense(16, 8), models.Normalize())
    ours = omniform.SentenceTransformer(tmp_path / "a", device="cpu")
    expected = theirs.encode(TEXTS)
    same(ours.encode(TEXTS), expected)
    assert ours.get_sentence_embedding_dimension() == 8
    ours.save_pretrained(tmp_path / "b")
    again = st.SentenceTransformer(str(tmp_path / "b"), device="cpu")
    same(again.encode(TEXTS), expected, 1e-7)
    for file in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json"):
        assert json.loads((tmp_path / "a" / file).read_text()) == json.loads((tmp_path / "b" / file).read_text())


def test_of_pegasus_the_encoder_is_read(plain):
    # The package reads it as an encoder too, but with fresh weights: its class's prefix fits no published checkpoint.
    model = omniform.AutoModel.from_pretrained(plain("pegasus"))
    ours = omniform.SentenceTransformer(plain("pegasus"), device="cpu")
    found = ours.encode("the cat sat", convert_to_tensor=True)
    batch = ours.tokenize(["the cat sat"])
    hidden = model.encoder(input_ids=batch["input_ids"]).last_hidden_state[0]
    assert torch.allclose(found, hidden.mean(0), atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, ("max", "cls"), ("cls", "mean", "lasttoken")])
@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_every_kind_of_pooling_with_and_without_the_prompt(name, kind, plain, tmp_path):
    for include in (True, False):
        theirs = folders.built(tmp_path / str(include), plain(name), pooling=kind, pool={"include_prompt": include})
        ours = omniform.SentenceTransformer(tmp_path / str(include), device="cpu")
        texts = [text for text in TEXTS if text.strip() and "very" not in text]
        same(ours.encode(texts), theirs.encode(texts))
        same(ours.encode(texts, prompt="query : "), theirs.encode(texts, prompt="query : "))


@pytest.mark.parametrize(
    "switches", [("cls_token",), ("mean_tokens", "max_tokens"), ("lasttoken", "weightedmean_tokens"), ()]
)
def test_the_switches_of_older_releases(switches, plain, tmp_path):
    folders.built(tmp_path, plain("bert"))
    names = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    told = {f"pooling_mode_{name}": name in switches for name in names}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **told}))
    theirs = st.SentenceTransformer(str(tmp_path), device="cpu")
    ours = omniform.SentenceTransformer(tmp_path, device="cpu")
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()


def test_an_old_layout_in_folders_with_pickled_weights(plain, tmp_path):
    """Of 2021: the model in a folder of its own, a Dense step of tanh in a .bin file, names of that time."""
    theirs = folders.built(tmp_path, plain("bert"), models.Dense(16, 8))
    (tmp_path / "0_Transformer").mkdir()
    for file in list(tmp_path.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(tmp_path / "0_Transformer" / file.name)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "2_Dense" / "model.safetensors")
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "2_Dense" / "pytorch_model.bin")
    (tmp_path / "config_sentence_transformers.json").unlink()
    listing = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(("Transformer", "Pooling", "Dense"))
    ]
    (tmp_path / "modules.json").write_text(json.dumps(listing))
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 7, "do_lower_case": true}'
    )
    theirs = st.SentenceTransformer(str(tmp_path), device="cpu")
    ours = omniform.SentenceTransformer(tmp_path, device="cpu")
    assert ours.max_seq_length == 7
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    ours.save_pretrained(tmp_path / "again")
    same(st.SentenceTransformer(str(tmp_path / "again"), device="cpu").encode(TEXTS), theirs.encode(TEXTS))


def test_other_steps(plain, tmp_path):
    steps = [models.LayerNorm(16), models.Dropout(0.5), models.Dense(16, 16, use_residual=True),
             models.Dense(16, 8, bias=False, activation_function=torch.nn.GELU(), use_residual=True),
             models.Normalize()]  # fmt: skip
    theirs = folders.built(tmp_path / "a", plain("mpnet"), *steps)
    ours = omniform.SentenceTransformer(tmp_path / "a", device="cpu")
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    ours.save_pretrained(tmp_path / "b")
    same(st.SentenceTransformer(str(tmp_path / "b"), device="cpu").encode(TEXTS), theirs.encode(TEXTS), 1e-7)


def test_a_dense_step_over_tokens(plain, tmp_path):
    reader = models.Transformer(str(plain("bert")))
    steps = [reader, models.Dense(16, 6, module_input_name="token_embeddings"), models.Pooling(6, "max")]
    theirs = st.SentenceTransformer(modules=steps, device="cpu")
    theirs.save_pretrained(str(tmp_path), create_model_card=False)
    same(omniform.SentenceTransformer(tmp_path, device="cpu").encode(TEXTS), theirs.encode(TEXTS))


def test_texts_are_cut_and_lowered_as_told(plain, tmp_path):
    theirs = folders.built(tmp_path, plain("bert"))
    settings = json.loads((tmp_path / "sentence_bert_config.json").read_text())
    settings |= {"max_seq_length": 9, "do_lower_case": True}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(settings))
    theirs = st.SentenceTransformer(str(tmp_path), device="cpu")
    ours = omniform.SentenceTransformer(tmp_path, device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == 9
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    same(ours.encode(["THE CAT"]), ours.encode(["the cat"]), 1e-7)
    ours.max_seq_length = theirs.max_seq_length = 5
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    ours.save_pretrained(tmp_path / "again")
    again = st.SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert again.max_seq_length == 5
    same(again.encode(TEXTS), theirs.encode(TEXTS))


CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}yes ?{% endif %}[SEP]"
)
PARTS = CHAT.replace("m['content']", "m['content'][0].text").replace("{% for", "{# 'type' #}{% for", 1)


@pytest.mark.parametrize("template", [CHAT, PARTS], ids=["texts", "parts"])
def test_a_decoder_with_a_chat_template(template, tmp_path):
    """Read through the template, by its last token; what the template writes last stays where a long text is cut."""
    given = {**PLAIN["qwen3"][1], "tokens": {**LAST, "chat_template": template}}
    folders.plain(tmp_path / "q", "Qwen3", "Qwen3ForCausalLM", **given)
    theirs = st.SentenceTransformer(str(tmp_path / "q"), device="cpu")
    ours = omniform.SentenceTransformer(tmp_path / "q", device="cpu")
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    same(ours.encode(TEXTS, prompt="what is : "), theirs.encode(TEXTS, prompt="what is : "))
    ours.save_pretrained(tmp_path / "ours")
    same(st.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS), theirs.encode(TEXTS))
    theirs[0].processing_kwargs = {"chat_template": {"add_generation_prompt": True}, "text": {"max_length": 12}}
    theirs.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    same(omniform.SentenceTransformer(tmp_path / "theirs", device="cpu").encode(TEXTS), theirs.encode(TEXTS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_stay_halves(dtype, plain, tmp_path):
    theirs = folders.built(tmp_path / "a", plain("bert"), models.Dense(16, 8))
    ours = omniform.SentenceTransformer(tmp_path / "a", device="cpu", model_kwargs={"dtype": dtype})
    assert ours.dtype is dtype and ours[2].linear.weight.dtype is dtype
    vectors = ours.encode(TEXTS, convert_to_tensor=True)
    assert vectors.dtype is dtype and not vectors.requires_grad
    same(vectors.float(), theirs.encode(TEXTS), 0.1)
    array = ours.encode(TEXTS)
    assert array.dtype == (np.float32 if dtype is torch.bfloat16 else np.float16)
    same(array, vectors.float(), 1e-7)


def test_a_model_put_together_by_hand(plain, tmp_path):
    from omniform.embeddings.parts import Dense, Normalize
    from omniform.embeddings.pooling import Pooling
    from omniform.embeddings.reading import Transformer

    torch.manual_seed(0)
    steps = [Transformer(str(plain("roberta"))), Pooling(16, ("mean", "max")), Dense(32, 4), Normalize()]
    ours = omniform.Embedder(modules=steps, prompts={"query": "query : "}, truncate_dim=3, similarity_fn_name="dot")
    ours.save_pretrained(tmp_path)
    theirs = st.SentenceTransformer(str(tmp_path), device="cpu")
    same(ours.encode(TEXTS), theirs.encode(TEXTS))
    same(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert theirs.similarity_fn_name == "dot" and theirs.get_embedding_dimension() == 3
    same(omniform.Embedder(tmp_path).encode(TEXTS), theirs.encode(TEXTS))
