"""Pictures found by texts and by pictures: vectors of a model with two towers, in an index on disk that grows.

Floor 6: a job done with models, on the floors of the hub and below; nothing of the engine is needed.
"""

from omniform.search.folder import Changes, Found, PictureIndex
from omniform.search.near import NearFile
from omniform.search.towers import Towers
from omniform.search.vectors import VectorFile

__all__ = ["Changes", "Found", "NearFile", "PictureIndex", "Towers", "VectorFile"]
