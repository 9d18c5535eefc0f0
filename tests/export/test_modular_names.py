"""The new model's name in the place of the family's, wherever it stands as a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.modular_cases import IDS, case, same
from omniform.export.modular.names import Renamer, camel, cased_as, family_of, prefix_for, snake

LLAMA = Renamer("llama", "Llama", "my_new", "MyNew")
CLIP = Renamer("clip", "CLIP", "my", "My", frozenset({"CLIPMLP", "CLIPTextModel"}))
OPT = Renamer("opt", "OPT", "my", "My", frozenset({"OPTModel"}))
XLM = Renamer("xlm_roberta", "XLMRoberta", "my_new", "MyNew")


@pytest.mark.parametrize(
    ("renamer", "old", "new"),
    [
        (LLAMA, "LlamaModel", "MyNewModel"),
        (LLAMA, "a LlamaMLP, llama_mlp and LLAMA_MLP", "a MyNewMLP, my_new_mlp and MY_NEW_MLP"),
        (LLAMA, "LLaMA of meta-llama/Llama-2-7b", "MyNew of meta-my_new/MyNew-2-7b"),
        (LLAMA, "llama3, CodeLlama, llamas", "llama3, CodeLlama, llamas"),
        (CLIP, "CLIPMLP CLIPTextModel CLIP_START_DOC clip_loss", "MyMLP MyTextModel MY_START_DOC my_loss"),
        (CLIP, "eclipse clipping CLIPPING", "eclipse clipping CLIPPING"),
        (OPT, "OPTModel of opt", "MyModel of my"),
        (OPT, "no option, no Optional, no OPTIONAL", "no option, no Optional, no OPTIONAL"),
        (XLM, "xlm-roberta", "my-new"),
        (XLM, "xlm-roberta-base and XLMRobertaModel", "xlm-roberta-base and MyNewModel"),
    ],
)  # fmt: skip
def test_a_family_is_renamed_where_it_is_a_word(renamer: Renamer, old: str, new: str) -> None:
    assert renamer.text(old) == new


def test_spellings() -> None:
    assert [snake(each) for each in ("MyNewModel2", "CLIPText", "GPTNeoX")] == [
        "my_new_model2",
        "clip_text",
        "gpt_neo_x",
    ]
    assert camel("my_new_model2") == "MyNewModel2"
    assert cased_as("gpt_neox", ["GPTNeoXMLP", "GPTNeoXModel", "Optional"]) == "GPTNeoX"
    assert cased_as("qwen2_5_vl", ["Qwen2_5_VLModel"]) == "Qwen2_5_VL"
    assert cased_as("exaone4_5", ["Exaone4_5_Model", "Exaone4_5_Config"]) == "Exaone4_5_"
    assert cased_as("opt", ["Optional"]) is None
    assert family_of("my_llama", ["LlamaMLP", "LlamaModel"]) == "llama"
    assert family_of("helpers", ["Attention", "Norm"]) is None
    assert prefix_for("MyTextModel", "LlamaModel", "Llama") == "MyText"
    assert prefix_for("TestSuffixLlamaDecoderLayer", "LlamaDecoderLayer", "Llama") == "TestSuffixLlama"
    assert prefix_for("ColPaliForRetrieval", "PaliGemmaForConditionalGeneration", "PaliGemma") is None


def test_everything_that_a_class_needs_comes_along_under_the_new_name(tmp_path: Path) -> None:
    found = case(tmp_path, "deep_thought", '''
from modeling_tiny import TinyForWords
class DeepThoughtForWords(TinyForWords):
    pass
''')  # fmt: skip
    assert "Tiny" not in found.text.replace("modeling_tiny", "")
    assert '"deep_thought"' in found.text and "What a DeepThought model is made of." in found.text
    assert found.members("DeepThoughtBase")["parts"] == "parts = ['DeepThoughtLayer']"
    names = found.names()
    assert names.index("rotate") < names.index("DeepThoughtMixer") < names.index("DeepThoughtLayer")
    assert names[-1] == "DeepThoughtForWords" and names.index("DeepThoughtBase") < names.index("DeepThoughtModel")
    config = found.result.DeepThoughtConfig()
    same(found.modular.DeepThoughtForWords(config), found.result.DeepThoughtForWords(config), IDS)


def test_a_longer_prefix_and_a_prefix_before_the_old_one(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_tiny import TinyModel
class MineTextModel(TinyModel):
    pass
''')  # fmt: skip
    assert {"MineTextLayer", "MineTextConfig", "MineTextModel"} <= set(found.names())
    assert found.result.MineTextConfig().model_type == "mine_text"
    found = case(tmp_path / "b", "mine", '''
from modeling_tiny import TinyLayer
class MineLayer:
    pass
class MineTinyLayer(TinyLayer):
    pass
''')  # fmt: skip
    assert {"MineTinyNorm", "MineTinyMLP", "MineTinyLayer", "MineLayer"} <= set(found.names())


def test_a_prefix_that_would_make_two_classes_one_is_not_taken(tmp_path: Path) -> None:
    source = """
    from torch import nn
    class CLAPMLP(nn.Module):
        pass
    class CLAPVisionMLP(nn.Module):
        pass
    class CLAPLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = CLAPMLP()
            self.vision = CLAPVisionMLP()
    """
    found = case(tmp_path, "mine", '''
from modeling_clap import CLAPLayer
class MineVisionLayer(CLAPLayer):
    pass
''', files={"modeling_clap.py": source})  # fmt: skip
    assert {"MineMLP", "MineVisionMLP", "MineVisionLayer"} == set(found.names())


def test_the_prefix_of_most_classes_is_taken_and_others_keep_theirs(tmp_path: Path) -> None:
    found = case(tmp_path, "mine", '''
from modeling_tiny import TinyLayer, TinyMLP, TinyMixer, TinyNorm
class MineTextMLP(TinyMLP):
    pass
class MineTextMixer(TinyMixer):
    pass
class MineNorm(TinyNorm):
    pass
class MineTextLayer(TinyLayer):
    pass
''')  # fmt: skip
    layer = found.members("MineTextLayer")["__init__"]
    assert "MineTextMLP" in layer and "MineTextMixer" in layer and "MineTextNorm" in layer


def test_two_families_each_get_the_prefix_and_their_own_parts(tmp_path: Path) -> None:
    other = """
    import torch
    from torch import nn
    from torch.nn import functional as F
    class OtherNorm(nn.Module):
        def __init__(self, size, eps=1e-5):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(size))
        def forward(self, x):
            return F.layer_norm(x, x.shape[-1:]) * self.weight
    def half(x):
        return x / 2
    class OtherGate(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.norm = OtherNorm(size)
        def forward(self, x):
            return half(self.norm(x))
    """
    found = case(tmp_path, "mine", '''
from modeling_tiny import TinyConfig, TinyLayer
from modeling_other import OtherGate
class MineGate(OtherGate):
    pass
class MineLayer(TinyLayer):
    def __init__(self, config, index):
        super().__init__(config, index)
        self.gate = MineGate(config.hidden_size)
    def forward(self, x, mask=None):
        return self.gate(super().forward(x, mask))
''', files={"modeling_other.py": other})  # fmt: skip
    from export.modular_cases import X

    config = found.modular.TinyConfig()
    same(found.modular.MineLayer(config, 0), found.result.MineLayer(config, 0), X)
    # Two norms and two functions of one name: each class has that of its own family.
    assert {"MineNorm", "half"} <= set(found.names())
    assert len([name for name in found.names() if name.endswith("Norm")]) == 2
    assert len([name for name in found.names() if name.endswith("half")]) == 2


def test_what_two_families_have_alike_is_written_once(tmp_path: Path) -> None:
    from export.modular_cases import TINY

    found = case(tmp_path, "mine", '''
from modeling_tiny import TinyNorm, TinyMLP
from modeling_twin import TwinMixer
class MineMLP(TinyMLP):
    pass
class MineMixer(TwinMixer):
    pass
''', files={"modeling_twin.py": TINY.replace("Tiny", "Twin").replace("tiny", "twin")})  # fmt: skip
    assert found.names().count("MineConfig") == 1 and not [name for name in found.names() if "Twin" in name]


def test_names_that_are_not_the_familys_stay(tmp_path: Path) -> None:
    source = """
    import torch
    from torch import nn
    class ClampConfig:
        clamp_size = 3
    class ClampLayer(nn.Module):
        def __init__(self, config: ClampConfig):
            super().__init__()
            self.clamp_layer = nn.Linear(config.clamp_size, config.clamp_size)
        def forward(self, x, clamp=None):
            return torch.clamp(self.clamp_layer(x).clamp(min=0), max=2)
    """
    found = case(tmp_path, "mine", '''
from modeling_clamp import ClampConfig, ClampLayer
class MineConfig(ClampConfig):
    pass
class MineLayer(ClampLayer):
    pass
''', files={"modeling_clamp.py": source})  # fmt: skip
    forward = found.members("MineLayer")["forward"]
    assert "torch.clamp(" in forward and "self.mine_layer" in forward and "mine=None" in forward
    assert found.result.MineConfig.mine_size == 3


def test_a_file_of_no_family_keeps_its_names(tmp_path: Path) -> None:
    source = """
    from torch import nn
    class Norm(nn.LayerNorm):
        pass
    class Attention(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.norm = Norm(size)
        def forward(self, x):
            return self.norm(x)
    """
    found = case(tmp_path, "mine", '''
import blocks
class MineAttention(blocks.Attention):
    def forward(self, x):
        return super().forward(x) * 2
''', files={"blocks.py": source})  # fmt: skip
    from export.modular_cases import X

    same(found.modular.MineAttention(8), found.result.MineAttention(8), X)
    assert found.names() == ["Norm", "MineAttention"]


def test_a_file_that_is_called_as_its_class_is_no_family(tmp_path: Path) -> None:
    source = "class AttentionMask:\n    pass\nclass Attention:\n    mask = AttentionMask\n"
    found = case(tmp_path, "mine", """
from attention import Attention
class MineAttention(Attention):
    pass
""", files={"attention.py": source})  # fmt: skip
    assert found.names() == ["AttentionMask", "MineAttention"]
