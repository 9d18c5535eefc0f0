"""Names of a checkpoint's files that several floors know."""

from __future__ import annotations

from typing import Final

PROCESSOR_FILE: Final = "processor_config.json"
"""What says how a processor and its parts work."""

PREPROCESSOR_FILE: Final = "preprocessor_config.json"
"""What says how pictures or sounds are prepared, in a file of its own."""

TEMPLATES_FOLDER: Final = "additional_chat_templates"
"""The subfolder of a repository that holds its named chat templates, one ``.jinja`` file each."""
