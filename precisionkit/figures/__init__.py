"""Figures, by matplotlib; every one is checked for before the work that it shows."""

from precisionkit.figures.files import SUFFIXES, check_figure
from precisionkit.figures.margins import margins_figure
from precisionkit.figures.network import network_figure

__all__ = ["SUFFIXES", "check_figure", "margins_figure", "network_figure"]
