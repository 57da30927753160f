"""The flags of ``worldmodel bench``."""

from __future__ import annotations

from benchmarks.flags import (
    RECIPE_NAMES,
    Parser,
    Verbs,
    add_common,
    add_json,
    add_planner,
    add_preset,
    add_recipe_settings,
    positive_int,
    seed_int,
)


def add_bench(verbs: Verbs) -> None:
    """Benchmarks."""
    bench = verbs.add_parser(
        "bench",
        help="the slow-feature benchmark; studies of a run (planners, policies, generalisation); references; speed",
    ).add_subparsers(dest="subverb", metavar="NAME", required=True, parser_class=Parser)
    slow = bench.add_parser(
        "slow-features",
        help="objectives against fixed, changing and rolling distractors",
        description="Train every objective under every distractor; goes on where a killed call stopped.",
    )
    slow.add_argument(
        "--size",
        default="small",
        choices=("smoke", "small", "full"),
        help="smoke: seconds; small: two CPU cores (default); full: the paper's size, a GPU",
    )
    slow.add_argument(
        "--seeds", type=seed_int, nargs="+", default=[0, 1, 2], help="training seeds (default 0 1 2)"
    )
    slow.add_argument("--objectives", nargs="+", metavar="NAME", help="only these, e.g. vicreg controllable")
    slow.add_argument(
        "--conditions",
        nargs="+",
        metavar="TEXT",
        help="only those whose name holds it, e.g. fixed or two-rooms",
    )
    add_recipe_settings(slow)
    slow.add_argument(
        "--jobs", type=positive_int, help="processes of one thread each (default: one per core)"
    )
    slow.add_argument("--ray", action="store_true", help="run the cells on Ray instead")
    slow.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    slow.add_argument("--out", metavar="DIR", help="folder (default runs/slow-features-<SIZE>)")
    slow.set_defaults(threads=None)  # workers have one each
    add_json(slow)
    for name, about in (
        ("planners", "every cost over every horizon by every planner"),
        ("policies", "the run's policies alone, and in front of a planner with fewer and fewer samples"),
        ("generalisation", "factors of variation that the data never had"),
    ):
        _add_study(bench, name, about)
    ablations = bench.add_parser(
        "ablations",
        help="a recipe trained again with one thing changed",
        description="Train and evaluate a recipe with one thing changed at a time; goes on where a killed call stopped.",
    )
    ablations.add_argument(
        "ablations",
        choices=("terms", "data-size", "trajectory-length", "data-quality", "door", "motion"),
        help="what is changed",
    )
    ablations.add_argument("recipe", metavar="RECIPE", help=RECIPE_NAMES)
    ablations.add_argument(
        "--seeds", type=seed_int, nargs="+", default=[0, 1, 2], help="training seeds (default 0 1 2)"
    )
    ablations.add_argument("--cells", nargs="+", metavar="NAME", help='only these, e.g. full "no variance"')
    add_preset(ablations)
    add_recipe_settings(ablations)
    ablations.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    ablations.add_argument("--threads", type=positive_int, help="CPU threads (default: torch's)")
    ablations.add_argument("--out", metavar="DIR", help="folder (default runs/ablations-<RECIPE>)")
    add_json(ablations)
    references = bench.add_parser(
        "references",
        help="what no model is needed for: noise, a script, the planner on the true simulator",
        description="Success of the reference rows on an environment's tasks: no action, noise, a straight line, the "
        "scripted expert, and the planner on the true simulator.",
    )
    references.add_argument("env_id", metavar="ENV_ID", help="e.g. worldmodel/PointMaze-v0")
    references.add_argument("--episodes", type=positive_int, default=200, help="tasks (default 200)")
    references.add_argument("--steps", type=positive_int, help="budget (default: the environment's)")
    references.add_argument("--env-args", nargs="+", metavar="KEY=VALUE", help="e.g. size=5")
    add_planner(references)
    references.add_argument("--seed", type=seed_int, default=0, help="of noise and samples (default 0)")
    references.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    references.add_argument("--threads", type=positive_int, help="CPU threads (default: torch's)")
    add_json(references)
    speed = bench.add_parser("speed", help="environments, loader and planners on one core")
    speed.add_argument("--preset", default="default", choices=("default", "smoke"))
    speed.add_argument("--out", metavar="DIR", help="also write DIR/speed.json")
    add_json(speed)


def _add_study(bench: Verbs, name: str, about: str) -> None:
    """One study of a run."""
    study = bench.add_parser(
        name, help=about, description=f"A study of one run: {about}; goes on where a killed call stopped."
    )
    study.add_argument("run", metavar="RUN", help="folder of a trained run")
    study.add_argument("--episodes", type=positive_int, help="tasks of each cell (default: the recipe's)")
    study.add_argument("--steps", type=positive_int, help="budget of env steps (default: the recipe's)")
    if name == "planners":
        study.add_argument("--costs", nargs="+", metavar="COST", help="only these, e.g. summed_critic")
        study.add_argument("--horizons", nargs="+", type=positive_int, metavar="STEPS", help="only these")
        study.add_argument("--planners", nargs="+", metavar="NAME", help="only these, e.g. cem mppi")
    if name == "generalisation":
        study.add_argument("--factors", nargs="+", metavar="NAME", help="only these, e.g. door_size")
        study.add_argument(
            "--agents", nargs="+", metavar="NAME", help="only these of mode-2, mode-1 and oracle"
        )
    add_common(study, out="RUN/studies", seed="of the samples (default: the run's)", seed_default=None)
