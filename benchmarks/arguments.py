"""The command line's verbs and their flags."""

from __future__ import annotations

from benchmarks.bench_arguments import add_bench
from benchmarks.flags import (
    RECIPE_NAMES,
    Parser,
    Verbs,
    add_common,
    add_json,
    add_objective,
    add_planner,
    add_preset,
    add_recipe_settings,
    positive_int,
    seed_int,
)

DESCRIPTION = "Train JEPA world models on trajectories, plan with them, and see what they know."
EPILOG = """\
from nothing to a report:  worldmodel quickstart
flags of a verb:           worldmodel VERB --help
errors with a traceback:   WORLDMODEL_TRACEBACK=1 worldmodel VERB ...
"""

POLICIES = ("imagination", "dagger", "inverse")  # of benchmarks.policy_checkpoint, which is slow to import


def build_parser() -> Parser:
    """Build the parser of ``worldmodel``."""
    parser = Parser(prog="worldmodel", description=DESCRIPTION, epilog=EPILOG)
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", title="verbs", required=True, parser_class=Parser
    )
    for add_verb in (
        _add_quickstart,
        _add_run,
        _add_collect,
        _add_train,
        _add_distill,
        _add_evaluate,
        _add_diagnose,
        _add_probe,
        _add_report,
        _add_data,
        _add_envs,
        _add_objectives,
        add_bench,
    ):
        add_verb(verbs)
    return parser


def _add_quickstart(verbs: Verbs) -> None:
    """From nothing to a report."""
    quickstart = verbs.add_parser(
        "quickstart",
        help="from nothing to a report: collect, train, plan, react, evaluate",
        description="Two Rooms from an empty disk to a plan.",
    )
    add_common(quickstart, out="runs/quickstart-seed<SEED>", seed="of everything")
    add_preset(quickstart)
    add_recipe_settings(quickstart)


def _add_run(verbs: Verbs) -> None:
    """From nothing to a report, with any recipe."""
    run = verbs.add_parser(
        "run",
        help="the same with any recipe",
        description="Collect, train, evaluate and report one recipe; goes on where a killed call stopped.",
    )
    run.add_argument("recipe", metavar="RECIPE", help=RECIPE_NAMES)
    run.add_argument(
        "--size",
        choices=("small", "full"),
        help="small for a CPU, full for a GPU; of two-rooms (with a new layout per episode) and the MuJoCo tasks",
    )
    add_objective(run)
    add_common(run, out="runs/<RECIPE>-seed<SEED>", seed="of everything")
    add_preset(run)
    add_recipe_settings(run)


def _add_collect(verbs: Verbs) -> None:
    """From an environment to a store."""
    collect = verbs.add_parser(
        "collect",
        help="record trajectories of an environment into a store",
        description="Record trajectories; goes on where an interrupted call with equal settings stopped.",
    )
    collect.add_argument(
        "env_id",
        metavar="ENV_ID",
        help="e.g. worldmodel/TwoRooms-v0, see `worldmodel envs list`, or any of Gymnasium such as Ant-v5",
    )
    collect.add_argument("--episodes", type=positive_int, default=1000, help="episodes (default 1000)")
    collect.add_argument(
        "--steps", type=positive_int, help="actions per episode (default: the environment's budget)"
    )
    collect.add_argument("--policy", help="data policy, e.g. heading or 0.8*heading+0.2*expert")
    collect.add_argument("--policy-args", nargs="+", metavar="KEY=VALUE", help="arguments of the data policy")
    collect.add_argument(
        "--env-args", nargs="+", metavar="KEY=VALUE", help="e.g. layout=random image_size=32"
    )
    collect.add_argument(
        "--variation", nargs="+", metavar="KEY=VALUE", help="factors of variation, e.g. door_size=7"
    )
    collect.add_argument("--split", default="train", choices=("train", "eval"), help="layouts of which split")
    collect.add_argument(
        "--states-only", action="store_true", help="store states; frames are rendered in the batch"
    )
    add_common(collect, out="required", seed="of the trajectories")


def _add_train(verbs: Verbs) -> None:
    """From a store to a run."""
    train = verbs.add_parser(
        "train",
        help="train a recipe on a store: world model and, by recipe, critic and policy",
        description="Train a world model and what its recipe has beside it; goes on where a killed call stopped.",
    )
    train.add_argument("recipe", metavar="RECIPE", help=RECIPE_NAMES)
    train.add_argument("--data", required=True, metavar="STORE", help="store to train on")
    train.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")
    add_objective(train)
    add_common(train, out="required", seed="of weights and batches")
    add_preset(train)
    add_recipe_settings(train)


