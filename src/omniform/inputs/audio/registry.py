"""From a parsed ``preprocessor_config.json`` to the feature extractor that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from omniform.core.errors import ConfigError, UnknownNameError, nearest
from omniform.inputs.audio.clap import ClapFeatureExtractor
from omniform.inputs.audio.codecs import DacFeatureExtractor, EncodecFeatureExtractor
from omniform.inputs.audio.extractor import FeatureExtractor
from omniform.inputs.audio.kaldi import ASTFeatureExtractor, SeamlessM4TFeatureExtractor, Speech2TextFeatureExtractor
from omniform.inputs.audio.phi4 import Phi4MultimodalFeatureExtractor
from omniform.inputs.audio.speecht5 import SpeechT5FeatureExtractor
from omniform.inputs.audio.wav2vec2 import Wav2Vec2FeatureExtractor
from omniform.inputs.audio.whisper import WhisperFeatureExtractor

FEATURE_EXTRACTORS: Final[dict[str, type[FeatureExtractor]]] = {
    kind.type_name: kind
    for kind in (
        ASTFeatureExtractor, ClapFeatureExtractor, DacFeatureExtractor, EncodecFeatureExtractor,
        Phi4MultimodalFeatureExtractor, SeamlessM4TFeatureExtractor, Speech2TextFeatureExtractor,
        SpeechT5FeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor,
    )
}  # fmt: skip
"""Every known ``feature_extractor_type``."""


def feature_extractor(
    config: Mapping[str, object], *, where: str = "preprocessor_config.json", assume: str | None = None
) -> FeatureExtractor:
    """Build the feature extractor that a config names.

    Args:
        config: the parsed file.
        where: the file, for messages.
        assume: the type to take where the file names none, as files of old releases do; the model's family knows it.

    Raises:
        UnknownNameError: the type is not known.
        ConfigError: no type is named, or a value cannot be used.
    """
    name = config.get("feature_extractor_type")
    if name is None:
        name = assume
    if not isinstance(name, str):
        raise ConfigError(
            "feature_extractor_type is missing" if name is None else "feature_extractor_type has a wrong value",
            where=where,
            expected=f"one of {', '.join(FEATURE_EXTRACTORS)}",
            found=None if name is None else repr(name)[:80],
        )
    if name not in FEATURE_EXTRACTORS:
        raise UnknownNameError(
            f"no feature extractor is called {name!r}", where=where, remedy=nearest(name, FEATURE_EXTRACTORS)
        )
    return FEATURE_EXTRACTORS[name](config, where=where)
