"""TRL's own trainers on our models: the losses are those of the reference's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "citizens"))
from citizens import CITIZENS
from reference import omniform, saved_reference, transformers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
peft = pytest.importorskip("peft")

ROWS = {
    "sft": [{"text": "a b c d e f g"}, {"text": "h i j k l"}] * 4,
    "dpo": [{"prompt": "a b", "chosen": " c d", "rejected": " e f"}] * 8,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trl")
    kind = transformers.LlamaForCausalLM
    saved_reference(kind, kind.config_class(**CITIZENS["llama"].config), folder)
    tokens = pytest.importorskip("tokenizers")
    words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *map(chr, range(97, 123))])}
    made = tokens.Tokenizer(tokens.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokens.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return folder


def losses(library, base, folder, way, adapter):
    config, trainer = (trl.SFTConfig, trl.SFTTrainer) if way == "sft" else (trl.DPOConfig, trl.DPOTrainer)
    arguments = config(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False,
        max_length=16, logging_steps=1, save_strategy="no", learning_rate=1e-2, disable_tqdm=True,
    )  # fmt: skip
    trained = trainer(
        model=library.AutoModelForCausalLM.from_pretrained(base),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(ROWS[way]),
        processing_class=transformers.AutoTokenizer.from_pretrained(base),
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM") if adapter else None,
    )
    trained.train()
    trained.model.save_pretrained(folder / "saved")
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("way", ["sft", "dpo"])
def test_losses_are_the_reference_s(way, adapter, base, tmp_path):
    ours = losses(omniform, base, tmp_path / "ours", way, adapter)
    theirs = losses(transformers, base, tmp_path / "theirs", way, adapter)
    assert len(ours) == 3 and ours[2] < ours[0]
    assert ours == pytest.approx(theirs, abs=1e-3)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(base if adapter else tmp_path / "ours/saved")
    if adapter:
        peft.PeftModel.from_pretrained(loaded, tmp_path / "ours/saved")
