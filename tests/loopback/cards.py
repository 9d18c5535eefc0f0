"""The check of a card's metadata, by the rules that the Hub publishes.

Rules: https://huggingface.co/docs/hub/model-cards, https://huggingface.co/docs/hub/repositories-licenses and
https://github.com/huggingface/hub-docs/blob/main/modelcard.md. What the Hub refuses is an error (status 400), what it
only remarks on a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml

from loopback.access import Call, alone
from loopback.wire import Answer, as_json

_REPO_ID: Final = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")

_LICENSES: Final = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-
openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-
by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-
nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-
permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
grok2-community gemma unknown other
"""
LICENSES: Final = frozenset(_LICENSES.replace("-\n", "-").split())
_TASKS: Final = """
text-classification token-classification table-question-answering question-answering zero-shot-classification
translation summarization feature-extraction text-generation text2text-generation fill-mask sentence-
similarity text-to-speech text-to-audio automatic-speech-recognition audio-to-audio audio-classification
audio-text-to-text voice-activity-detection depth-estimation image-classification object-detection image-
segmentation text-to-image image-to-text image-to-image image-to-video unconditional-image-generation video-
classification reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text
table-to-text multiple-choice text-ranking text-retrieval time-series-forecasting text-to-video image-text-to-
text image-text-to-image image-text-to-video visual-question-answering document-question-answering zero-shot-
image-classification graph-ml mask-generation zero-shot-object-detection text-to-3d image-to-3d image-feature-
extraction video-text-to-text keypoint-detection visual-document-retrieval any-to-any video-to-video other
"""
TASKS: Final = frozenset(_TASKS.replace("-\n", "-").split())  # lines are broken at hyphens
_LANGUAGES: Final = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el
en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu
ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na
nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn
so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
_TWO_LETTERS: Final = frozenset(_LANGUAGES.split())


@dataclass(slots=True)
class Verdict:
    """What is wrong with a card."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def metadata_of(text: str) -> object:
    """The YAML at a card's head; None where there is none.

    Raises:
        yaml.YAMLError: it is none.
    """
    found = re.match(r"\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


def check_card(text: str, kind: str) -> Verdict:
    """Check the metadata of a repository's README.md."""
    verdict = Verdict()
    try:
        data = metadata_of(text)
    except yaml.YAMLError as error:
        verdict.errors.append(f"YAML parsing error: {str(error).splitlines()[0]}")
        return verdict
    if data is None:
        verdict.warnings.append("empty or missing yaml metadata in repo card")
        return verdict
    if not isinstance(data, dict):
        verdict.errors.append("the YAML metadata must be an object")
        return verdict
    for name, value in data.items():
        if not isinstance(name, str):
            verdict.errors.append(f"the key {name!r} must be a string")
        elif value is not None and name in _CHECKS and (kind == "model" or name in _ANYWHERE):
            verdict.errors += _CHECKS[name](name, value)
    if kind == "model":
        tag = data.get("pipeline_tag")
        if isinstance(tag, str) and tag not in TASKS:
            verdict.warnings.append(f'The pipeline tag "{tag}" is not in the official list: {", ".join(sorted(TASKS))}')
    if data.get("license") == "other" and not data.get("license_name"):
        verdict.warnings.append('"license_name" and "license_link" say which, where "license" is "other"')
    return verdict


