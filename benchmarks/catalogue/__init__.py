"""The recipes."""

from benchmarks.catalogue.names import RECIPES, resolve, sized

__all__ = ["RECIPES", "resolve", "sized"]
