"""Questions for networks of convolutions, which take pictures of any size."""

from __future__ import annotations

from types import SimpleNamespace

from askers import PROBLEMS, Labels, Nothing, Pictures
from harness import Head


def asked(labels: Labels, size: tuple[int, int] = (37, 46)) -> Pictures:
    """Pictures of a size that no stride divides; there are no attentions to ask for."""
    return Pictures(
        labels,
        taps=("hidden_states",),
        read=lambda config: SimpleNamespace(image_size=size, num_channels=vars(config).get("num_channels", 3)),
    )


def conv_heads(name: str, *, backbone: bool = True, rate: float = 1e-2) -> dict[str, Head]:
    """The base model, a classifier for each kind of labels, and the backbone."""
    outputs = Nothing(("last_hidden_state", "pooler_output"))
    heads = {"Model": Head(f"{name}Model", "AutoModel", asked(outputs), everywhere=True)}
    for kind, labels in PROBLEMS.items():
        classifier = f"{name}ForImageClassification"
        heads[f"ForImageClassification, {kind}"] = Head(
            classifier, "AutoModelForImageClassification", asked(labels), rate=rate
        )
    if backbone:
        maps = asked(Nothing(("feature_maps",)))
        heads["Backbone"] = Head(f"{name}Backbone", "AutoBackbone", maps, everywhere=True)
    return heads
