"""What a cost is called in recipes and on the command line."""

from __future__ import annotations

from worldmodel.jepa import require_known

COSTS = ("critic", "summed_critic", "task", "last_distance", "summed_distance", "action_effort")


def cost_terms(expression: str) -> list[tuple[float, str]]:
    """Return the weights and names that ``"critic+0.1*action_effort"`` sums up.

    Raises:
        ValueError: an unknown cost (the message names the nearest known one) or a weight that is no number.
    """
    terms = []
    for part in expression.split("+"):
        weight_text, star, name = part.strip().rpartition("*")
        require_known("cost", name.strip(), COSTS)
        try:
            terms.append((float(weight_text) if star else 1.0, name.strip()))
        except ValueError:
            raise ValueError(f"weight of a cost must be a number, got {weight_text!r}") from None
    return terms
