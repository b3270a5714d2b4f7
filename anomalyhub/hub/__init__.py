"""Stores: a folder that AnomalyHub made goes to a plain folder or the Hugging Face Hub, and comes back."""

from anomalyhub.hub.base import BaseStore, Pulled, Pushed, RepoInfo, create_store

__all__ = ["BaseStore", "Pulled", "Pushed", "RepoInfo", "create_store"]
