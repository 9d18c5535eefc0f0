"""Class bodies of a user's own, written once: derived from the bases of whichever library is handed in."""

# ruff: noqa: RUF012
from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn


def table(size: int) -> torch.Tensor:
    """Vectors of 64 places."""
    return (torch.arange(64.0)[:, None] * (torch.arange(1.0, size + 1) / size)).sin()


def classes(lib) -> SimpleNamespace:
    """Configs, models and heads as a user of the ecosystem writes them."""
    ModelOutput = lib.utils.ModelOutput if lib.__name__ == "transformers" else lib.ModelOutput

    class InnerConfig(lib.PretrainedConfig):
        model_type = "own-inner"
        base_config_key = "inner_config"

        def __init__(self, width=8, rate=0.5, **kwargs):
            self.width, self.rate = width, rate
            super().__init__(**kwargs)

    class OldConfig(lib.PretrainedConfig):
        model_type = "own-old"
        attribute_map = {"num_hidden_layers": "n_layers"}
        sub_configs = {"inner_config": InnerConfig}
        keys_to_ignore_at_inference = ["past_key_values"]

        def __init__(self, hidden_size=64, n_layers=2, inner_config=None, limit=float("inf"), **kwargs):
            if inner_config is None or isinstance(inner_config, dict):
                inner_config = InnerConfig(**(inner_config or {}))
            self.inner_config = inner_config
            self.hidden_size = hidden_size
            super().__init__(**kwargs)
            self.n_layers = n_layers
            self.limit = limit

        @property
        def head_dim(self):
            return self.hidden_size // 4

    class NewConfig(lib.PretrainedConfig):
        model_type = "own-new"
        hidden_size: int = 64
        act: str = "gelu"
        names: list | None = None

        def __post_init__(self, **kwargs):
            self.twice = self.hidden_size * 2
            super().__post_init__(**kwargs)

    class LMConfig(lib.PretrainedConfig):
        model_type = "own-lm"
        attribute_map = {"num_hidden_layers": "num_layers"}

        def __init__(self, vocab_size=37, hidden_size=16, num_layers=2, tie_word_embeddings=True, scale=0.4, **kwargs):
            self.vocab_size, self.hidden_size, self.num_layers = vocab_size, hidden_size, num_layers
            self.scale = scale
            super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    class Base(lib.PreTrainedModel):
        config_class = LMConfig
        base_model_prefix = "trunk"
        _no_split_modules = ["Block"]

        def _init_weights(self, module):
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(mean=0.0, std=self.config.scale)
                if module.bias is not None:
                    module.bias.data.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.data.normal_(mean=0.0, std=1.0)
            elif isinstance(module, Trunk):  # the reference builds on the meta device and asks for buffers here
                module.places.copy_(table(self.config.hidden_size))

    class Block(nn.Module):
        """One head of attention over keys that a cache keeps, and an MLP."""

        def __init__(self, config, number):
            super().__init__()
            size, self.number = config.hidden_size, number
            self.norm = nn.LayerNorm(size)
            self.qkv = nn.Linear(size, 3 * size)
            self.out = nn.Linear(size, size, bias=False)

        def forward(self, x, allowed, past):
            q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
            if past is not None:
                k, v = (t[:, 0] for t in past.update(k[:, None], v[:, None], self.number))
            scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            return x + self.out(scores.masked_fill(~allowed, -1e9).softmax(-1) @ v)

    class Trunk(Base):
        def __init__(self, config):
            super().__init__(config)
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
            self.layers = nn.ModuleList([Block(config, i) for i in range(config.num_layers)])
            self.gain = nn.Parameter(torch.full((config.hidden_size,), 1.5))
            self.register_buffer("places", table(config.hidden_size), persistent=False)
            self.register_buffer("counts", torch.arange(3.0))
            self.post_init()

        def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, position_ids=None):
            before = 0 if past_key_values is None else past_key_values.get_seq_length()
            new = input_ids.shape[1]
            if attention_mask is None:
                attention_mask = torch.ones(input_ids.shape[0], before + new, dtype=torch.long)
            if position_ids is None:
                position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, before:]
            causal = torch.ones(new, before + new, dtype=torch.bool).tril(before)
            allowed = causal[None] & attention_mask[:, None].bool()
            x = self.embed_tokens(input_ids) + self.places[position_ids]
            for layer in self.layers:
                x = layer(x, allowed, past_key_values)
            return x * self.gain

    @dataclass
    class LMOutput(ModelOutput):
        loss: torch.Tensor | None = None
        logits: torch.Tensor | None = None
        past_key_values: object | None = None

    class LM(Base, lib.GenerationMixin):
        _tied_weights_keys = {"lm_head.weight": "trunk.embed_tokens.weight"}

        def __init__(self, config):
            super().__init__(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.trunk = Trunk(config)
            self.post_init()

        def get_output_embeddings(self):
            return self.lm_head

        def forward(
            self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, position_ids=None, labels=None,
            return_dict=None, **kwargs,
        ):  # fmt: skip
            x = self.trunk(input_ids, attention_mask, past_key_values, use_cache, position_ids)
            logits = self.lm_head(x)
            loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            if return_dict is False:
                return tuple(value for value in (loss, logits, past_key_values) if value is not None)
            return LMOutput(loss, logits, past_key_values)

    class Plain(Base, lib.GenerationMixin):
        """No cache, no mask: a bag of the last two tokens, read anew in every step."""

        def __init__(self, config):
            super().__init__(config)
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
            self.head = nn.Linear(config.hidden_size, config.vocab_size)
            self.post_init()

        def prepare_inputs_for_generation(self, input_ids, **kwargs):
            return {"input_ids": input_ids}

        def forward(self, input_ids, return_dict=None):
            x = self.embed_tokens(input_ids)
            x = x + 0.5 * nn.functional.pad(x, (0, 0, 1, -1)) + 0.1 * x.cumsum(1)
            return LMOutput(logits=self.head(x))

    class Classifier(Base):
        _keys_to_ignore_on_load_unexpected = [r"extra\."]
        _keys_to_ignore_on_save = [r"scratch"]
        _keys_to_ignore_on_load_missing = [r"scratch"]

        def __init__(self, config):
            super().__init__(config)
            self.trunk = Trunk(config)
            self.score = nn.Linear(config.hidden_size, config.num_labels)
            self.register_buffer("scratch", torch.full((2,), 7.0))
            self.post_init()

        def forward(self, input_ids, attention_mask=None):
            return {"logits": self.score(self.trunk(input_ids, attention_mask)[:, -1])}

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, type)})
