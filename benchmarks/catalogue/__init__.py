"""The recipes."""

from benchmarks.catalogue.names import PRESETS, RECIPES, resolve, sized

__all__ = ["PRESETS", "RECIPES", "resolve", "sized"]
