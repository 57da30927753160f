"""The command line's grammar: one-line errors that name the nearest known flag, and the flags that verbs share."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

DESCRIPTION = "Train JEPA world models on trajectories, plan with them, and see what they know."
EPILOG = """\
from nothing to a report:  worldmodel quickstart
flags of a verb:           worldmodel VERB --help
errors with a traceback:   WORLDMODEL_TRACEBACK=1 worldmodel VERB ...
"""


Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"
POLICIES = ("imagination", "dagger", "inverse")  # of benchmarks.policy_checkpoint, which is slow to import
RECIPE_NAMES = "two-rooms, two-rooms-small, two-rooms-full, point-maze-small, moving-dot or slow-features"


class UsageError(ValueError):
    """The command line was used in a way that it does not have."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest known flag or word."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]  # noqa: ANN401
        """Parse, and refuse what is left over by naming the nearest known flag."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            leaf = self._leaf(found)
            raise UsageError(_unknown_argument(rest[0], leaf))
        return found

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UsageError(_with_hint(message))

    def _leaf(self, found: argparse.Namespace) -> argparse.ArgumentParser:
        """Return the parser of the verb that was called."""
        parser: argparse.ArgumentParser = self
        for name in ("verb", "subverb"):
            chosen = getattr(found, name, None)
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction) and chosen in action.choices:
                    parser = action.choices[chosen]
                    break
        return parser


def _unknown_argument(argument: str, parser: argparse.ArgumentParser) -> str:
    flag = argument.split("=", 1)[0]
    known = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near and flag.startswith("-") else f"; see {parser.prog} --help"
    return f"{parser.prog} has no argument {argument!r}{hint}"


def _with_hint(message: str) -> str:
    """Add the nearest known word to argparse's "invalid choice: 'x' (choose from ...)"."""
    if "invalid choice" not in message:
        return message
    given = message.split("invalid choice: ", 1)[1].split("'")[1]
    choices = message.split("choose from", 1)[-1].strip(" )").replace("'", "").split(", ")
    near = difflib.get_close_matches(given, choices, n=1, cutoff=0.4)
    return f"{message}; did you mean {near[0]}?" if near else message


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {value}")
    return value


def seed_int(text: str) -> int:
    """Read a seed: a whole number of at least 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {value}")
    return value


def key_values(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read ``["a=1", "b=text"]`` as ``{"a": 1, "b": "text"}``; values are JSON where they are JSON."""
    result = {}
    for pair in pairs or []:
        key, separator, text = pair.partition("=")
        if not separator:
            raise UsageError(f"settings must be KEY=VALUE, got {pair!r}")
        try:
            result[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            result[key.strip()] = {"True": True, "False": False}.get(text, text)
    return result


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
        _add_bench,
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
    _common(quickstart, out="runs/quickstart-seed<SEED>", seed="of everything")
    _preset(quickstart)
    _recipe_settings(quickstart)


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
        help="two-rooms with a new layout per episode: small for a CPU, full for a GPU",
    )
    _objective(run)
    _common(run, out="runs/<RECIPE>-seed<SEED>", seed="of everything")
    _preset(run)
    _recipe_settings(run)


def _add_collect(verbs: Verbs) -> None:
    """From an environment to a store."""
    collect = verbs.add_parser(
        "collect",
        help="record trajectories of an environment into a store",
        description="Record trajectories; goes on where an interrupted call with equal settings stopped.",
    )
    collect.add_argument(
        "env_id", metavar="ENV_ID", help="e.g. worldmodel/TwoRooms-v0; see `worldmodel envs list`"
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
    _common(collect, out="required", seed="of the trajectories")


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
    _objective(train)
    _common(train, out="required", seed="of weights and batches")
    _preset(train)
    _recipe_settings(train)


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
        default="imagination",
        help="which of the run's policies: its own (imagination, the default) or a distilled one",
    )
    evaluate.add_argument("--planner", help="cem, icem, mppi, gradient, cem_gradient or random_shooting")
    evaluate.add_argument(
        "--planner-args",
        nargs="+",
        metavar="KEY=VALUE",
        help="e.g. num_samples=128 horizon=16 cost=summed_distance",
    )
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
    _common(evaluate, out="RUN", seed="of the agent's samples (default: the run's)", seed_default=None)


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
    _json(distill)


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
    _json(diagnose)


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
    _common(probe, out="RUN", seed="of trajectories, weights and batches")


