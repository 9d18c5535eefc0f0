"""The loopback Hub's check of model cards, asked as ``ModelCard.validate`` and ``create_commit`` ask it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

from loopback import Hub
from loopback.cards import check_card

GOOD = """\
---
language: [en, code, deu]
license: apache-2.0
library_name: omniform
pipeline_tag: text-generation
tags: [small]
base_model: ann/base
base_model_relation: finetune
datasets: [ann/data, squad]
metrics: [accuracy]
widget:
- text: Hello
model-index:
- name: small
  results:
  - task: {type: text-generation}
    dataset: {type: ann/data, name: Data}
    metrics: [{type: accuracy, value: 0.5}]
---
# A model
"""


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("license: mine", '"license" must be one of'),
        ("language: English", "ISO 639-1"),
        ("language: en-US", "language_bcp47"),
        ("language: [no]", "must be a string"),  # YAML's false
        ("tags: small", '"tags" must be an array'),
        ("tags: [1]", '"tags[0]" must be a string'),
        ("pipeline_tag: [a]", '"pipeline_tag" must be a string'),
        ("base_model: ./folder", "Use a model id from"),
        ("base_model: /home/ann/model", "Use a model id from"),
        ("base_model_relation: cousin", "must be one of [adapter"),
        ("datasets: [a/b/c]", '"datasets[0]" with value'),
        ("library_name: 3", "must be a string"),
        ("widget: hello", '"widget" must be an array'),
        ("widget: [hello]", "must be of type object"),
        ("model-index: {}", '"model-index" must be an array'),
        ("model-index: [{results: []}]", '"model-index[0].name" is required'),
        ("model-index: [{name: a}]", '"model-index[0].results" must be an array'),
        ("model-index: [{name: a, results: [{task: {type: b}, metrics: []}]}]", "results[0].dataset"),
        ("model-index: [{name: a, results: [{task: {type: b}, dataset: {type: c}, metrics: []}]}]", "dataset.name"),
        ("co2_eq_emissions: much", "must be a number"),
        ("a: [", "YAML parsing error"),
    ],
)
def test_what_is_refused(line: str, word: str) -> None:
    errors = check_card(f"---\n{line}\n---\n# A model\n", "model").errors
    assert len(errors) == 1 and word in errors[0]


def test_what_is_only_remarked_on() -> None:
    assert check_card(GOOD, "model").errors == [] == check_card(GOOD, "model").warnings
    for text, word in {
        "# A model": "empty or missing yaml metadata",
        "---\npipeline_tag: dreaming\n---\n": "not in the official list",
        "---\nlicense: other\n---\n": "license_name",
    }.items():
        verdict = check_card(text, "model")
        assert verdict.errors == [] and word in verdict.warnings[0]


def test_the_client_asks_this_hub(hub: Hub, tmp_path: Path) -> None:
    """Its address is taken from the endpoint, in both places that ask."""
    results = [EvalResult("text-generation", "ann/data", "Data", "accuracy", 0.5)]
    data = ModelCardData(license="mit", language="en", model_name="small", eval_results=results, base_model="ann/base")
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        card = ModelCard.from_template(data, model_id="small")
        card.validate()
        HfApi().create_repo("ann/small")
        card.push_to_hub("ann/small")
        assert ModelCard.load("ann/small").data.license == "mit"
        with pytest.raises(ValueError, match="must be one of"):
            ModelCard("---\nlicense: mine\n---\n").validate()
        with pytest.raises(ValueError, match="Invalid metadata"):
            HfApi().upload_file(
                repo_id="ann/small", path_or_fileobj=b"---\ntags: small\n---\n", path_in_repo="README.md"
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            HfApi().upload_file(repo_id="ann/small", path_or_fileobj=b"# Bare", path_in_repo="README.md")
        assert "empty or missing yaml metadata" in str(caught[0].message)
    assert hub.log.count("POST /api/validate-yaml") == 6  # a push asks twice
