"""Data sets for certification: known ones by name, files of arrays or tables, folders of images, Hugging Face's, a user's own function.

Imports `precisionkit.errors` and `precisionkit.user_code` only.
"""

from precisionkit.data.dataset import Dataset
from precisionkit.data.inputs import Inputs, LazyInputs
from precisionkit.data.load import load_dataset
from precisionkit.data.named import NAMED, NamedSet

__all__ = ["NAMED", "Dataset", "Inputs", "LazyInputs", "NamedSet", "load_dataset"]
