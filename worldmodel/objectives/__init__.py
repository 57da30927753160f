"""Training objectives: named terms and the module that computes them on windows of trajectories."""

from worldmodel.objectives.contrastive import ActionContrast, InfoNCE
from worldmodel.objectives.distillation import BarlowTwins, CosinePrediction, SwAV
from worldmodel.objectives.energy import ENERGY_LOSSES
from worldmodel.objectives.objective import TERMS, JEPAObjective
from worldmodel.objectives.outputs import JEPAOutputs, Term, TermSizes
from worldmodel.objectives.readouts import InverseDynamics, LatentKL, Reconstruction, Supervised
from worldmodel.objectives.terms import (
    Covariance,
    Prediction,
    SIGReg,
    TemporalSimilarity,
    TemporalStd,
    Variance,
)

__all__ = [
    "ENERGY_LOSSES",
    "TERMS",
    "ActionContrast",
    "BarlowTwins",
    "CosinePrediction",
    "Covariance",
    "InfoNCE",
    "InverseDynamics",
    "JEPAObjective",
    "JEPAOutputs",
    "LatentKL",
    "Prediction",
    "Reconstruction",
    "SIGReg",
    "Supervised",
    "SwAV",
    "TemporalSimilarity",
    "TemporalStd",
    "Term",
    "TermSizes",
    "Variance",
]
