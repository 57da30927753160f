import dataclasses
import json
import re

import pytest

from benchmarks.catalogue import RECIPES, resolve
from benchmarks.flags import RECIPE_NAMES
from benchmarks.recipes import recipe_from_json


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("preset", ["default", "smoke"])
def test_a_resolved_recipe_survives_json(name, preset):
    recipe = resolve(name, preset)
    assert recipe_from_json(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


@pytest.mark.parametrize("setting", ["actor.noise=-1", 'actor.hidden_dims=["a"]', "actor.conv_channels=[0]"])
def test_a_policy_that_cannot_be_built_is_refused_before_anything_is_trained(setting):
    with pytest.raises(ValueError, match="of a policy must be"):
        resolve("two-rooms", "smoke", [setting])


def test_overrides_reach_any_depth_and_keep_types():
    recipe = resolve(
        "two-rooms",
        overrides=[
            "world_model.lr=1",
            "critic.critic.max_lag=3",
            "objective.weights.sigreg=0.1",
            "planner.args.num_samples=7",
            'model.keys=["pixels","proprio"]',
            "planner.cost=summed_distance",
            "planner.warm_start=false",
        ],
    )
    assert recipe.world_model.lr == 1.0
    assert isinstance(recipe.world_model.lr, float)
    assert recipe.critic.critic.max_lag == 3
    assert recipe.objective.weights["sigreg"] == 0.1
    assert recipe.planner.args["num_samples"] == 7
    assert recipe.model.keys == ("pixels", "proprio")
    assert recipe.planner.cost == "summed_distance"
    assert recipe.planner.warm_start is False
    assert resolve("two-rooms").objective.weights.get("sigreg") is None
    assert resolve("two-rooms", "smoke", ["predictor=null"]).predictor is None


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["world_modl.lr=1"], "key in 'world_modl.lr' must be one of .*did you mean 'world_model'"),
        (["world_model.learning=1"], "key in 'world_model.learning' must be one of"),
        (["world_model.lr"], "an override must be KEY=VALUE, got 'world_model.lr'"),
        (["world_model.num_steps=many"], "world_model.num_steps must be of type int, got 'many'"),
        (["critic=null"], "a recipe with an actor must have a critic to train it against, got critic null"),
        (["planner.cost=task"], "a recipe with the cost 'task' must have a readout, got readout null"),
        (["actor.cost=task"], "a recipe with the cost 'task' must have a readout, got readout null"),
        (
            ['critic.values={"hold": 1}', "critic.critic.head=mlp"],
            "a recipe with the cost 'task' must have a readout, got readout null",
        ),
        (["actor.reads=walls"], "actor.reads must be one of embedding, value_map, readout, got 'walls'"),
        (
            ["actor.reads=readout"],
            "a recipe whose critic or actor reads a readout must have one, got readout null",
        ),
        (["actor=null", 'distill={"rounds": 1}'], "distill must be null in a recipe without an actor"),
        (["actor.hindsight=2.0"], r"hindsight of the actor must be in \[0, 1\], got 2.0"),
        (["actor.cost=distance"], "cost must be one of action_effort, critic, last_distance"),
        (
            ["actor.reads=value_map"],
            "actor.reads must not be value_map where the critic has none, got it with the head 'metric'",
        ),
        (["world_model.num_steps=0"], "num_steps must be >= 1, got 0"),
        (["name.x=1"], "key must name a value, got 'name.x'"),
        (["objective.window=3"], "objective.window must be > objective.rollout_steps"),
    ],
)
def test_a_wrong_override_is_one_sentence(overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve("two-rooms", overrides=overrides)


def test_unknown_names_name_the_nearest():
    with pytest.raises(ValueError, match="recipe must be one of .*did you mean 'two-rooms'"):
        resolve("two-room")
    with pytest.raises(ValueError, match="preset must be one of default, smoke"):
        resolve("two-rooms", "tiny")
    with pytest.raises(ValueError, match="key of Recipe must be one of"):
        recipe_from_json({"nam": 1})


def test_overrides_are_checked_together_and_reach_the_arguments_of_terms():
    recipe = resolve(
        "two-rooms",
        overrides=["critic=null", "actor=null", "planner.cost=last_distance", "objective.window=17"],
    )
    assert recipe.critic is None
    longer = resolve("two-rooms", overrides=["objective.rollout_steps=16", "objective.window=17"])
    assert longer.objective.rollout_steps == 16
    margin = resolve("two-rooms", overrides=["objective.term_args.variance.margin=2"])
    assert margin.objective.term_args == {"variance": {"margin": 2}}
    with pytest.raises(ValueError, match="policy_proposal must be false in a recipe without an actor"):
        resolve("slow-features", overrides=["planner.policy_proposal=true"])
    with pytest.raises(ValueError, match="critic must be an object with its settings, got 5"):
        resolve("slow-features", overrides=["critic=5"])
    with pytest.raises(ValueError, match="got 'critic.batch_size': critic is null"):
        resolve("slow-features", overrides=["critic.batch_size=5"])


def test_the_help_names_every_recipe():
    assert re.findall(r"[\w-]+", RECIPE_NAMES.replace(" or ", ", ")) == list(RECIPES)
