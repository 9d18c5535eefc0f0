"""The server on a Ray cluster (extra ``ray``): replicas that come and go, and requests that find the one which has
their beginning. :mod:`omniform.serve.ray.deployment` and :mod:`omniform.serve.ray.router` need Ray to be imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omniform.serve.ray_routes import Call

if TYPE_CHECKING:
    from omniform.serve.ray.deployment import OmniformDeployment, OmniformDoor, application
    from omniform.serve.ray.router import PrefixRouter

__all__ = ["Call", "OmniformDeployment", "OmniformDoor", "PrefixRouter", "application"]


def __getattr__(name: str) -> object:
    """What needs Ray, which is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(name)
    from omniform.serve.ray import deployment, router

    return router.PrefixRouter if name == "PrefixRouter" else vars(deployment)[name]