def _many(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield f"{name}[{at}]", item
    else:
        yield name, value


def _strings(name: str, value: object) -> Iterator[str]:
    """One string or a list of them."""
    for where, item in _many(name, value):
        if not isinstance(item, str):
            yield f'"{where}" must be a string'


def _list(name: str, value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield from _strings(name, value)
    else:
        yield f'"{name}" must be an array'


def _string(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, str):
        yield f'"{name}" must be a string'


def _license(name: str, value: object) -> Iterator[str]:
    for where, item in _many(name, value):
        if not isinstance(item, str) or item not in LICENSES:
            yield f'"{where}" must be one of [{", ".join(sorted(LICENSES))}]'


def _language(name: str, value: object) -> Iterator[str]:
    for where, item in _many(name, value):
        if not isinstance(item, str):
            yield f'"{where}" must be a string'  # `no` without quotes is a boolean
            continue
        known = item in ("code", "multilingual", "other") or item in _TWO_LETTERS
        if not known and not re.fullmatch(r"[a-z]{3}", item):
            yield (
                f'"{where}" with value "{item}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code'
                ' (two or three letters) or a special value like "code", "multilingual"; BCP-47 goes to language_bcp47.'
            )


def _ids(name: str, value: object) -> Iterator[str]:
    what = "model" if name == "base_model" else name.rstrip("s")
    for where, item in _many(name, value):
        if not isinstance(item, str) or not _REPO_ID.fullmatch(item):
            yield f'"{where}" with value "{item}" is not valid. Use a {what} id from https://hf.co/{what}s.'


def _relation(name: str, value: object) -> Iterator[str]:
    if value not in ("adapter", "merge", "quantized", "finetune"):
        yield f'"{name}" must be one of [adapter, merge, quantized, finetune]'


def _widget(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, list):
        yield f'"{name}" must be an array'
        return
    for where, item in _many(name, value):
        if not isinstance(item, dict):
            yield f'"{where}" must be of type object'


def _emissions(name: str, value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if not isinstance(value.get("emissions"), int | float):
            yield f'"{name}.emissions" must be a number'
    elif not isinstance(value, int | float) or isinstance(value, bool):
        yield f'"{name}" must be a number or an object'


def _model_index(name: str, value: object) -> Iterator[str]:
    """``model-index``: models, of each its results, of each the task, the dataset and the metrics."""
    if not isinstance(value, list):
        yield f'"{name}" must be an array'
        return
    for where, model in _many(name, value):
        if not isinstance(model, dict):
            yield f'"{where}" must be of type object'
            continue
        if not isinstance(model.get("name"), str):
            yield f'"{where}.name" is required'
        if not isinstance(model.get("results"), list):
            yield f'"{where}.results" must be an array'
            continue
        for here, result in _many(f"{where}.results", model["results"]):
            yield from _result(here, result)


def _result(where: str, result: object) -> Iterator[str]:
    if not isinstance(result, dict):
        yield f'"{where}" must be of type object'
        return
    for part, needed in (("task", ("type",)), ("dataset", ("type", "name"))):
        inner = result.get(part)
        if not isinstance(inner, dict):
            yield f'"{where}.{part}" is required'
            continue
        for key in needed:
            if not isinstance(inner.get(key), str):
                yield f'"{where}.{part}.{key}" is required'
    metrics = result.get("metrics")
    if not isinstance(metrics, list):
        yield f'"{where}.metrics" must be an array'
        return
    for here, metric in _many(f"{where}.metrics", metrics):
        if not isinstance(metric, dict) or not isinstance(metric.get("type"), str):
            yield f'"{here}.type" is required'
        elif metric.get("value") is None:
            yield f'"{here}.value" is required'


_CHECKS: Final = {
    "license": _license,
    "license_name": _string,
    "license_link": _string,
    "language": _language,
    "language_bcp47": _strings,
    "tags": _list,
    "datasets": _ids,
    "metrics": _strings,
    "base_model": _ids,
    "base_model_relation": _relation,
    "new_version": _ids,
    "pipeline_tag": _string,
    "library_name": _string,
    "thumbnail": _string,
    "widget": _widget,
    "extra_gated_prompt": _string,
    "extra_gated_heading": _string,
    "co2_eq_emissions": _emissions,
    "model-index": _model_index,
}
_ANYWHERE: Final = frozenset(("license", "license_name", "license_link", "language", "language_bcp47", "tags"))


@alone("POST", "api/validate-yaml")
def validate(call: Call) -> Answer:
    given = call.request.json()
    verdict = check_card(str(given.get("content", "")), str(given.get("repoType") or "model"))
    found: dict[str, object] = {
        "errors": [{"message": message} for message in verdict.errors],
        "warnings": [{"message": message} for message in verdict.warnings],
    }
    return as_json(found, 400 if verdict.errors else 200)
