"""Stages composed: a detector with a threshold applied to images, and from images to kinds of defect."""

from __future__ import annotations

from typing import Any

__all__ = ["ANOMALOUS", "Inspector", "evaluate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from anomalyhub.pipeline import inspector  # torch, which the settings of a discovery do without

    return getattr(inspector, name)
