"""The resolved configuration and the versions, in full."""

from __future__ import annotations

from typing import Any

from benchmarks.report.run_files import RunFiles
from benchmarks.report.wording import missing, text, title


def config_section(files: RunFiles) -> str:
    """Write the section from ``config.json``."""
    if not files.config:
        body = missing("The run folder has no configuration.", files.train_command)
        return f'<section id="config"><h2>Configuration</h2>{body}</section>'
    shown = {key: value for key, value in files.config.items() if key not in ("recipe", "versions")}
    recipe = files.config.get("recipe")
    blocks = []
    if isinstance(recipe, dict):
        parts = {key: value for key, value in recipe.items() if isinstance(value, dict) and value}
        single = {key: value for key, value in recipe.items() if key not in parts}
        blocks += [_block("Recipe", single)] if single else []
        blocks += [_block(title(key), value) for key, value in parts.items()]
    elif recipe is not None:
        shown["recipe"] = recipe
    blocks.append(_block("Run", shown))
    versions = files.config.get("versions")
    if versions:
        blocks.append(_block("Versions", versions if isinstance(versions, dict) else {"versions": versions}))
    return f"""<section id="config"><h2>Configuration</h2>
<details><summary>Every setting of the run, and the versions it ran with</summary>
<div class="config">{"".join(blocks)}</div></details></section>"""


def _block(name: str, settings: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{text(key)}</th><td>{text(_written(value))}</td></tr>"
        for key, value in _flat(settings)
    )
    return f"<table><caption>{text(name)}</caption><tbody>{rows}</tbody></table>"


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """List nested settings under dotted keys, in their order."""
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _written(value: object) -> str:
    """Write a value without Python's brackets where they say nothing."""
    if isinstance(value, list):
        return ", ".join(_written(item) for item in value) or "none"
    if value is None or value == {}:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
