"""A certification report as one HTML file: pure functions from records to text.  Imports no torch."""

from precisionkit.html.page import page

__all__ = ["page"]
