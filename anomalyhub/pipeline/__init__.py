"""Stages composed: from images to verdicts, regions and kinds of defect."""

from __future__ import annotations

from typing import Any

__all__ = ["ANOMALOUS", "Inspector", "evaluate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from anomalyhub.pipeline import evaluation, inspector  # torch, which the settings of a discovery do without

    return getattr(evaluation if name == "evaluate" else inspector, name)