def _add_evaluate(verbs: Verbs) -> None:
    """From a run to results."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="success of a trained run on fresh tasks, beside reference rows",
        description="Success on fresh tasks; adds to results.json of the run.",
    )
    evaluate.add_argument("run", metavar="RUN", help="folder of a trained run")
    evaluate.add_argument("--episodes", type=positive_int, help="tasks (default: the recipe's)")
    evaluate.add_argument("--steps", type=positive_int, help="budget of env steps (default: the recipe's)")
    evaluate.add_argument(
        "--mode",
        choices=("1", "2", "2+1"),
        help="act by policy (1), by planning (2), or by planning from the policy's proposal (2+1); default 1 and 2",
    )
    evaluate.add_argument(
        "--policy",
        choices=POLICIES,
        help="which of the run's policies: trained in imagination, or distilled (default: the recipe's)",
    )
    add_planner(evaluate)
    evaluate.add_argument("--task-seed", type=seed_int, help="seed of the tasks (default: the recipe's)")
    evaluate.add_argument(
        "--variation",
        nargs="+",
        metavar="KEY=VALUE",
        help="factors of variation of the tasks, e.g. door_size=7",
    )
    evaluate.add_argument(
        "--no-references", action="store_true", help="leave out zero, random, expert, oracle"
    )
    add_common(evaluate, out="RUN", seed="of the agent's samples (default: the run's)", seed_default=None)


def _add_distill(verbs: Verbs) -> None:
    """From a run to another Mode-1 policy."""
    distill = verbs.add_parser(
        "distill",
        help="compile the planner of a trained run into a Mode-1 policy",
        description="Train a policy beside the run's own: on what the planner does in closed loop on worlds of the "
        "training split (dagger), or on the actions of the run's data (inverse).",
        epilog="then: worldmodel evaluate RUN --mode 1 --policy METHOD",
    )
    distill.add_argument("run", metavar="RUN", help="folder of a trained run")
    distill.add_argument("--method", choices=POLICIES[1:], default="dagger", help="default dagger")
    distill.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        metavar="KEY=VALUE",
        help="train_steps, lr, batch_size, hidden_dims, conv_channels, noise; of dagger own_start, rounds, episodes, "
        "num_steps, ask_every; of inverse max_lag, max_episodes",
    )
    distill.add_argument(
        "--planner", help="the teacher, which plans where it is asked (default: the recipe's planner)"
    )
    distill.add_argument(
        "--planner-args", nargs="+", metavar="KEY=VALUE", help="e.g. num_samples=128 horizon=16"
    )
    distill.add_argument("--seed", type=seed_int, help="of worlds, weights and batches (default: the run's)")
    distill.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    distill.add_argument("--threads", type=positive_int, help="CPU threads (default: torch's)")
    add_json(distill)


def _add_diagnose(verbs: Verbs) -> None:
    """From a run to what its world model has learned, without labels."""
    diagnose = verbs.add_parser(
        "diagnose",
        help="label-free statistics of a world model, and the slow-feature alarm",
        description="Statistics of embeddings and rollouts on held-out windows; renews diagnostics.json of the run.",
    )
    diagnose.add_argument("run", metavar="RUN", help="folder of a trained run")
    diagnose.add_argument("store", nargs="?", metavar="STORE", help="store (default: the run's)")
    diagnose.add_argument("--seed", type=seed_int, default=0, help="seed of the windows (default 0)")
    diagnose.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    diagnose.add_argument("--threads", type=positive_int, help="CPU threads (default: torch's)")
    add_json(diagnose)


def _add_probe(verbs: Verbs) -> None:
    """From a run and a store to what can be read off the embedding, with labels."""
    probe = verbs.add_parser(
        "probe",
        help="what can be read off the embedding and its rollouts, beside chance and supervised",
        description="Fit probes on encodings and rollouts, judge them on trajectories held out of the fit; adds to "
        "probes.json of the run. The encoder may have trained on those of its own store; collect another to be sure.",
    )
    probe.add_argument("run", metavar="RUN", help="folder of a trained run")
    probe.add_argument("store", metavar="STORE", help="any store that fits the model")
    probe.add_argument(
        "--target",
        required=True,
        metavar="NAME",
        help="a column of the store, or position, velocity, layout, distractor, background, walker, stationary, "
        "reward, expert_action",
    )
    probe.add_argument(
        "--probe",
        default="linear",
        choices=("linear", "sgd", "mlp"),
        help="linear: closed form (default); sgd: linear by minibatches",
    )
    probe.add_argument(
        "--horizons",
        type=positive_int,
        nargs="+",
        default=[1, 4, 8, 16],
        metavar="T",
        help="steps (default 1 4 8 16)",
    )
    probe.add_argument(
        "--trajectories", type=positive_int, default=2000, metavar="N", help="at most (default 2000)"
    )
    probe.add_argument(
        "--supervised-steps",
        type=seed_int,
        default=300,
        metavar="N",
        help="training of the supervised line; 0 leaves it out (default 300)",
    )
    add_common(probe, out="RUN", seed="of trajectories, weights and batches")


def _add_report(verbs: Verbs) -> None:
    """From a run to a page."""
    report = verbs.add_parser("report", help="one HTML page of a run, or of a folder of ablations")
    report.add_argument("run", metavar="RUN", help="folder of a run, or of `bench ablations`")
    report.add_argument("--gif", action="store_true", help="also write media/episodes.gif")
    add_json(report)


def _add_data(verbs: Verbs) -> None:
    """Look into a store."""
    data = verbs.add_parser("data", help="look into a store, or verify every byte of it").add_subparsers(
        dest="subverb", metavar="info|verify|repair", required=True, parser_class=Parser
    )
    for name, text in (
        ("info", "what a store holds"),
        ("verify", "compare every byte with its checksum"),
        ("repair", "remove what killed writers left behind"),
    ):
        sub = data.add_parser(name, help=text, description=text)
        sub.add_argument("store", metavar="STORE")
        add_json(sub)


def _add_envs(verbs: Verbs) -> None:
    """Look at the environments."""
    envs = verbs.add_parser("envs", help="the environments").add_subparsers(
        dest="subverb", metavar="list", required=True, parser_class=Parser
    )
    add_json(envs.add_parser("list", help="the registered environments"))


def _add_objectives(verbs: Verbs) -> None:
    """Look at the objectives."""
    add_json(verbs.add_parser("objectives", help="the training objectives by name, for --objective"))
