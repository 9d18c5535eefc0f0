"""CodeGen (https://arxiv.org/abs/2203.13474): GPT-J, its projections in one matrix as four accelerators held them."""

from __future__ import annotations

from omniform.architectures.family import Builder
from omniform.core.reader import ConfigReader
from omniform.models import gptj
from omniform.weights.keymap import KeyMap
from omniform.weights.links import interleaved

SHARDS = 4
"""How many accelerators that were."""


def read(r: ConfigReader) -> gptj.Config:
    """Read a config; every key is used, declared inert or refused."""
    c = gptj.read(r)
    if c.text.heads.queries % SHARDS:
        raise r.fail("n_head", f"a multiple of {SHARDS}", c.text.heads.queries)
    return c


def keys(c: gptj.Config) -> KeyMap:
    """Queries, values and keys of each accelerator lie one after another."""
    each = c.text.dim // SHARDS
    parts = {f"layers.{{i}}.self_attn.{name}_proj": each for name in "qvk"}
    return gptj.KEYS | KeyMap(interleaved("h.{i}.attn.qkv_proj", SHARDS, parts))


FAMILY = (
    Builder("codegen", read, keys, prefix="transformer")
    .public(
        config="CodeGenConfig", padding="learned", tokenizer="GPT2Tokenizer", row="causal LM", usual={"n_ctx": 2048}
    )
    .base("CodeGenModel", gptj.build)
    .head("CodeGenForCausalLM", "causal-lm", gptj.heads.causal_lm)
    .done()
)
