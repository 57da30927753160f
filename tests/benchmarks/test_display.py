import io

import pytest
from rich.console import Console

from benchmarks.display import progress_bar, results_table
from tests.benchmarks.test_report import evaluation


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_count_time_throughput_and_terms_on_a_common_terminal(width):
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    terms = {"loss": 4.667, "prediction": 0.573, "variance": 0.177, "covariance": 0.058, "lr": 1e-3}
    with progress_bar(console, "steps") as update:
        update("world_model", 40, 900, {**terms, "val_prediction": 9.0, "steps_per_s": 12.3})
        update("world_model", 600, 900, {})
    line = [line for line in stream.getvalue().splitlines() if "world model" in line][-1]
    for part in ("world model", "━", "600/900", "steps", "ETA", "12/s", "loss 4.67"):
        assert part in line, line
    assert "val" not in line


def test_a_table_has_a_row_per_agent_with_the_learned_ones_first():
    rows = [evaluation("zero", 0.0, 0.0, 0.02, 0.1, None), evaluation("mode-2", 0.99, 0.96, 1.0, 1.5, 20)]
    stream = io.StringIO()
    Console(file=stream, width=120).print(results_table(rows))
    text = stream.getvalue()
    assert text.index("mode-2") < text.index("zero")
    assert "96.0 – 100.0" in text
