"""Runs: from settings in a folder to a found network, for Python users as for the command line.

run = pynas.runs.create("runs/dna", method="dna", data="digits", space="mbconv-mini")
run.train()
run.rate()
found = run.search(limits={"madds": 15e6})
exported = run.export()
"""

from pynas.runs.defaults import Defaults
from pynas.runs.explain import explain
from pynas.runs.folders import create, load
from pynas.runs.progress import Progress
from pynas.runs.recipe import Recipe
from pynas.runs.recipes import METHODS
from pynas.runs.recipes.paths import PathRecipe
from pynas.runs.request import Request
from pynas.runs.run import Run
from pynas.runs.settings import Settings

__all__ = [
    "METHODS",
    "Defaults",
    "PathRecipe",
    "Progress",
    "Recipe",
    "Request",
    "Run",
    "Settings",
    "create",
    "explain",
    "load",
]
