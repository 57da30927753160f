"""Imagination that goes on where it ended."""

import torch

from benchmarks.catalogue import resolve
from benchmarks.collecting import collect_store
from benchmarks.stages import train_run
from planners.policy import GoalPolicy, ImaginationObjective
from worldmodel.carrying import CarriedStarts

NUM, HORIZON = 40, 3
PARTS = ("critic", "policy")


def objective(carried):
    torch.manual_seed(0)
    policy = GoalPolicy((2,), [-1.0, -1.0], [1.0, 1.0], hidden_dims=(8,))
    seen = []

    def step(embedding, action, memory):
        seen.append(embedding.detach())
        return embedding + 0.1 * action, memory

    def cost(embeddings, actions, goal):
        return (embeddings - goal[:, None]).square().sum((1, 2))

    return ImaginationObjective(policy, step, cost, horizon=HORIZON, carried=carried), seen


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(NUM, 2, generator=generator) for key in ("start", "goal")}


def test_part_of_the_starts_go_on_where_the_last_imagination_ended():
    module, seen = objective(CarriedStarts(10, 2, seed=3))
    first, second = batch(0), batch(1)
    module(first, 0)["imagined_cost"].backward()
    assert torch.equal(seen[0], first["start"])
    with torch.no_grad():
        last = seen[-1] + 0.1 * module.policy(seen[-1], first["goal"])
    carried, goals = module.carried.start.clone(), module.carried.goal.clone()
    module(second, 1)
    assert torch.equal(seen[HORIZON][:10], carried)
    assert torch.equal(seen[HORIZON][10:], second["start"][10:])
    apart = (carried[:, None] - last).abs().amax(-1) + (goals[:, None] - first["goal"]).abs().amax(-1)
    assert int((apart.amin(1) < 1e-6).sum()) >= 7  # the others begin afresh


def test_a_resumed_training_goes_on_with_the_same_starts():
    one, two = (objective(CarriedStarts(10, 2, seed=3))[0] for _ in range(2))
    one(batch(0), 0)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(batch(1), 1)["imagined_cost"], two(batch(1), 1)["imagined_cost"])
    alone = objective(None)[0]
    assert not torch.equal(alone(batch(1), 1)["imagined_cost"], one(batch(1), 1)["imagined_cost"])


def test_a_policy_is_trained_on_the_goals_and_starts_that_its_recipe_says(tmp_path):
    trained = {}
    for name, settings in (
        ("as it is", []),
        ("goals", ["actor.hindsight=0.0"]),
        ("starts", ["actor.carried=0.0"]),
    ):
        recipe = resolve("push-t-small", "smoke", settings)
        store = collect_store(recipe.collect, tmp_path / "data", seed=0)
        train_run(recipe, store, tmp_path / name, seed=0)
        trained[name] = {part: (tmp_path / name / part / "model.safetensors").read_bytes() for part in PARTS}
    for name in ("goals", "starts"):
        assert trained[name]["critic"] == trained["as it is"]["critic"]
        assert trained[name]["policy"] != trained["as it is"]["policy"]
