"""Modular files on the reference's own families: what its examples show, and models that run."""

from __future__ import annotations

import ast
import dis
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from export.modular_cases import Case, fill, load, write
from omniform import convert_modular
from reference import import_torchvision

import_torchvision()

SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip


def converted(folder: Path, name: str, text: str) -> Case:
    """A modular file that needs transformers, converted, and the result run."""
    path = write(folder, f"modular_{name}.py", text)
    (folder / "alone").mkdir(parents=True, exist_ok=True)
    found = convert_modular(path, folder / "alone" / f"modeling_{name}.py")
    result = load(found.path, f"generated_{folder.name}_{name}")
    return Case(found, None, result, folder)


def families(module: ModuleType) -> set[str]:
    """The files of families that a result's code imports."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {each for each in found if each.startswith("transformers.models.") and ".auto" not in each}


WHOLE = '''
import torch
from torch import nn

from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM, LlamaMLP, LlamaModel, LlamaPreTrainedModel, LlamaRMSNorm,
)


class MineConfig(LlamaConfig):
    """A Mine is wider."""

    rms_norm_eps: float = 1e-5
    gate_scale: float = 0.5
    mlp_bias: bool = True


class MineRMSNorm(LlamaRMSNorm):
    def __init__(self, hidden_size, eps=1e-6):
        super().__init__(hidden_size, eps)
        self.shift = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden_states):
        return super().forward(hidden_states) + self.shift


class MineMLP(LlamaMLP):
    def __init__(self, config):
        super().__init__(config)
        self.act_fn = nn.Tanh()
        self.scale = config.gate_scale

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) * self.scale


class MineAttention(LlamaAttention):
    def forward(self, hidden_states, **kwargs):
        out, weights = super().forward(hidden_states * 1.5, **kwargs)
        return out + hidden_states, weights


class MineDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config: MineConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.self_attn = MineAttention(config=config, layer_idx=layer_idx)
        self.mlp = MineMLP(config)
        self.input_layernorm = MineRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = MineRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class MinePreTrainedModel(LlamaPreTrainedModel):
    config_class = MineConfig


class MineModel(LlamaModel, MinePreTrainedModel):
    def __init__(self, config: MineConfig):
        super().__init__(config)
        self.layers = nn.ModuleList([MineDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = MineRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()


class MineForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        self.model = MineModel(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.post_init()

    def forward(self, input_ids=None, **kwargs):
        outputs = super().forward(input_ids=input_ids, **kwargs)
        outputs.logits = outputs.logits + self.bias
        return outputs


__all__ = ["MineConfig", "MineForCausalLM", "MineModel", "MinePreTrainedModel"]
'''


def test_a_whole_model_computes_what_inheritance_does(tmp_path: Path) -> None:
    found = converted(tmp_path, "mine", WHOLE)
    modular = load(tmp_path / "modular_mine.py", "modular_of_mine")
    assert families(found.result) == set() and "modular_mine" not in vars(found.result)
    one = modular.MineForCausalLM(modular.MineConfig(**SIZES))
    other = found.result.MineForCausalLM(found.result.MineConfig(**SIZES))
    assert found.result.MineConfig.model_type == "mine" and other.config.gate_scale == 0.5
    names = [list(each.state_dict()) for each in (one, other)]
    assert names[0] == names[1]
    fill(one)
    other.load_state_dict(one.state_dict())
    ids = torch.tensor([[1, 5, 9, 2], [3, 4, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    for kwargs in ({}, {"attention_mask": mask}, {"labels": ids}, {"inputs_embeds": None, "use_cache": True}):
        with torch.no_grad():
            first, second = one.eval()(ids, **kwargs), other.eval()(ids, **kwargs)
        assert torch.equal(first.logits, second.logits)
        assert first.loss is None or torch.equal(first.loss, second.loss)
    assert torch.equal(one.generate(ids[:1], max_new_tokens=4), other.generate(ids[:1], max_new_tokens=4))
    assert found.result.MineModel.__bases__ == (found.result.MinePreTrainedModel,)
    assert list(found.result.__all__) == ["MineConfig", "MineForCausalLM", "MineModel", "MinePreTrainedModel"]


def test_the_references_spelling_of_relative_imports(tmp_path: Path) -> None:
    text = WHOLE.replace("from transformers.models.llama.", "from ..llama.").replace(
        "from torch import nn\n",
        "from torch import nn\n\nfrom ...cache_utils import Cache\nfrom ...utils import logging\n",
    ).replace("def forward(self, x):", "def forward(self, x, cache: Cache | None = None):")  # fmt: skip
    found = converted(tmp_path, "mine", text + "\nlogger = logging.get_logger(__name__)\n")
    plain = converted(tmp_path / "plain", "mine", WHOLE)
    assert found.names()[:-2] == plain.names()[:-1]
    assert "from transformers.cache_utils import Cache" in found.text and "from transformers.utils import" in found.text


def test_in_the_installed_families_the_result_is_the_references(tmp_path: Path) -> None:
    """Its own modular files become its own modeling files, class by class."""
    from importlib.util import find_spec

    spec = find_spec("transformers")
    assert spec is not None and spec.origin is not None
    for name in ("gemma", "arcee", "olmo2"):
        folder = Path(spec.origin).parent / "models" / name
        found = convert_modular(folder / f"modular_{name}.py", tmp_path / f"{name}.py")
        ours = _classes(found.text)
        for path in (folder / f"modeling_{name}.py", folder / f"configuration_{name}.py"):
            theirs = _classes(path.read_text())
            assert theirs and {key: ours.get(key) for key in theirs} == theirs


def _classes(text: str) -> dict[str, str]:
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            for each in ast.walk(node):
                if isinstance(each, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(each) is not None:
                    each.body = each.body[1:] or [ast.Pass()]
            found[node.name] = ast.unparse(node)
    return found


EXAMPLES: dict[str, tuple[str, list[str], list[str]]] = {
    # What is imported for a class that had no use for it comes along, and what that needs.
    "add_function": ('''
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.zamba.modeling_zamba import ZambaAttention
class TestAttention(ZambaAttention):
    def forward(self):
        _ = apply_rotary_pos_emb(1, 1, 1, 1)
''', ["def rotate_half", "def apply_rotary_pos_emb", "class TestAttention(nn.Module)"], ["Zamba"]),
    "dummy_bert": ('''
import torch
from transformers.models.bert.modeling_bert import BertModel
class DummyBertModel(BertModel):
    def forward(self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None):
        return super().forward(input_ids)
''', ["class DummyBertModel(DummyBertPreTrainedModel)", 'base_model_prefix = "dummy_bert"'], [" BertModel"]),
    "from_uppercase_model": ('''
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
class FromUppercaseModelEncoderLayer(CLIPEncoderLayer):
    pass
''', ["class FromUppercaseModelMLP(", "class FromUppercaseModelAttention("], ["CLIP"]),
    "global_indexing": ('''
from transformers.modeling_utils import AttentionInterface
from transformers.models.llama.modeling_llama import LlamaAttention
def custom_flex(x, **kwargs):
    """Dummy function."""
    return x
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
# This statement goes with it.
ALL_ATTENTION_FUNCTIONS["flex_attention"] = custom_flex
class GlobalIndexingAttention(LlamaAttention):
    pass
''', ['# This statement goes with it.\nALL_ATTENTION_FUNCTIONS["flex_attention"] = custom_flex'],
     ["import ALL_ATTENTION_FUNCTIONS"]),
    "multimodal2": ('''
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPEncoderLayer, CLIPPreTrainedModel, CLIPVisionModel
class Multimodal2VisionMLP(CLIPMLP):
    pass
class Multimodal2VisionEncoderLayer(CLIPEncoderLayer):
    def __init__(self, config):
        super().__init__()
        self.mlp = Multimodal2VisionMLP(config)
class Multimodal2VisionPreTrainedModel(CLIPPreTrainedModel):
    pass
class Multimodal2VisionModel(CLIPVisionModel, Multimodal2VisionPreTrainedModel):
    _no_split_modules = ["Multimodal2VisionEncoderLayer"]
''', ["class Multimodal2VisionModel(Multimodal2VisionPreTrainedModel)", "class Multimodal2VisionMLP(nn.Module)"], []),
    "new_task_model": ('''
from typing import ClassVar
import torch.utils.checkpoint
from torch import nn
from transformers.models.paligemma.modeling_paligemma import PaliGemmaForConditionalGeneration
from ...cache_utils import Cache
class NewTaskModelForNewTask(PaliGemmaForConditionalGeneration):
    main_input_name: ClassVar[str] = "doc_input_ids"  # transformers-related
    def __init__(self, config):
        super().__init__(config=config)
        self.custom_text_proj = nn.Linear(self.config.text_config.hidden_size, self.config.embedding_dim)
        self.post_init()
    def forward(self, input_ids: torch.LongTensor = None, past_key_values: Cache | None = None, num_logits_to_keep=0):
        r"""
        Returns:
        """
        vlm_outputs = super().forward(input_ids=input_ids, past_key_values=past_key_values, return_dict=True)
        return (self.custom_text_proj(vlm_outputs.hidden_states[-1]),) + vlm_outputs
''', ['main_input_name: ClassVar[str] = "doc_input_ids"  # transformers-related', "class NewTaskModelModel(",
      "class NewTaskModelForNewTask(NewTaskModelPreTrainedModel, GenerationMixin)"],
     ["torch.utils.checkpoint", "super().forward"]),
    "roberta": ('''
import torch.nn as nn
from transformers.models.bert.modeling_bert import BertEmbeddings, BertModel
class RobertaEmbeddings(BertEmbeddings):
    def __init__(self, config):
        super().__init__(config)
        self.pad_token_id = config.pad_token_id
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size, config.pad_token_id)
class RobertaModel(BertModel):
    def __init__(self, config, add_pooling_layer=True):
        super().__init__(self, config)
''', ["self.embeddings = RobertaEmbeddings(config)", "class RobertaModel(RobertaPreTrainedModel)"],
     ["super().__init__(self"]),
    "switch_function": ('''
# Note that llama and cohere have different definitions for rotate_half
from transformers.models.cohere.modeling_cohere import rotate_half  # noqa
from transformers.models.llama.modeling_llama import LlamaAttention
class SwitchFunctionAttention(LlamaAttention):
    pass
''', ["x[..., ::2]", "# Note that llama and cohere have different"], ["x.shape[-1] // 2"]),
    "test_detr": ('''
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrModel
class TestDetrModel(DeformableDetrModel):
    pass
''', ["class TestDetrEncoderLayer(", "class TestDetrModelOutput("], ["DeformableDetr"]),
    "test_suffix": ('''
import torch.nn as nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
class TestSuffixDecoderLayer(nn.Module):
    pass
class TestSuffixLlamaDecoderLayer(LlamaDecoderLayer):
    pass
''', ["class TestSuffixLlamaMLP(", "class TestSuffixLlamaAttention("], []),
    "duplicated_method": ('''
from transformers.models.llama.configuration_llama import LlamaConfig
class DuplicatedMethodConfig(LlamaConfig):
    @property
    def vocab_size(self):
        return 45
    @vocab_size.setter
    def vocab_size(self, value):
        pass
''', ['model_type = "duplicated_method"', "def vocab_size(self, value)"], []),
    "new_imgproc_model": ('''
import torch
from transformers.models.blip.image_processing_blip import BlipImageProcessor
class ImgProcModelImageProcessor(BlipImageProcessor):
    def new_image_processing_method(self, pixel_values: torch.FloatTensor):
        return pixel_values / 2
''', ["def new_image_processing_method", "class ImgProcModelImageProcessor(TorchvisionBackend)"], ["Blip"]),
    "my_new_model2": ('''
from transformers.models.gemma.modeling_gemma import GemmaForSequenceClassification
from transformers.models.llama.configuration_llama import LlamaConfig
class MyNewModel2Config(LlamaConfig):
    r"""
    Only the docstring of the `GemmaModel` is another.
    """
class MyNewModel2ForSequenceClassification(GemmaForSequenceClassification):
    pass
''', ["Only the docstring of the `GemmaModel`", "class MyNewModel2RMSNorm(", 'model_type = "my_new_model2"'],
     ["LlamaConfig"]),
    "removed": ('''
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm
class RemovedConfig(LlamaConfig):
    mlp_bias = AttributeError()
    pretraining_tp: int = AttributeError()
    def validate_architecture(self):
        raise AttributeError("not of this one")
class RemovedRMSNorm(LlamaRMSNorm):
    def extra_repr(self):
        raise AttributeError()
''', ["attention_bias: bool = False"],
     ["mlp_bias", "pretraining_tp", "validate_architecture", "extra_repr", "AttributeError"]),
    "grandparent": ('''
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP
class GrandparentMLP(LlamaMLP):
    def __init__(self, config):
        nn.Module.__init__(self)
        self.up = nn.Linear(config.hidden_size, config.hidden_size)
class GrandparentAttention(LlamaAttention):
    def __init__(self, config):
        nn.Module.__init__()
        self.config = config
''', ["super().__init__()\n        self.up"], ["nn.Module.__init__"]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_references_examples_show(name: str, tmp_path: Path) -> None:
    text, there, gone = EXAMPLES[name]
    found = converted(tmp_path, name, text)
    body = found.text.split("\n", 2)[2]
    assert [each for each in there if each not in body] == []
    assert [each for each in gone if each in body] == []
    assert not families(found.result)
    assert _unknown(found.result) == set()
    if name in ("roberta", "removed"):  # a second time costs as much as the first, and large files show no more
        assert convert_modular(tmp_path / f"modular_{name}.py", found.found.path, check=True).drift == ""


def _unknown(module: ModuleType) -> set[str]:
    """Names that the functions of a module use and nobody defines."""
    known = set(vars(module)) | set(dir(__import__("builtins")))
    found: set[str] = set()
    stack = [compile(Path(str(module.__file__)).read_text(), "result", "exec")]
    while stack:
        code = stack.pop()
        found |= {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"} - known
        stack += [each for each in code.co_consts if hasattr(each, "co_code")]
    return found


def test_a_class_taken_from_the_library_itself_is_found_in_its_family(tmp_path: Path) -> None:
    found = converted(tmp_path, "mine", '''
import transformers
from transformers import LlamaMLP as Base, PreTrainedModel
from transformers.models.llama import modeling_llama, LlamaRMSNorm
class MineRMSNorm(LlamaRMSNorm):
    pass
class MineMLP(modeling_llama.LlamaMLP):
    pass
''')  # fmt: skip
    assert found.names() == ["MineRMSNorm", "MineMLP"] and "transformers.models" not in found.text
    assert sys.modules[found.result.__name__].MineRMSNorm(4).weight.shape == (4,)
