"""Trained classifiers: known architectures, loading from files without running their code, preprocessing.

Imports `precisionkit.errors` only; the training script also imports `precisionkit.data`.
"""

from precisionkit.models.load import LoadedModel, load_model, save_model
from precisionkit.models.preprocess import Preprocess, parse_normalize
from precisionkit.models.zoo import ZOO, ZooEntry, bundled_model

__all__ = ["ZOO", "LoadedModel", "Preprocess", "ZooEntry", "bundled_model", "load_model", "parse_normalize", "save_model"]
