"""Where espeak is: the system's library, or the one that the package ``espeakng-loader`` brings."""

from __future__ import annotations

from functools import cache


@cache
def find_espeak() -> None:
    """Have phonemizer use espeak, once for all.

    Raises:
        ImportError: phonemizer is not installed, or neither is espeak in any way.
    """
    from phonemizer.backend import EspeakBackend

    if EspeakBackend.is_available():
        return
    import espeakng_loader
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
