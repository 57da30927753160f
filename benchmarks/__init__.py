"""Recipes, evaluation, reports and the command line: where world models, environments and planners meet."""
