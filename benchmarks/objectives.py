"""Training objectives by name: weights of the terms and what they need of the model, one setting for all data.

``worldmodel train RECIPE --objective NAME`` trains any recipe with one of them; ``worldmodel bench slow-features``
compares them. The equations stand with the terms (:mod:`worldmodel.objectives`); what was tried before a weight was
chosen is in ``benchmarks/results/LOG.md``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.catalogue import resolve
from benchmarks.catalogue.weights import CONTRAST, CONTRAST_ARGS, VARIANCE_COVARIANCE
from benchmarks.recipes import Recipe, override
from worldmodel.jepa import require_known


@dataclass(frozen=True)
class ObjectiveSetting:
    """Weights of an objective, the arguments of its terms, and its demands on the model."""

    about: str  # one line for tables and help
    weights: dict[str, float]
    term_args: dict[str, dict[str, Any]] = field(default_factory=dict)
    target: str = "shared"  # shared, stop_gradient or ema
    latent_dim: int = 0  # Z of the predictor
    train_encoder: bool = True
    detach_predictions: bool = False
    norm: bool | None = None  # LayerNorm on embeddings and predictions; None leaves it to the recipe


VICREG = {"prediction": 25.0, "variance": 25.0, "covariance": 25.0}

OBJECTIVES: dict[str, ObjectiveSetting] = {
    "random": ObjectiveSetting(
        "encoder as it was drawn, trained predictor", {"prediction": 1.0}, train_encoder=False
    ),
    "supervised": ObjectiveSetting("linear readout of the position, the upper bound", {"supervised": 1.0}),
    "vicreg": ObjectiveSetting("prediction + variance + covariance", VICREG),
    "simclr": ObjectiveSetting(
        "InfoNCE, cosine, negatives across trajectories", {"infonce": 1.0}, {"infonce": {"temperature": 0.1}}
    ),
    "dcl": ObjectiveSetting(
        "decoupled InfoNCE, cosine, negatives across trajectories",
        {"infonce": 1.0},
        {"infonce": {"temperature": 0.1, "decoupled": True}},
    ),
    "infonce-within": ObjectiveSetting(
        "InfoNCE, L2, negatives within the trajectory",
        {"infonce": 1.0},
        {"infonce": {"metric": "l2", "negatives": "within", "temperature": 0.5}},
    ),
    "infonce-both": ObjectiveSetting(
        "InfoNCE, L2, negatives across and within",
        {"infonce": 1.0},
        {"infonce": {"metric": "l2", "negatives": "both", "temperature": 0.5}},
    ),
    "barlow": ObjectiveSetting(
        "Barlow Twins", {"barlow_twins": 0.02}, {"barlow_twins": {"redundancy": 0.005}}, norm=True
    ),
    "byol": ObjectiveSetting(
        "cosine prediction of an EMA target", {"cosine_prediction": 1.0}, target="ema", norm=True
    ),
    "simsiam": ObjectiveSetting(
        "cosine prediction with stop-gradient", {"cosine_prediction": 1.0}, target="stop_gradient", norm=True
    ),
    "sigreg": ObjectiveSetting(
        "prediction + SIGReg", {"prediction": 1.0, "sigreg": 0.003}, {"sigreg": {"num_directions": 64}}
    ),
    "swav": ObjectiveSetting("swapped assignment to balanced prototypes", {"swav": 1.0}),
    "idm": ObjectiveSetting(
        "linear inverse dynamics, predictor by regression",
        {"inverse_dynamics": 1.0, "prediction": 1.0},
        {"inverse_dynamics": {"hidden_dims": []}},
        detach_predictions=True,
    ),
    "vicreg-idm": ObjectiveSetting("VICReg + inverse dynamics (MLP)", {**VICREG, "inverse_dynamics": 25.0}),
    "vicreg-temporal": ObjectiveSetting("VICReg + temporal std", {**VICREG, "temporal_std": 25.0}),
    "controllable": ObjectiveSetting(
        "action contrast on the sphere + prediction",
        {"action_contrast": 1.0, "prediction": 0.5},
        {"action_contrast": {"temperature": 0.03}},
        norm=True,
    ),
    "controllable-static": ObjectiveSetting(
        "action contrast on 3/4 of the features, VICReg on the rest",
        {"action_contrast": 1.0, "prediction": 1.0, "variance": 1.0, "covariance": 1.0},
        {
            "action_contrast": {"temperature": 0.03, "features": [0.0, 0.75]},
            "prediction": {"features": [0.75, 1.0]},
            "variance": {"features": [0.75, 1.0]},
            "covariance": {"features": [0.75, 1.0]},
        },
        norm=True,
    ),
    "pldm": ObjectiveSetting(
        "variance + covariance + temporal similarity + inverse dynamics, as in PLDM", VARIANCE_COVARIANCE
    ),
    "pldm-sigreg": ObjectiveSetting(
        "SIGReg + temporal similarity + inverse dynamics",
        {"prediction": 1.0, "sigreg": 0.1, "temporal_similarity": 12.0, "inverse_dynamics": 1.0},
    ),
    "contrast": ObjectiveSetting(
        "action contrast + variance + covariance, of maps", CONTRAST, {"action_contrast": CONTRAST_ARGS}
    ),
    "contrast-sigreg": ObjectiveSetting(
        "action contrast + SIGReg, of maps",
        {"action_contrast": 1.0, "prediction": 0.5, "sigreg": 0.1},
        {"action_contrast": CONTRAST_ARGS},
    ),
    "reconstruction": ObjectiveSetting("pixels from embeddings and rollouts", {"reconstruction": 1.0}),
    "rssm": ObjectiveSetting(
        "reconstruction with a latent variable", {"reconstruction": 1.0, "latent_kl": 0.001}, latent_dim=8
    ),
}


def with_objective(recipe: Recipe, name: str) -> Recipe:
    """Return ``recipe`` with its objective's terms replaced by the named setting; windows and batches stay.

    Raises:
        ValueError: an unknown objective; the message names the nearest known one.
    """
    require_known("objective", name, OBJECTIVES)
    setting = OBJECTIVES[name]
    term_args = {key: dict(value) for key, value in setting.term_args.items()}
    norm = recipe.model.norm if setting.norm is None else setting.norm
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(
            recipe.model, target=setting.target, latent_dim=setting.latent_dim, norm=norm
        ),
        objective=dataclasses.replace(
            recipe.objective,
            weights=dict(setting.weights),
            term_args=term_args,
            train_encoder=setting.train_encoder,
            detach_predictions=setting.detach_predictions,
        ),
    )


def resolve_with_objective(
    name: str, objective: str | None, preset: str = "default", overrides: Sequence[str] = ()
) -> Recipe:
    """Return the recipe ``name`` with a named objective, if one is given, and then the overrides.

    Raises:
        ValueError: see :func:`benchmarks.recipes.resolve` and :func:`with_objective`.
    """
    recipe = resolve(name, preset)
    if objective is not None:
        recipe = with_objective(recipe, objective)
    return override(recipe, overrides)
