"""Methods that users expect on a model but that belong to higher floors.

``model.generate`` is the engine's work and ``model.save_pretrained`` the hub's, as it is for processors; these lie
below both and may not import them. They call them by name, at the time of use, through here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal, cast

from omniform.core.collector import paused

Door = Literal[
    "engine.generate:generate",
    "engine.generate:generate_batch",
    "engine.hearing.transcribe:transcribe",
    "engine.manager:continuous_batching_context_manager",
    "engine.manager:init_continuous_batching",
    "engine.scoring:score",
    "engine.transitions:transition_scores",
    "engine.streaming:astream",
    "engine.streaming:stream_pieces",
    "engine.talking:stream_speech",
    "engine.processors.watermark:SynthIDTextWatermarkLogitsProcessor",
    "engine.processors.watermark:WatermarkLogitsProcessor",
    "export.exporting:export",
    "export.onnx.running:opened",
    "hub.gguf.writing:save_gguf",
    "hub.lookup:cached_file",
    "hub.push:push",
    "hub.save:save_model",
    "hub.save:save_config",
    "hub.adapting:load_adapter",
    "hub.adapting:add_adapter",
    "hub.adapting:set_adapter",
    "hub.adapting:enable_adapters",
    "hub.adapting:active_adapters",
    "hub.adapting:get_adapter_state_dict",
    "hub.adapting:delete_adapter",
    "hub.adapting:merge_adapters",
    "hub.adapting:unmerge_adapters",
    "hub.adapting:add_weighted_adapter",
    "hub.peft_names:meet",
    "hub.settings:read_settings",
    "hub.settings:save_settings",
    "hub.checkpoint:load_config",
    "hub.pairing:load_both",
    "hub.checkpoint:load_class",
    "hub.checkpoint:class_from_config",
    "hub.auto_inputs:load_processor",
    "hub.auto_inputs:load_tokenizer",
    "hub.auto_inputs:save_inputs",
    "hub.own_inputs:load_kept",
    "hub.auto_inputs:load_image_processor",
    "hub.auto_videos:load_video_processor",
]


def upstairs(door: Door) -> Callable[..., object]:
    """The function behind a door of a higher floor of omniform."""
    module, name = door.split(":")
    with paused():
        home = import_module(f"omniform.{module}")
    return cast(Callable[..., object], vars(home)[name])
