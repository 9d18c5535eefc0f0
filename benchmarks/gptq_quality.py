"""What GPTQ costs a trained model: ``python benchmarks/gptq_quality.py FOLDER [--ways plain nearest gptq ...]``.

The mean negative log-likelihood of texts that nothing was calibrated with, of the checkpoint as it is, of the same
with every matrix of its blocks rounded to the nearest (the same grid, symmetric, without calibration), and of GPTQ.
Texts are English: by default Python's own reference and what installed packages say of themselves; documents are dealt
out in turn to calibrate and to judge by, so none is in both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from pydoc_data.topics import topics

import torch

import omniform
from omniform.export.quality import quality, scores_of
from omniform.weights.formats.gptq import Gptq

GPTQ = {
    "gptq": {},
    "gptq, desc_act": {"desc_act": True},
    "gptq, groups as they lie": {"act_group_aware": False},
    "gptq, static groups": {"static_groups": True},
    "gptq, not true_sequential": {"true_sequential": False},
}
"""Ways of calibrating, to what differs from the usual settings."""

LEAST = 3000
"""Letters of a document that is worth reading."""


def documents(file: str | None) -> list[str]:
    """English texts, each of one origin; those of a file are parted by three empty lines."""
    if file is not None:
        return [one for one in Path(file).read_text(encoding="utf-8").split("\n\n\n\n") if one.strip()]
    about = {one.metadata["Name"]: str(one.metadata.get_payload()) for one in distributions()}
    found = [*(topics[name] for name in sorted(topics)), *(about[name] for name in sorted(about))]
    return [text for text in found if len(text) >= LEAST]


def stretches(texts: list[str], reader: omniform.Tokenizer, count: int, length: int) -> list[list[int]]:
    """Stretches of tokens, one of each text in turn until there are enough."""
    cut = []
    for ids in (reader.encode(text) for text in texts):
        cut.append([ids[at : at + length] for at in range(0, len(ids) - length + 1, length)])
    deep = max(map(len, cut))
    found = [pieces[n] for n in range(deep) for pieces in cut if n < len(pieces)]
    if len(found) < count:
        raise SystemExit(f"there are {len(found)} stretches of {length} tokens, and {count} are asked for")
    return found[:count]


def to_nearest(model: omniform.Model, bits: int, group: int) -> None:
    """Round every matrix of the blocks, on GPTQ's symmetric grid."""
    format = Gptq(bits, group)
    with torch.no_grad():
        for path, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and ".layers." in f".{path}":
                layer.weight.copy_(format.numbers(format.encoded(layer.weight), *layer.weight.shape))


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="a checkpoint in floats")
    parser.add_argument("--ways", nargs="+", default=["plain", "nearest", "gptq", "gptq, desc_act"])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--calibrate", type=int, default=64, metavar="N", help="stretches to calibrate with")
    parser.add_argument("--judge", type=int, default=40, metavar="N", help="stretches to judge by")
    parser.add_argument("--length", type=int, default=512, help="tokens of a stretch")
    parser.add_argument("--damp", type=float, default=None, help="damp_percent, where not the usual one")
    parser.add_argument("--text", metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    reader = omniform.AutoTokenizer.from_pretrained(given.folder)
    texts = documents(given.text)
    rows = stretches(texts[::2], reader, given.calibrate, given.length)
    pieces = [torch.tensor([row]) for row in stretches(texts[1::2], reader, given.judge, given.length)]
    print(f"{len(rows)} stretches to calibrate with, {len(pieces)} to judge by, of {given.length} tokens", flush=True)
    damp = {} if given.damp is None else {"damp_percent": given.damp}
    load = omniform.AutoModelForCausalLM.from_pretrained
    plain: float | None = None
    for way in given.ways:
        began = time.process_time()
        if way in GPTQ:
            settings = omniform.GPTQConfig(
                given.bits, group_size=given.group_size, dataset=rows, **{**GPTQ[way], **damp}
            )
            model = load(given.folder, quantization_config=settings)
            with tempfile.TemporaryDirectory() as folder:  # what a user reads again
                model.save_pretrained(folder)
                model = load(folder)
        else:
            model = load(given.folder)
            if way == "nearest":
                to_nearest(model, given.bits, given.group_size)
        made = time.process_time() - began
        found = quality(pieces, scores_of(model))
        loss = float(torch.tensor(found.perplexity).log())
        plain = loss if way == "plain" else plain
        more = "" if plain is None else f", {loss / plain - 1:+.2%}"
        print(f"{way}: loss {loss:.4f}{more}; perplexity {found.perplexity:.3f}; made in {made:.0f} s", flush=True)


if __name__ == "__main__":
    main()
