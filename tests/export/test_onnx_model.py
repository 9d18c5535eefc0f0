"""Exported folders as models: forward, generate, pipelines and loading through onnxruntime, beside torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

import omniform
from omniform import OnnxModel
from omniform.architectures.model import Model
from omniform.core.errors import InputError, MissingPartError, RepoError, UnknownArgumentError
from omniform.engine.engine import Engine
from omniform.export.onnx import verified
from omniform.serve.app import create_app
from omniform.serve.config import ModelSource, ServeConfig

TINY = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "pad_token_id": 0, "initializer_range": 0.4,
}  # fmt: skip
KINDS: dict[str, tuple[str, str, dict[str, object]]] = {
    "llama": (
        "AutoModelForCausalLM",
        "text-generation-with-past",
        {**TINY, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "bert": ("AutoModelForSequenceClassification", "text-classification", {**TINY}),
    "t5": (
        "AutoModelForSeq2SeqLM",
        "text2text-generation-with-past",
        {"vocab_size": 61, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
         "eos_token_id": 1, "decoder_start_token_id": 0},
    ),
}  # fmt: skip


class Pair:
    """A torch model, and its export."""

    def __init__(self, root: Path, name: str) -> None:
        auto, task, config = KINDS[name]
        torch.manual_seed(5)
        made = vars(omniform)[auto] if auto in vars(omniform) else getattr(omniform, auto)
        fresh = made.from_config(omniform.AutoConfig.for_model(name, **config))
        for parameter in fresh.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        fresh.save_pretrained(root / name)
        self.torch: Model = made.from_pretrained(root / name).eval()
        self.folder = root / f"{name}-onnx"
        self.torch.export("onnx", self.folder, task=task)
        self.onnx = OnnxModel.from_pretrained(self.folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def llama(root: Path) -> Pair:
    return Pair(root, "llama")


@pytest.fixture(scope="module")
def bert(root: Path) -> Pair:
    return Pair(root, "bert")


@pytest.fixture(scope="module")
def t5(root: Path) -> Pair:
    return Pair(root, "t5")


def batch(pad: str = "left") -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 61, (3, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[1, :2] = 0
    return ids, mask if pad == "left" else mask.flip(1)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_forward_of_a_decoder_and_its_cache(llama: Pair, padded: bool) -> None:
    ids, mask = batch()
    given = {"attention_mask": mask} if padded else {}
    expected, found = llama.torch(ids, **given), llama.onnx(ids, **given)
    assert type(found) is type(expected)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    begun = llama.onnx(ids[:, :5], **({"attention_mask": mask[:, :5]} if padded else {}))
    later = llama.onnx(ids[:, 5:], past_key_values=begun.past_key_values, **given)
    torch.testing.assert_close(later.logits, expected.logits[:, 5:], atol=1e-4, rtol=1e-4)
    assert later.past_key_values.get_seq_length() == 9 and begun.past_key_values.get_seq_length() == 5
    assert "past_key_values" not in llama.onnx(ids, use_cache=False)


WAYS = {
    "greedy": {},
    "drawn": {"do_sample": True, "seed": 3},
    "drawn twice": {"do_sample": True, "seed": 3, "num_return_sequences": 2, "top_k": 7, "temperature": 0.8},
    "beams": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "lengths": {"min_new_tokens": 6, "repetition_penalty": 1.3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_same_tokens(kind: str, way: str, request: pytest.FixtureRequest) -> None:
    pair = request.getfixturevalue(kind)
    ids, mask = batch("left" if kind == "llama" else "right")
    given = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 11, **WAYS[way]}
    assert torch.equal(pair.onnx.generate(**given), pair.torch.generate(**given))


def test_streamers_get_the_same_tokens(llama: Pair) -> None:
    class Notes:
        def __init__(self) -> None:
            self.got: list[list[int]] = []

        def put(self, value: Tensor) -> None:
            self.got.append(value.flatten().tolist())

        def end(self) -> None:
            self.got.append([])

    notes = Notes(), Notes()
    for model, note in zip((llama.torch, llama.onnx), notes, strict=True):
        model.generate(input_ids=batch()[0][:1], max_new_tokens=6, streamer=note)
    assert notes[0].got == notes[1].got and len(notes[0].got) > 2


@torch.no_grad()
def test_one_step_models_and_encoder_decoders(bert: Pair, t5: Pair) -> None:
    ids, mask = batch("right")
    expected, found = bert.torch(ids, attention_mask=mask), bert.onnx(input_ids=ids, attention_mask=mask)
    assert type(found) is type(expected)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :4]}
    expected, found = t5.torch(**given), t5.onnx(**given)
    assert type(found) is type(expected)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)


def test_an_exported_folder_loads_where_a_checkpoint_does(bert: Pair) -> None:
    loaded = omniform.AutoModelForSequenceClassification.from_pretrained(bert.folder)
    assert isinstance(loaded, OnnxModel)
    with pytest.raises(InputError, match="exported as another model"):
        omniform.AutoModelForMaskedLM.from_pretrained(bert.folder)
    with pytest.raises(InputError, match="run as it is"):
        omniform.AutoModelForSequenceClassification.from_pretrained(bert.folder, dtype="bfloat16")


def test_what_is_wrong_is_named(llama: Pair, bert: Pair, tmp_path: Path) -> None:
    ids, mask = batch()
    with pytest.raises(UnknownArgumentError, match="attention_mask"):
        bert.onnx(ids, atention_mask=mask)
    with pytest.raises(InputError, match="outside the vocabulary"):
        bert.onnx(ids - 60)
    with pytest.raises(InputError, match="input_ids"):
        bert.onnx(attention_mask=mask)
    with pytest.raises(InputError, match="past_key_values"):
        llama.onnx(ids, past_key_values=[1])
    with pytest.raises(RepoError, match="no graph"):
        OnnxModel.from_pretrained(tmp_path)
    copied = tmp_path / "copied"
    shutil.copytree(bert.folder, copied)
    (copied / "config.json").write_text((copied / "config.json").read_text() + " ")
    with pytest.raises(RepoError, match=r"config\.json"):
        OnnxModel.from_pretrained(copied)
    assert OnnxModel.from_pretrained(copied, verify=False)(ids).logits.shape == (3, 2)
    (copied / "model.onnx").unlink()
    for verify in (True, False):
        with pytest.raises(RepoError, match=r"config\.json" if verify else r"model\.onnx"):
            OnnxModel.from_pretrained(copied, verify=verify)


def test_pipelines_answer_as_with_torch(bert: Pair, llama: Pair, tmp_path: Path) -> None:
    words = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[EOS]", "a", "b", "c", "d"))}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    tokenizer = omniform.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a b c", "d a a b c d"]
    expected, found = (
        omniform.pipeline("text-classification", model=model, tokenizer=tokenizer, device=-1)(
            texts, batch_size=2, top_k=None
        )
        for model in (bert.torch, bert.onnx)
    )
    for one, other in zip(expected, found, strict=True):
        assert [label["label"] for label in one] == [label["label"] for label in other]
        for label, same in zip(one, other, strict=True):
            assert label["score"] == pytest.approx(same["score"], abs=1e-4)
    written = [
        omniform.pipeline("text-generation", model=model, tokenizer=tokenizer, device=-1)(
            texts, max_new_tokens=5, do_sample=False, return_tensors=True
        )
        for model in (llama.torch, llama.onnx)
    ]
    assert written[0] == written[1]


PROMPTS = [[*range(3, 20)], [5], [*range(3, 11), 40, 41], [*range(3, 23)], [7, 8]]
"""Of several lengths, some of which begin alike."""


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 2, "num_return_sequences": 2}])
def test_an_engine_answers_many_side_by_side(
    kind: str, more: dict[str, object], request: pytest.FixtureRequest
) -> None:
    pair = request.getfixturevalue(kind)
    found = []
    for model in (pair.torch, pair.onnx):
        engine = Engine(model, memory="4MB", max_tokens_per_step=24)
        prompts = [torch.tensor([row]) for row in PROMPTS]
        asked = [{"input_ids": row} for row in prompts] if kind == "t5" else PROMPTS
        each = [{"max_new_tokens": 4 + 3 * number} for number in range(len(PROMPTS))]
        found.append([[own.tokens for own in one.sequences] for one in engine.generate_batch(asked, each, **more)])
        assert engine.stats().running == 0
    assert found[0] == found[1]


def test_beginnings_that_are_alike_are_computed_once(llama: Pair) -> None:
    engine = Engine(llama.onnx, memory="4MB")
    first = engine.generate(PROMPTS[3], max_new_tokens=3)
    again = engine.generate(PROMPTS[3], max_new_tokens=3, logprobs=2)
    assert first.sequences[0].tokens == again.sequences[0].tokens and again.cached_tokens >= 16
    expected = Engine(llama.torch, memory="4MB").generate(PROMPTS[3], max_new_tokens=3, logprobs=2)
    pairs = zip(again.sequences[0].logprobs or [], expected.sequences[0].logprobs or [], strict=True)
    assert all(own.logprob == pytest.approx(other.logprob, abs=1e-4) for own, other in pairs)


def test_a_cache_goes_on_from_forward_to_generate_and_back(llama: Pair) -> None:
    ids, _ = batch()
    expected = llama.torch.generate(ids, max_new_tokens=6)
    begun = llama.onnx(ids[:, :7])
    assert torch.equal(llama.onnx.generate(ids, past_key_values=begun.past_key_values, max_new_tokens=6), expected)
    told = llama.onnx.generate(ids, max_new_tokens=3, return_dict_in_generate=True)
    later = llama.onnx(told.sequences[:, -1:], past_key_values=told.past_key_values)
    assert torch.equal(later.logits[:, -1].argmax(-1), expected[:, ids.shape[1] + 3])


@pytest.mark.parametrize(
    "how",
    [{"penalty_alpha": 0.5, "top_k": 3}, {"dola_layers": "low"}, {"assistant_early_exit": 1},
     {"output_attentions": True, "return_dict_in_generate": True}],
)  # fmt: skip
def test_what_looks_into_layers_is_refused_by_name(llama: Pair, how: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(how))):
        llama.onnx.generate(batch()[0], max_new_tokens=3, **how)
    with pytest.raises(MissingPartError, match="no graph of its own"):
        llama.onnx.model.layers[0](torch.zeros(1, 1, 16))


def test_folders_of_others_open(llama: Pair, t5: Pair, tmp_path: Path) -> None:
    ids, mask = batch()
    expected = llama.torch.generate(ids, attention_mask=mask, max_new_tokens=6)
    (tmp_path / "theirs" / "onnx").mkdir(parents=True)
    for name in ("config.json", "generation_config.json"):
        shutil.copy(llama.folder / name, tmp_path / "theirs")
    shutil.copy(llama.folder / "model.onnx", tmp_path / "theirs/onnx/model_quantized.onnx")
    told: list[dict[str, object]] = [
        {}, {"file_name": "model_quantized.onnx"}, {"file_name": "model_quantized.onnx", "subfolder": "onnx"},
        {"providers": ["CPUExecutionProvider"], "intra_op_num_threads": 1},
    ]  # fmt: skip
    for how in told:
        model = OnnxModel.from_pretrained(tmp_path / "theirs", **how)
        assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=6), expected)
    assert isinstance(omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs"), OnnxModel)
    with pytest.raises(RepoError, match=r"Did you mean 'model_quantized\.onnx'"):
        OnnxModel.from_pretrained(tmp_path / "theirs", file_name="model_quantised.onnx")
    with pytest.raises(UnknownArgumentError, match="'file_name'"):
        OnnxModel.from_pretrained(tmp_path / "theirs", file_nam="model.onnx")
    with pytest.raises(InputError, match="CPUExecutionProvider"):
        OnnxModel.from_pretrained(tmp_path / "theirs", providers=["CPUExecutionProvidr"])
    shutil.copy(llama.folder / "model.onnx", tmp_path / "theirs/onnx/model_fp16.onnx")
    with pytest.raises(RepoError, match="several graphs"):
        OnnxModel.from_pretrained(tmp_path / "theirs")
    # An encoder-decoder whose cache goes in and out in a file of its own, and one that keeps nothing.
    ids, mask = batch("right")
    expected = t5.torch.generate(ids, attention_mask=mask, max_new_tokens=6, num_beams=2)
    for gone in (("decoder_model_merged",), ("decoder_model_merged", "decoder_with_past_model")):
        shutil.copytree(t5.folder, tmp_path / str(len(gone)))
        for name in (*(f"{stem}.onnx" for stem in gone), "certificate.json"):
            (tmp_path / str(len(gone)) / name).unlink()
        model = OnnxModel.from_pretrained(tmp_path / str(len(gone)))
        assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=6, num_beams=2), expected)


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hashed: list[Path] = []
    whole = verified.digest
    monkeypatch.setattr(verified, "digest", lambda path: hashed.append(path) or whole(path))
    monkeypatch.setattr(verified, "SETTLED", -1.0)
    file = tmp_path / "file"
    file.write_bytes(b"one")

    def told() -> str:
        digests = verified.Digests()
        found = digests.of(file)
        digests.keep()
        return found

    first = told()
    assert told() == first and len(hashed) == 1
    file.write_bytes(b"two")
    assert told() != first and len(hashed) == 2
    monkeypatch.setattr(verified, "SETTLED", 1e6)  # what was just written may be written again within a clock's tick
    file.write_bytes(b"six")
    assert told() == told() and len(hashed) == 4


def test_a_server_answers_with_an_exported_writer(llama: Pair, tmp_path: Path) -> None:
    for name, folder in (("own", llama.folder.parent / "llama"), ("exported", llama.folder)):
        shutil.copytree(folder, tmp_path / name)
        words = {chr(97 + number % 26) + str(number // 26): number for number in range(61)}
        made = Tokenizer(models.WordLevel(words, unk_token="a0"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.save(str(tmp_path / name / "tokenizer.json"))
        told = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "a0"}
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(told))
    sources = tuple(ModelSource(name=name, source=str(tmp_path / name)) for name in ("own", "exported"))
    asked = {"prompt": "d0 e0 f0", "max_tokens": 6, "temperature": 0.9, "seed": 3, "n": 2, "stop": "q1"}
    with TestClient(create_app(ServeConfig(models=sources, memory="4MB"))) as client:
        for path in ("/v1/completions", "/pipelines/text-generation"):
            body = (
                asked
                if path.startswith("/v1")
                else {"inputs": "d0 e0", "parameters": {"max_new_tokens": 4, "do_sample": False}}
            )
            answers = [client.post(path, json={"model": one.name, **body}) for one in sources]
            told = [one.json()["choices"] if path.startswith("/v1") else one.json() for one in answers]
            assert [one.status_code for one in answers] == [200, 200] and told[0] == told[1]
        lines = [
            client.post("/v1/completions", json={"model": one.name, **asked, "stream": True}).text for one in sources
        ]
        texts = [[line.partition('"text":')[2].partition(",")[0] for line in one.splitlines()] for one in lines]
        assert texts[0] == texts[1] and len(texts[0]) > 6
