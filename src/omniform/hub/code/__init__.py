"""Code that checkpoints bring (``auto_map``): never run unasked, and then byte for byte what was shown.

:mod:`doors` is what Auto classes ask, :mod:`named` finds a class. A name (:mod:`reference`) leads to a file; the file
and what it imports from beside it are read once into memory (:mod:`closure`); what was read is shown and recorded
(:mod:`trust`, :mod:`asking`); those very bytes are compiled (:mod:`importer`), with copies in the modules cache for
people and tools (:mod:`copies`). :mod:`foreign` loads classes that were written for other libraries.
"""
