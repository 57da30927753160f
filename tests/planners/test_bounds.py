import pytest
import torch

from planners import ActionBounds
from tests.planners.problems import box, seeded


def test_projection_is_inside_and_leaves_inner_actions_alone():
    bounds = ActionBounds(torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 0.5]), max_norm=1.2)
    actions = torch.randn(500, 3, 2, generator=seeded(0)) * 2
    projected = bounds.project(actions)
    assert bounds.contains(projected, tol=1e-6).all()
    is_inside = bounds.contains(actions, tol=0.0)
    assert is_inside.any()
    assert not is_inside.all()
    torch.testing.assert_close(projected[is_inside], actions[is_inside])
    torch.testing.assert_close(bounds.project(projected), projected)


def test_the_ball_keeps_the_direction():
    projected = box(10.0, 2, max_norm=1.0).project(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(projected, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_bounds_may_be_infinite():
    bounds = ActionBounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))
    assert bounds.project(torch.tensor([1e30])).item() == pytest.approx(1e30)


def test_to_changes_the_dtype_and_keeps_the_ball():
    bounds = box(1.0, 2, max_norm=0.5)
    assert bounds.to("cpu") is bounds
    assert bounds.to("cpu", torch.float64).low.dtype == torch.float64
    assert bounds.to("cpu", torch.float64).max_norm == 0.5


@pytest.mark.parametrize(
    ("low", "high", "max_norm", "sentence"),
    [
        (torch.zeros(1, 2), torch.ones(1, 2), None, r"low must be of shape \(A\), got \(1, 2\)"),
        (torch.zeros(2), torch.ones(3), None, r"high must be of shape \(2\), got \(3,\)"),
        (torch.ones(1), -torch.ones(1), None, r"low must be <= high \[-1.0\], got \[1.0\]"),
        (torch.full((1,), torch.nan), torch.ones(1), None, "low must be <= high"),
        (torch.zeros(1), torch.ones(1), 0.0, "max_norm must be > 0, got 0.0"),
        (torch.ones(1), 2 * torch.ones(1), 1.0, "the box must be around 0 where max_norm is set"),
    ],
)
def test_bad_bounds_are_refused(low, high, max_norm, sentence):
    with pytest.raises(ValueError, match=sentence):
        ActionBounds(low, high, max_norm)
