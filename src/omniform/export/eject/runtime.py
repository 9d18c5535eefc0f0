"""What the file has in place of an engine: a cache, and how tokens are written. Plain text, as it goes in."""

from __future__ import annotations

CACHE = '''
class Cache:
    """What the layers keep of all tokens so far, by the number of the layer's part that keeps it.

    Attributes:
        length: how many tokens each row has, padding included.
    """

    def __init__(self) -> None:
        self.length = 0
        self.kept: dict[int, tuple[Tensor, ...]] = {}
'''

EXTEND = '''
    def extend(self, slot: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Append keys and values of new tokens; returns all so far. Shape: [B, H, T, D] each."""
        old = self.kept.get(slot)
        if old is not None:
            new = tuple(torch.cat(pair, dim=2) for pair in zip(old, new, strict=True))
        self.kept[slot] = new
        return new
'''

FIXED = '''
    def fixed(self, slot: int) -> State:
        """A state of fixed size."""
        return self.states.setdefault(slot, State())
'''

CROSS = '''
    def memory(self, slot: int) -> tuple[Tensor, ...] | None:
        """Keys and values of the encoder's output; None before the first step. Shape: [B, H, S, D] each."""
        return self.kept.get(slot)
'''

KEEP = '''
    def keep(self, slot: int, *parts: Tensor) -> None:
        """Replace what is kept."""
        self.kept[slot] = parts
'''

CHOOSE = '''
def choose(logits: Tensor, temperature: float) -> Tensor:
    """The next token of each row: the likeliest, or one that is drawn. Shape: [B, V] to [B, 1]."""
    if not temperature:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(-1), 1)
'''

GENERATE = '''
@torch.no_grad()
def generate(
    model: {model},
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    {more}max_new_tokens: int = 20,
    eos_token_id: int | None = None,
    temperature: float = 0.0,
) -> Tensor:
    """Write on from prompts, which are padded on the left where their lengths differ.

    Args:
        input_ids: Shape: [B, T].
        attention_mask: Shape: [B, T], 1 for real tokens.
        eos_token_id: ends a row, and fills it up to the end of the longest; None for no end.
        temperature: 0 for the likeliest token at each step, above it tokens are drawn.

    Returns:
        Prompts and answers. Shape: [B, T + new].
    """
    cache, new = Cache(), input_ids
    ended = torch.zeros(input_ids.shape[0], 1, dtype=torch.bool, device=input_ids.device)
    for _ in range(max_new_tokens):
        {before}logits = model(new, attention_mask=attention_mask, {given}cache=cache){logits}
        new = choose(logits[:, -1].float(), temperature)
        if eos_token_id is not None:
            new = new.masked_fill(ended, eos_token_id)
            ended = ended | (new == eos_token_id)
        input_ids = torch.cat((input_ids, new), dim=1)
        if attention_mask is not None:
            attention_mask = torch.cat((attention_mask, torch.ones_like(new)), dim=1)
        {after}if ended.all():
            break
    return input_ids
'''

PLACES = (
    "positions = None\n        if attention_mask is not None:  # padding in front is not counted\n"
    "            positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]\n        "
)
"""Where tokens stand, in a model that is told so."""

GENERATE_PAIRED = '''
@torch.no_grad()
def generate(
    model: {model},
    {main}: Tensor,
    attention_mask: Tensor | None = None,
    *,
    decoder_input_ids: Tensor,
    max_new_tokens: int = 20,
    eos_token_id: int | None = None,
    temperature: float = 0.0,
) -> Tensor:
    """Answer what the encoder reads.

    Args:
        {main}: {shape}
        attention_mask: of the encoder's inputs, 1 for real ones.
        decoder_input_ids: what answers begin with: the config's ``decoder_start_token_id``. Shape: [B, T].
        eos_token_id: ends a row, and fills it up to the end of the longest; None for no end.
        temperature: 0 for the likeliest token at each step, above it tokens are drawn.

    Returns:
        Shape: [B, T + new].
    """
    encoded = model.model.encoder({encoder})
    cache, new, written = Cache(), decoder_input_ids, decoder_input_ids
    ended = torch.zeros(new.shape[0], 1, dtype=torch.bool, device=new.device)
    for _ in range(max_new_tokens):
        logits = model({forward}decoder_input_ids=new, encoder_outputs=encoded, cache=cache){logits}
        new = choose(logits[:, -1].float(), temperature)
        if eos_token_id is not None:
            new = new.masked_fill(ended, eos_token_id)
            ended = ended | (new == eos_token_id)
        written = torch.cat((written, new), dim=1)
        if ended.all():
            break
    return written
'''

ADVANCE = '''
    def advance(self, tokens: int) -> None:
        """Close a step in which every row took so many tokens."""
        self.length += tokens
'''

STATE = '''
class State:
    """What a row keeps of fixed size; None before the first token. Shape: [B, ...]."""

    value: Tensor | None = None
'''
