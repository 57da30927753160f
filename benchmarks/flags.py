"""What the verbs of the command line share: errors of one line that name the nearest known flag, values, and flags."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"
RECIPE_NAMES = (
    "two-rooms, two-rooms-small, two-rooms-full, point-maze-small, point-maze-full, reacher-small, reacher-full, "
    "cart-pole-small, cart-pole-full, push-t-small, push-t-full, moving-dot or slow-features"
)


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


def add_common(parser: argparse.ArgumentParser, *, out: str, seed: str, seed_default: int | None = 0) -> None:
    """Add seed, device, folder and threads, and what :func:`add_json` adds."""
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
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add what is printed and written."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars or tables")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the result as JSON to FILE, or to stdout"
    )


def add_objective(parser: argparse.ArgumentParser) -> None:
    """Add the choice of an objective by name."""
    parser.add_argument(
        "--objective",
        metavar="NAME",
        help="replace the recipe's terms, e.g. controllable or vicreg; see `worldmodel objectives`",
    )


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add the smoke preset."""
    parser.add_argument(
        "--preset", default="default", choices=("default", "smoke"), help="smoke: the same path in seconds"
    )


def add_recipe_settings(parser: argparse.ArgumentParser) -> None:
    """Add overrides of a recipe."""
    parser.add_argument(
        "--set", nargs="+", metavar="KEY=VALUE", dest="settings", default=[], help="e.g. world_model.lr=1e-3"
    )


def add_planner(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a planner and of its settings."""
    parser.add_argument("--planner", help="cem, icem, mppi, gradient, cem_gradient or random_shooting")
    parser.add_argument(
        "--planner-args",
        nargs="+",
        metavar="KEY=VALUE",
        help="e.g. num_samples=128 horizon=16 cost=summed_distance",
    )
