"""Frozen encoders: a model folder, what to take from it, and the features of texts."""

from __future__ import annotations

from embedkit.encoders.engines import Encoder, EngineMaker
from embedkit.encoders.features import FeatureExtractor, Features
from embedkit.encoders.folder import ModelFolder, read_folder
from embedkit.encoders.opened import Extraction
from embedkit.encoders.recipe import Recipe, View, make_recipe
from embedkit.encoders.settings import EncoderSettings
from embedkit.encoders.words import WordExtractor, WordFeatures
from embedkit.runtime.texts import check_texts, require_texts

__all__ = [
    "Encoder",
    "EncoderSettings",
    "EngineMaker",
    "Extraction",
    "FeatureExtractor",
    "Features",
    "ModelFolder",
    "Recipe",
    "View",
    "WordExtractor",
    "WordFeatures",
    "check_texts",
    "make_recipe",
    "read_folder",
    "require_texts",
]
