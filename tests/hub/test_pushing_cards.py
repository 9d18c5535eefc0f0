"""Model cards: what is known goes among the user's words, which stay; the Hub's check accepts all of them."""

from __future__ import annotations

import logging
import re

import pytest
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard

from checkpoints import picture_checkpoint, text_checkpoint
from loopback.cards import check_card
from omniform.core.errors import InputError, RepoError
from omniform.hub.cards import BEGIN, END, merged, model_card, with_metadata
from pipelines.tiny import bert
from reference import omniform

TINY = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


def llama(**config: object) -> omniform.PreTrainedModel:
    return omniform.AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY, **config))


def data(card: str) -> dict[str, object]:
    assert not check_card(card, "model").errors and not check_card(card, "model").warnings
    return yaml.safe_load(card.split("---")[1])


def code(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def test_what_is_known():
    model = llama().to(torch.bfloat16)
    model.add_model_tags("tiny")
    card = merged(model, "ann/x", ["b", "b"])
    assert data(card) == {
        "library_name": "omniform", "pipeline_tag": "text-generation", "tags": ["tiny", "b"],
        "widget": [{"text": "Once upon a time,"}],
    }  # fmt: skip
    size = 2 * model.num_parameters()
    assert f"{model.num_parameters():,}" in card and f"{size / 1000:.1f} kB in bfloat16" in card
    assert "# x" in card and "`LlamaForCausalLM` of the family `llama`" in card
    model.config.raw["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    assert "| quantization | gptq |" in merged(model, "ann/x")
    assert data(merged(omniform.LlamaConfig(**TINY), "ann/x")) == {"library_name": "omniform"}


@pytest.mark.parametrize(("kind", "config", "tag"), [
    ("BertForMaskedLM", {"vocab_size": 60}, "fill-mask"), ("BertModel", {"vocab_size": 60}, "feature-extraction"),
    ("BertForSequenceClassification", {"vocab_size": 60}, "text-classification"),
    ("BertForQuestionAnswering", {"vocab_size": 60}, "question-answering"),
    ("BertForTokenClassification", {"vocab_size": 60}, "token-classification"),
    ("ViTForImageClassification", {"image_size": 8, "patch_size": 4}, "image-classification"),
    ("ViTModel", {"image_size": 8, "patch_size": 4}, "image-feature-extraction"),
])  # fmt: skip
def test_tasks(kind, config, tag):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = getattr(omniform, kind)(getattr(omniform, f"{kind.partition('For')[0].removesuffix('Model')}Config")(
        **sizes, **config
    ))  # fmt: skip
    assert data(merged(made, "ann/x"))["pipeline_tag"] == tag


MINE = """---
# what the lawyers said
license: mit   # really
language:
- en

library_name: transformers
tags:
  - "mine"
extra: {a: [1, 2]}
---
# Words

Mine --- and a line:

---

the end
"""


def test_the_user_s_words_stay():
    card = merged(llama(), "ann/x", ["added"], remote=MINE)
    kept = [line for line in MINE.splitlines() if line]
    assert [line for line in card.splitlines() if line in kept] == [line for line in kept if line in card.splitlines()]
    assert set(kept) <= set(card.splitlines()) and len(card.splitlines()) == len(MINE.splitlines()) + 2
    assert card.partition("\n# Words")[2] == MINE.partition("\n# Words")[2]
    found = data(card)
    assert found["library_name"] == "transformers" and found["tags"] == ["mine", "added"]
    assert list(found) == ["license", "language", "library_name", "tags", "extra", "pipeline_tag"]
    assert merged(llama(), "ann/x", ["added"], remote=card) == card


@pytest.mark.parametrize("block", [
    "tags: [a, b]", "tags: a", "tags:\n- a", "tags:\n    - a\n    - b\nlicense: mit", "license: mit\ntags:",
    "tags:\n- a\n# a remark\nlicense: mit", "'tags':\n- a", "license: mit\n", "a:\n- tags: x\n- y", "tags: []",
    "text: |\n  tags:\n  - no\nlicense: mit", "{license: mit, tags: [a]}", "x: &one [a]\ntags: *one", "# nothing", "",
    "tags:\n- a:b\n- 'c, d'", "license: mit\n\n\n", "tags: null\nlicense: mit", "widget:\n- text: |\n    ---a\n",
])  # fmt: skip
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_any_spelling(block, line):
    card = f"---\n{block}\n---\nWords.\n".replace("\n", line)
    before = yaml.safe_load(block) or {}
    made = with_metadata(card, {"tags": ["a", "new tag"], "base_model": "ann/base", "license": "apache-2.0"})
    found = yaml.safe_load(made.partition("---")[2].rpartition("---")[0])
    old = before.get("tags") or []
    old = [old] if isinstance(old, str) else old
    wanted = {"license": "apache-2.0", **before, "base_model": "ann/base"}
    wanted["tags"] = [*old, *(tag for tag in ("a", "new tag") if tag not in old)]
    assert found == wanted and made.endswith(f"---{line}Words.{line}")
    assert with_metadata(made, {"tags": ["new tag"]}) == made
    assert "\r\n" not in made if line == "\n" else "\n" not in made.replace("\r\n", "")


def test_our_part_is_written_anew_and_no_other():
    first = merged(llama(), "ann/x")
    assert "6,352" in first and merged(llama(), "ann/x", remote=first) == first
    edited = first.replace("# x\n", "# X by Ann\n\nBefore.\n").replace(END, f"{END}\n\nAfter.")
    grown = merged(llama(tie_word_embeddings=True), "ann/x", remote=edited)
    assert "5,392" in grown and "6,352" not in grown and grown.count(BEGIN) == grown.count(END) == 1
    assert "# X by Ann\n\nBefore.\n" in grown and grown.rstrip().endswith("After.")
    taken_out = re.sub(f"{BEGIN}.*{END}", "Only mine.", first, flags=re.DOTALL)
    assert merged(llama(), "ann/x", remote=taken_out) == taken_out
    assert BEGIN in merged(llama(), "ann/x", remote="---\nlicense: mit\n---\n")
    assert "widget" not in merged(llama(), "ann/x", remote="---\nlicense: mit\n---\n")
    words = merged(llama(), "ann/x", remote="Just words.")
    assert data(words)["library_name"] == "omniform" and words.endswith("---\nJust words.")


def test_the_folder_s_and_the_repository_s(caplog):
    ours, theirs = "---\nlicense: mit\n---\nOurs.\n", "---\nlicense: gpl\nlanguage: en\ntags: [t]\n---\nTheirs.\n"
    with caplog.at_level(logging.WARNING, "omniform"):
        card = merged(llama(), "ann/x", local=ours, remote=theirs)
    assert data(card)["license"] == "mit" and data(card)["language"] == "en" and data(card)["tags"] == ["t"]
    assert "Ours." in card and "history has it" in caplog.text
    generated = merged(llama(), "ann/x")
    assert "Theirs." in merged(llama(), "ann/x", local=generated, remote=theirs)
    assert "Ours." in merged(llama(), "ann/x", local=ours, remote=generated)


@pytest.mark.parametrize("block", ["a: [", "- a\n- b", "just words", "no: 1\n", "\ta: 1"])
def test_metadata_that_cannot_be_read(block):
    with pytest.raises(InputError, match="metadata"):
        merged(llama(), "ann/x", remote=f"---\n{block}\n---\nWords.\n")


def test_other_bytes(hub, tmp_path):
    marked = "\ufeff---\nlicense: mit\n---\nWörter.\n"
    hub.upload("ann/x", {"README.md": marked.encode()})
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        llama().push_to_hub("ann/x")
        card = hub.read("ann/x", "README.md").decode()
        assert data(card)["license"] == "mit" and card.endswith("---\nWörter.\n")
        before = hub.upload("ann/x", {"README.md": "---\nlicense: mit\n---\nWörter.\n".encode("latin-1")})
        with hub.watch() as log, pytest.raises(InputError, match=r"README.md.*UTF-8"):
            llama().push_to_hub("ann/x")
        assert hub.repo("ann/x").head("main") == before and not log.count("PUT")


def test_the_hub_does_not_accept_it(hub, tmp_path):
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        before = hub.upload("ann/x", {"README.md": "---\nlicense: none of these\n---\n"})
        for revision in (None, "new"):
            with hub.watch() as log, pytest.raises(InputError, match=r"README.md.*license.* must be one of"):
                llama().push_to_hub("ann/x", revision=revision)
            assert not log.count("*/commit/*") and not log.count("*/branch/*")
        assert hub.repo("ann/x").head("main") == before


def test_results_and_what_a_trainer_knows(hub, tmp_path):
    result = EvalResult(
        task_type="text-generation", dataset_type="ann/data", dataset_name="Data", metric_type="accuracy",
        metric_value=0.5,
    )  # fmt: skip
    told = {
        "language": ["en"], "license": "mit", "tags": "trained", "model_name": "My model", "finetuned_from": "ann/base",
        "tasks": "text-generation", "datasets": "ann/data", "metrics": ["accuracy"], "eval_results": [result],
    }  # fmt: skip
    card = model_card(llama(), "ann/x", **told)
    assert isinstance(card, ModelCard) and "# My model" in str(card)
    found = data(str(card))
    assert found["base_model_relation"] == "finetune" and found["tags"] == ["trained"] and found["language"] == ["en"]
    assert found["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.5}]
    better = EvalResult(**{**vars(result), "metric_value": 0.75})
    again = model_card(llama(), "ann/x", **{**told, "eval_results": [better]}, written=str(card) + "\nWords.\n")
    assert data(str(again))["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    assert str(again).endswith("Words.\n") and list(data(str(again))) == list(found)
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        again.validate()
        again.push_to_hub("ann/x", create_pr=False) if hub.create("ann/x") else None
        assert omniform.ModelCard.load("ann/x").data.to_dict() == again.data.to_dict()
    with pytest.raises(InputError):
        model_card(llama(), "ann/x", eval_results=[3])


def test_cards_by_the_ecosystem_s_names(hub, tmp_path):
    from omniform.utils.hub import create_and_tag_model_card

    assert omniform.ModelCard is ModelCard and omniform.utils.PushToHubMixin is omniform.PushToHubMixin
    hub.upload("ann/x", {"README.md": MINE})
    hub.upload("ann/bare", {"config.json": b"{}"})
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        card = create_and_tag_model_card("ann/x", ["b"])
        assert card.data.tags == ["mine", "b"] and card.data.license == "mit" and "the end" in card.text
        assert create_and_tag_model_card("ann/bare", ["b"]).data.to_dict() == {
            "library_name": "omniform",
            "tags": ["b"],
        }
        with pytest.raises(RepoError):
            create_and_tag_model_card("ann/none")


def test_the_code_runs(hub, tmp_path):
    pictures = omniform.AutoProcessor.from_pretrained(picture_checkpoint(tmp_path / "pictures"))
    written = text_checkpoint(tmp_path / "text")
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        things = {
            "ann/proc": pictures, "ann/tok": pictures.tokenizer, "ann/images": pictures.image_processor,
            "ann/conf": omniform.LlamaConfig(**TINY), "ann/settings": omniform.GenerationConfig(max_new_tokens=2),
            "ann/alone": omniform.AutoModelForCausalLM.from_pretrained(written),
            "ann/mask": omniform.pipeline("fill-mask", str(bert(tmp_path / "bert", "MaskedLM")), device=-1),
            "ann/pipe": omniform.pipeline("text-generation", str(written), device=-1),
        }  # fmt: skip
        for name, thing in things.items():
            thing.push_to_hub(name)
            card = hub.read(name, "README.md").decode()
            data(card)
            exec(code(card), {})
        assert "pipeline(" in code(hub.read("ann/pipe", "README.md").decode())
        assert "[MASK]" in str(data(hub.read("ann/mask", "README.md").decode())["widget"])
        copy = omniform.AutoModelForCausalLM.from_pretrained("ann/alone")
        copy.push_to_hub("ann/copy")
        assert data(hub.read("ann/copy", "README.md").decode())["base_model"] == "ann/alone"
        copy.push_to_hub("ann/alone")  # of itself it is none
        assert "base_model" not in hub.read("ann/alone", "README.md").decode()


def test_a_card_is_about_what_matters_most(hub, tmp_path):
    """A model, its tokenizer and its settings pushed one after the other, as scripts do, in any order."""
    made = text_checkpoint(tmp_path / "made")
    model = omniform.AutoModelForCausalLM.from_pretrained(made)
    tokenizer = omniform.AutoTokenizer.from_pretrained(made)
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        for saved in (model, tokenizer, model.generation_config, model.config):
            saved.push_to_hub("ann/x")
        for saved in (model.generation_config, tokenizer, model.config, model):
            saved.push_to_hub("ann/y")
            if saved is model.config:
                assert "`Tokenizer`" in hub.read("ann/y", "README.md").decode()
        cards = [hub.read(name, "README.md").decode() for name in ("ann/x", "ann/y")]
    assert cards[0].replace("ann/x", "ann/y").replace("# x", "# y") == cards[1]
    assert "`LlamaForCausalLM`" in cards[0] and 'pipeline("text-generation", model="ann/x")' in code(cards[0])
    files = ["adapter_model.safetensors", "tokenizer_config.json"]
    adapter = f"---\n---\n{BEGIN}\nAn adapter.\n\n```python\nPeftModel\n```\n\n{END}\n"
    assert "PeftModel" in code(merged(tokenizer, "ann/x", files=files, remote=adapter))


def test_words_that_begin_strangely():
    assert merged(llama(), "ann/x", remote="---\n---\nwords\n").count("---\n") == 2  # metadata, though there is none
    text = "---\nlicense: mit\ndescription: |\n  tags:\n  - no\n  more\n---\nwords\n"
    assert text.split("---")[1] in merged(llama(), "ann/x", ["b"], remote=text)
    rule = "---\n\nwords after a rule\n\n---\n\nmore\n"
    with pytest.raises(InputError, match=r"no mapping of names.*words after a rule.*Mend") as error:
        merged(llama(), "ann/x", remote=rule)
    assert "\n" not in str(error.value)
    for block in ("license: [mit", "released: 2024-02-30", "x: !!bool maybe"):
        with pytest.raises(InputError, match=r"no YAML.*Mend") as error:
            merged(llama(), "ann/x", remote=f"---\n{block}\n---\nwords\n")
        assert "\n" not in str(error.value)
    assert check_card("---\nlanguage: {x: 1}\nlicense: [{}]\n---\n", "model").errors
