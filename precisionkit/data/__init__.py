"""Data sets for certification: known ones by name, .npz files, folders of images.

Imports `precisionkit.errors` only.
"""

from precisionkit.data.dataset import Dataset
from precisionkit.data.load import load_dataset
from precisionkit.data.named import NAMED, NamedSet

__all__ = ["NAMED", "Dataset", "NamedSet", "load_dataset"]
