"""Why a half program errs: magnitudes, errors and bounds of every node over a data set."""

from precisionkit.profile.make import make_profile
from precisionkit.profile.settings import Settings

__all__ = ["Settings", "make_profile"]
