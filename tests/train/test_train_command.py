"""``omniform train``: every task from a file, its forecast, its errors, going on, adapters."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import omniform
from checkpoints import picture_checkpoint, text_checkpoint
from inputs import test_tokenizers_folders as folders
from omniform.cli.main import main
from omniform.train import scores
from omniform.train.tasks.base import NAMES
from reference import transformers

ENCODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = {"model_type": "bert", **ENCODER, "max_position_embeddings": 64}
T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
LLAMA = {"model_type": "llama", **ENCODER, "max_position_embeddings": 64}
VIT = {"model_type": "vit", **ENCODER, "image_size": 16, "patch_size": 8}
TOWER = {**ENCODER, "projection_dim": 8}
RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 8], "depths": [1, 1, 1], "layer_type": "basic",
    "out_features": ["stage3"],
}  # fmt: skip
DETR = {
    "model_type": "detr", "backbone_config": RESNET, "use_timm_backbone": False, "d_model": 16, "encoder_layers": 1,
    "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16, "num_queries": 3,
}  # fmt: skip
WHISPER = {
    "model_type": "whisper", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_source_positions": 50,
    "max_target_positions": 32, "num_mel_bins": 80,
}  # fmt: skip
WAVES = {
    "model_type": "wav2vec2", **ENCODER, "conv_dim": [8, 8], "conv_stride": [5, 8], "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
Row = Mapping[str, object]


def picture(folder: Path, index: int) -> str:
    pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{index}.png")
    return f"{index}.png"  # beside the recipe


def sound(folder: Path, index: int) -> str:
    with wave.open(str(folder / f"{index}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.random.default_rng(index).integers(-999, 999, 8000, dtype=np.int16).tobytes())
    return f"{index}.wav"


def clip_folder(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders.clip(folder / "tokenizer"))
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPProcessor(transformers.CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)


def whisper_folder(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders.whisper(folder / "tokenizer"))
    tokenizer.pad_token = tokenizer.eos_token
    extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)


def letters_folder(folder: Path) -> None:
    folder.mkdir()
    letters = {
        token: index
        for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"])
    }
    (folder / "vocab.json").write_text(json.dumps(letters))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    transformers.Wav2Vec2Processor(transformers.Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)


def letters_model(folder: Path) -> None:
    """A checkpoint without a head, as those that were trained on speech alone."""
    letters_folder(folder)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**WAVES)).save_pretrained(folder)


def llava_folder(folder: Path) -> None:
    processor = transformers.AutoProcessor.from_pretrained(picture_checkpoint(folder))
    processor.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    processor.save_pretrained(folder)


@dataclass(frozen=True)
class Case:
    task: str
    rows: Callable[[Path, int], Row]
    model: object
    processor: Callable[[Path], object] | object = None
    options: Row = field(default_factory=dict)
    told: str = "eval_loss"
    size: Callable[[Path], int] | None = None


def words(index: int) -> str:
    return " ".join(("hello", "world", "the", "dog", "fox")[: 2 + index % 4])


def talk(folder: Path, index: int, pictures: bool = True) -> Row:
    ask = [*([{"type": "image"}] if pictures else []), {"type": "text", "text": "what?"}]
    answer = [{"type": "text", "text": words(index)}]
    said = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return {"messages": said, "images": [picture(folder, index)]} if pictures else {"messages": said}


def found(folder: Path, index: int) -> Row:
    return {"image": picture(folder, index), "objects": {"bbox": [[2, 2, 9, 8 + index]], "category": ["cat"]}}


CASES = [
    Case("text-classification", lambda _, i: {"sentence": words(i), "label": ("bad", "good")[i % 2]}, BERT,
         told="eval_accuracy"),
    Case("token-classification", lambda _, i: {"tokens": words(i).split(), "ner_tags": ["B-A", *["O"] * (1 + i % 4)]},
         BERT, told="eval_f1"),
    Case("summarization", lambda _, i: {"document": words(i), "summary": words(i)[:5]}, T5, told="eval_rougeL",
         options={"max_target_length": 6}),
    Case("translation", lambda _, i: {"translation": {"de": words(i), "en": words(i)[::-1]}}, T5, told="eval_bleu",
         options={"source_lang": "de", "target_lang": "en", "max_target_length": 6}),
    Case("causal-lm", lambda _, i: {"text": words(i)}, LLAMA, options={"max_length": 32}),
    Case("causal-lm", lambda _, i: {"text": words(i)}, LLAMA, options={"packing": False}),
    Case("masked-lm", lambda _, i: {"text": words(i)}, BERT, folders.bert, options={"mask": 0.5}),
    Case("question-answering", lambda _, i: {"question": "the dog", "context": words(i),
         "answers": {"text": ["world"], "answer_start": [6]}}, BERT, folders.bert, told="eval_exact"),
    Case("image-classification", lambda f, i: {"image": picture(f, i), "label": ("cat", "dog")[i % 2]}, VIT,
         {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}, told="eval_accuracy"),
    Case("object-detection", found, DETR,
         {"image_processor_type": "DetrImageProcessor", "size": {"height": 32, "width": 32}}),
    Case("speech-recognition", lambda f, i: {"audio": sound(f, i), "text": words(i)}, WHISPER, whisper_folder,
         told="eval_wer", options={"max_target_length": 8}),
    Case("speech-recognition", lambda f, i: {"audio": sound(f, i), "text": words(i)}, WAVES, letters_folder,
         told="eval_wer"),
    Case("speech-recognition", lambda f, i: {"audio": sound(f, i), "sentence": words(i)}, letters_model,
         told="eval_wer"),
    Case("image-text", lambda f, i: {"image": picture(f, i), "caption": words(i)},
         {"model_type": "clip", "text_config": TOWER, "vision_config": {**TOWER, "image_size": 16, "patch_size": 8},
          "projection_dim": 8}, clip_folder),
    Case("chat", talk, llava_folder),
]  # fmt: skip


def write(folder: Path, case: Case, count: int = 8, **changes: object) -> Path:
    """A recipe and its data."""
    rows = [json.dumps(case.rows(folder, index)) for index in range(count)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    recipe: dict[str, object] = {"task": case.task, "data": {"train": "rows.jsonl", "eval": 0.5}}
    model = case.model
    if callable(model):
        model(folder / "model")
        model = "model"
    elif callable(case.processor):
        case.processor(folder / "processor")
        tokenizer = omniform.AutoTokenizer.from_pretrained(folder / "processor")
        known = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id or 1, "pad_token_id": 0}
        assert isinstance(model, dict)
        if case.task == "image-text":
            model = {**model, "text_config": {**model["text_config"], **known}}
        elif model["model_type"] == "whisper":
            start = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
            model = {**model, **known, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": start,
                     "decoder_start_token_id": start, "suppress_tokens": [], "begin_suppress_tokens": []}  # fmt: skip
    recipe["model"] = model
    if case.processor is not None:
        recipe["processor"] = "processor" if callable(case.processor) else case.processor
    recipe["options"] = dict(case.options)
    recipe["arguments"] = {
        "output_dir": str(folder / "out"), "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3,
        "per_device_eval_batch_size": 3, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({**recipe, **changes}))
    return file


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What is said of a mistake: one line on stderr, exit code 2."""
    assert main(["train", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "error" in line]
    assert not out and len(lines) == 1 and lines[0].startswith("omniform: error: ")
    return lines[0]


def test_every_task_is_tried() -> None:
    assert {case.task for case in CASES} == set(NAMES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_tasks(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, case)
    assert main(["train", str(file), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "steps         2 of 2 examples" in told and "activations" in told and not (tmp_path / "out").exists()
    assert main(["train", str(file)]) == 0
    told = capsys.readouterr().out
    assert f"{case.task}: " in told and "trained: 2 steps" in told and f"\n{case.told}: " in told
    assert "before" in told and "after" in told and f"model: {tmp_path / 'out'}" in told
    assert (tmp_path / "out" / "model.safetensors").exists() and (tmp_path / "out" / "eval_results.json").exists()


TEXT, STORY = CASES[0], CASES[4]


def test_a_value_instead_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, TEXT)
    changes = ("arguments.max_steps=3", "arguments.per_device_train_batch_size=1")
    assert main(["train", changes[0], str(file), "--dry-run", changes[1]]) == 0
    assert "steps         3 of 1 examples" in capsys.readouterr().out
    assert main(["train", str(file), "data.eval=null", "arguments.learning_rate=1e-4", "arguments.max_steps=1"]) == 0
    told = capsys.readouterr().out
    assert "trained: 1 steps" in told and "eval_" not in told
    assert omniform.AutoTokenizer.from_pretrained(tmp_path / "out")("hello")["input_ids"]


def test_going_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, STORY)
    whole, parts = (f"arguments.output_dir={tmp_path / name}" for name in ("whole", "parts"))
    saves = ["arguments.save_strategy=steps", "arguments.save_steps=2", "arguments.lr_scheduler_type=constant"]
    assert "no checkpoint" in refused(capsys, file, parts, "--resume")
    assert main(["train", str(file), whole, *saves, "arguments.max_steps=4"]) == 0
    assert main(["train", str(file), parts, *saves]) == 0
    capsys.readouterr()
    assert main(["train", str(file), parts, *saves, "--resume", "arguments.max_steps=4"]) == 0
    told = capsys.readouterr().out
    assert "trained: 4 steps" in told and "before" not in told and "after" in told
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == other


def test_resume_is_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from omniform.train import verify

    given: list[object] = []

    def quick(make: Callable[[], omniform.Trainer]) -> verify.ResumeReport:
        given.append(make())
        return verify.ResumeReport(len(given) < 2, 8, 4, cause="The moon.")

    monkeypatch.setattr(verify, "verify_resume", quick)  # four processes; tests/train/test_train_verify.py runs them
    file = write(tmp_path, TEXT)
    assert main(["train", str(file), "--verify-resume"]) == 0
    assert "the same bit for bit" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["train", str(file), "--verify-resume"])
    assert ended.value.code == 1 and "The moon." in capsys.readouterr().out
    first, second = ([p.detach().clone() for p in trainer.model.parameters()] for trainer in given)
    assert all(bool((a == b).all()) for a, b in zip(first, second, strict=True))  # it begins alike each time


def test_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, Case("causal-lm", STORY.rows, text_checkpoint, options={"max_length": 32}),
                 adapter={"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"})  # fmt: skip
    assert main(["train", str(file), "loading.dtype=float32"]) == 0
    assert "128 trained parameters" in capsys.readouterr().out
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert "Did you mean 'lora_alpha'" in refused(capsys, file, "adapter.lora_alfa=3")


