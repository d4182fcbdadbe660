"""Trained classifiers: known architectures, loading from files without running their code, preprocessing.

Imports `precisionkit.errors`, `precisionkit.user_code` and, to fetch weights and to train, `precisionkit.data`.
"""

from precisionkit.models.load import LoadedModel, list_model, load_model, save_model
from precisionkit.models.outline import Outline
from precisionkit.models.preprocess import Preprocess, parse_normalize
from precisionkit.models.preprocess_file import read_preprocess
from precisionkit.models.transforms import from_transform
from precisionkit.models.zoo import ZOO, ZooEntry, bundled_model

__all__ = [
    "ZOO",
    "LoadedModel",
    "Outline",
    "Preprocess",
    "ZooEntry",
    "bundled_model",
    "from_transform",
    "list_model",
    "load_model",
    "parse_normalize",
    "read_preprocess",
    "save_model",
]