def _add_report(verbs: Verbs) -> None:
    """From a run to a page."""
    report = verbs.add_parser("report", help="one HTML page of a run, or of a folder of ablations")
    report.add_argument("run", metavar="RUN", help="folder of a run, or of `bench ablations`")
    report.add_argument("--gif", action="store_true", help="also write media/episodes.gif")
    _json(report)


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
        _json(sub)


def _add_envs(verbs: Verbs) -> None:
    """Look at the environments."""
    envs = verbs.add_parser("envs", help="the environments").add_subparsers(
        dest="subverb", metavar="list", required=True, parser_class=Parser
    )
    _json(envs.add_parser("list", help="the registered environments"))


def _add_objectives(verbs: Verbs) -> None:
    """Look at the objectives."""
    _json(verbs.add_parser("objectives", help="the training objectives by name, for --objective"))


def _add_bench(verbs: Verbs) -> None:
    """Benchmarks."""
    bench = verbs.add_parser(
        "bench",
        help="the slow-feature benchmark; studies of a run (planners, policies, generalisation); speed",
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
    _recipe_settings(slow)
    slow.add_argument(
        "--jobs", type=positive_int, help="processes of one thread each (default: one per core)"
    )
    slow.add_argument("--ray", action="store_true", help="run the cells on Ray instead")
    slow.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    slow.add_argument("--out", metavar="DIR", help="folder (default runs/slow-features-<SIZE>)")
    slow.set_defaults(threads=None)  # workers have one each
    _json(slow)
    for name, about in (
        ("planners", "every cost over every horizon by every planner"),
        ("policies", "the run's policies alone, and in front of a planner with fewer and fewer samples"),
        ("generalisation", "factors of variation that the data never had"),
    ):
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
        _common(study, out="RUN/studies", seed="of the samples (default: the run's)", seed_default=None)
    ablations = bench.add_parser(
        "ablations",
        help="a recipe trained again with one thing changed",
        description="Train and evaluate a recipe with one thing changed at a time; goes on where a killed call stopped.",
    )
    ablations.add_argument(
        "ablations",
        choices=("terms", "data-size", "trajectory-length", "data-quality", "door"),
        help="what is changed",
    )
    ablations.add_argument("recipe", metavar="RECIPE", help=RECIPE_NAMES)
    ablations.add_argument(
        "--seeds", type=seed_int, nargs="+", default=[0, 1, 2], help="training seeds (default 0 1 2)"
    )
    _preset(ablations)
    _recipe_settings(ablations)
    ablations.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    ablations.add_argument("--threads", type=positive_int, help="CPU threads (default: torch's)")
    ablations.add_argument("--out", metavar="DIR", help="folder (default runs/ablations-<RECIPE>)")
    _json(ablations)
    speed = bench.add_parser("speed", help="environments, loader and planners on one core")
    speed.add_argument("--preset", default="default", choices=("default", "smoke"))
    speed.add_argument("--out", metavar="DIR", help="also write DIR/speed.json")
    _json(speed)


def _common(parser: argparse.ArgumentParser, *, out: str, seed: str, seed_default: int | None = 0) -> None:
    parser.add_argument(
        "--seed", type=seed_int, default=seed_default, help=f"seed {seed} (default {seed_default})"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    is_required = out == "required"
    parser.add_argument(
        "--out",
        required=is_required,
        metavar="DIR",
        help="folder" if is_required else f"folder (default {out})",
    )
    parser.add_argument("--threads", type=positive_int, help="CPU threads (default: torch's)")
    _json(parser)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bars or tables")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the result as JSON to FILE, or to stdout"
    )


def _objective(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="replace the recipe's terms, e.g. controllable or vicreg; see `worldmodel objectives`",
    )


def _preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", default="default", choices=("default", "smoke"), help="smoke: the same path in seconds"
    )


def _recipe_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", dest="settings", default=[], help="e.g. world_model.lr=1e-3"
    )