WRONG: Sequence[tuple[str, str]] = (
    ("task=text-clasification", "Did you mean 'text-classification'"),
    ("tusk=1", "Did you mean 'task'"),
    ("data.trian=a", "Did you mean 'train'"),
    ("arguments.learning_rat=1", "Did you mean 'learning_rate'"),
    ("arguments.learning_rate=fast", "learning_rate"),
    ("arguments.warmup_steps=[", "no YAML"),
    ("options.max_lenght=3", "Did you mean 'max_length'"),
    ("options.max_length=long", "options: max_length"),
    ("data.columns.text=sentense", "Did you mean 'sentence'"),
    ("data.columns.texts=sentence", "Did you mean 'text'"),
    ("data.columns.label=nothing", "no example has a label"),
    ("data.train=there.csv", "no such file"),
    ("data.train=empty.jsonl", "data: train"),
    ("data.train=broken.jsonl", "data: train"),
    ("data.eval=other.jsonl", "data: eval"),
    ("data.eval=7", "no share"),
    ("data.limit=0", "data: limit"),
    ("model.model_type=brt", "brt"),
    ("model.hidden_size=15", "hidden_size"),
    ("model=nowhere/at-all", "nowhere/at-all"),
    ("model=./nowhere", "nowhere"),
    ("arguments.load_best_model_at_end=true arguments.eval_strategy=epoch", "load_best_model_at_end"),
)


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Case(TEXT.task, lambda f, i: {**TEXT.rows(f, i), "nothing": None}, BERT)
    file = write(tmp_path, rows)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"sentence": ')
    (tmp_path / "other.jsonl").write_text('{"line": "a", "label": "bad"}')
    for change, told in WRONG:
        assert told in refused(capsys, file, *change.split()), change
    assert "no-such.yaml" in refused(capsys, tmp_path / "no-such.yaml")
    assert "Did you mean --dry-run" in refused(capsys, file, "--dry-rum")
    assert "changes nothing" in refused(capsys, file, "word")
    assert "not allowed with" in refused(capsys, file, "--dry-run", "--resume")
    for text, told in (("task: [", "no YAML"), ("hello", "a mapping"), ("task: chat", "keys are missing")):
        file.write_text(text)
        assert told in refused(capsys, file), text
    assert not (tmp_path / "out").exists()


def test_scores() -> None:
    pairs = [(["the", "cat", "sat"], ["the", "cat", "sat", "down"])]
    assert scores.rouge(pairs) == pytest.approx({"rouge1": 6 / 7, "rougeL": 6 / 7})
    assert scores.word_errors(pairs) == {"wer": 0.25}
    same = [(["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"])]
    assert scores.bleu(same)["bleu"] == pytest.approx(100) and scores.bleu(pairs)["bleu"] == 0
    longer = [(["the", "cat", "sat", "on", "the", "mat"], ["the", "cat", "sat", "on", "a", "mat"])]
    # 5/6, 3/5, 2/4 and 1/3 of one, two, three and four words are shared.
    assert scores.bleu(longer)["bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    tags = ["B-A", "I-A", "O", "I-B", "B-B", "I-A"]
    assert scores.spans(tags) == {(0, 2, "A"), (3, 4, "B"), (4, 5, "B"), (5, 6, "A")}
