"""Training objectives: named terms and the module that computes them on windows of trajectories."""

from worldmodel.objectives.objective import TERMS, JEPAObjective
from worldmodel.objectives.terms import (
    Covariance,
    InverseDynamics,
    JEPAOutputs,
    Prediction,
    SIGReg,
    TemporalSimilarity,
    TemporalStd,
    Term,
    Variance,
)

__all__ = [
    "TERMS",
    "Covariance",
    "InverseDynamics",
    "JEPAObjective",
    "JEPAOutputs",
    "Prediction",
    "SIGReg",
    "TemporalSimilarity",
    "TemporalStd",
    "Term",
    "Variance",
]
