"""Synthetic defects with masks and classes: foreground, random masks, textures, and data sets of them."""

from anomalyhub.synthesis.dataset import SyntheticRef, SyntheticSet, read_synthetic, write_synthetic
from anomalyhub.synthesis.foregrounds import Foreground, choose_method, foreground, preview
from anomalyhub.synthesis.generate import SynthesisConfig, Synthesizer, SyntheticSample, synthesize
from anomalyhub.synthesis.textures import Textures, load_textures

__all__ = [
    "Foreground",
    "SynthesisConfig",
    "Synthesizer",
    "SyntheticRef",
    "SyntheticSample",
    "SyntheticSet",
    "Textures",
    "choose_method",
    "foreground",
    "load_textures",
    "preview",
    "read_synthetic",
    "synthesize",
    "write_synthetic",
]
