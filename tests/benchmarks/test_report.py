import json
import math
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from benchmarks.report import render_report, write_gif
from benchmarks.report.episodes import script_json
from benchmarks.report.svg import log_ticks, tick_text
from benchmarks.report.wording import duration, number, percent

WALLS = [
    *([0, 0, 64, 4], [0, 60, 64, 64], [0, 0, 4, 64], [60, 0, 64, 64]),  # the border
    *([30.5, 4, 33.5, 13.5], [30.5, 22.5, 33.5, 60]),  # the wall and its door around y = 18
]
DOOR = np.array([32.0, 18.0])
HOSTILE = "</script><img src=x onerror=alert(1)> & \"quoted\" 'too'"


def walk(start, goal, num_steps, rng, speed=2.2):
    """Walk from start to goal through the door, with a little noise."""
    path, waypoints = [np.array(start, float)], [DOOR, np.array(goal, float)]
    while len(path) <= num_steps and waypoints:
        ahead = waypoints[0] - path[-1]
        distance = np.linalg.norm(ahead)
        if distance < 2.0:
            waypoints.pop(0)
            continue
        path.append(path[-1] + speed * ahead / distance + rng.normal(0, 0.25, 2))
    return path


def episode(rng, agent, success):
    left = rng.uniform([8, 8], [26, 56])
    right = rng.uniform([38, 8], [56, 56])
    start, goal = (left, right) if rng.random() < 0.5 else (right, left)
    if success:
        path = walk(start, goal, 200, rng)
    else:  # runs into the wall and slides up and down beside it
        side = 29.0 if start[0] < 32 else 35.0
        path = [start]
        for step in range(1, 90):
            towards = np.array([side, 44 + 8 * math.sin(step / 9)])
            path.append(path[-1] + 0.25 * (towards - path[-1]) + rng.normal(0, 0.15, 2))
    imagined = [
        None
        if agent == "mode-1" or k % 2
        else [
            (p + rng.normal(0, 0.3 + 0.12 * i, 2)).round(3).tolist()
            for i, p in enumerate(path[k + 1 : k + 13])
        ]
        or None
        for k in range(len(path) - 1)
    ]
    return {
        "agent": agent,
        "success": success,
        "steps_to_success": len(path) - 1 if success else None,
        "start": path[0].tolist(),
        "goal": goal.tolist(),
        "rects": WALLS,
        "path": [point.tolist() for point in path],
        "imagined": imagined,
    }


def cost_map(goal, rng, cells=40):
    centres = (np.arange(cells) + 0.5) * 64 / cells
    x, y = np.meshgrid(centres, centres)
    inside = np.zeros_like(x, bool)
    for x0, y0, x1, y1 in WALLS:
        inside |= (x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)
    straight = np.hypot(x - goal[0], y - goal[1])
    across = (x < 32) != (goal[0] < 32)
    through_door = np.hypot(x - DOOR[0], y - DOOR[1]) + math.dist(DOOR, goal)
    true = np.where(across, through_door, straight)
    critic = true / 2.2 + rng.normal(0, 0.4, x.shape)
    embedding = 6 * (1 - np.exp(-straight / 18)) + rng.normal(0, 0.05, x.shape)

    def rows(values):
        return np.where(inside, None, values).tolist()

    return {
        "goal": list(goal),
        "rects": WALLS,
        "cost": rows(critic),
        "embedding_distance": rows(embedding),
        "true_distance": rows(true),
    }


def evaluation(agent, rate, low, high, plan_ms, steps, **more):
    return {
        "task": "worldmodel/TwoRooms-v0",
        "split": "eval",
        "agent": agent,
        "planner": None,
        "model": None,
        "seeds": [0],
        "episodes": 200,
        "success_rate": rate,
        "ci95": [low, high],
        "success_rate_final": max(0.0, rate - 0.02),
        "steps_to_success": {"median": steps, "p90": None if steps is None else steps * 1.6},
        "plan_ms": {"mean": plan_ms, "median": plan_ms, "p90": plan_ms * 1.4},
        "env_steps": 7421,
        "wall_s": 12.5,
        "device": "cpu",
        "versions": {"torch": "2.9.0"},
        "command": f"worldmodel evaluate runs/two-rooms --agent {agent}",
        "bounds_respected": True,
        **more,
    }


def metrics(rng):
    lines = []
    for step in range(0, 4000, 10):
        decay = math.exp(-step / 700)
        noise = float(np.exp(rng.normal(0, 0.15)))
        lines.append(
            {
                "stage": "world_model",
                "step": step,
                "loss": (9 * decay + 0.4) * noise,
                "prediction": (0.9 * decay + 0.012) * noise,
                "variance": (1.0 * decay + 0.02) * noise,
                "covariance": (2.0 * decay + 0.001) * noise,
                "inverse_dynamics": (0.3 * decay + 0.05) * noise,
                "temporal_similarity": 0.1 + 0.02 * noise,
                "grad_norm": 2 * noise,
                "lr": 1e-3 * min(1, step / 200) * (0.5 + 0.5 * math.cos(math.pi * step / 4000)),
                "steps_per_s": 61.0 * noise,
            }
        )
    for stage, key in (("predictor", "prediction"), ("critic", "td"), ("actor", "cost")):
        for step in range(0, 1500, 50):
            value = 3 * math.exp(-step / 300) + 0.5 + float(rng.normal(0, 0.03))
            line = {"stage": stage, "step": step, "loss": value, key: value, "lr": 3e-4, "steps_per_s": 210}
            lines.append(line)
    return lines


def write_run(run, *, seed=0, num_episodes=12):
    """Write a folder such as a quickstart leaves behind, with every file of a report's inputs."""
    rng = np.random.default_rng(seed)
    media = run / "media"
    media.mkdir(parents=True)
    config = {
        "recipe": {
            "name": "two-rooms",
            "note": HOSTILE,
            "world_model": {
                "batch_size": 256,
                "lr": 0.001,
                "amp": False,
                "objective": {"prediction": 1.0, "variance": 16.0, "covariance": 8.0},
                "rollout_steps": 12,
            },
            "critic": {"hidden": [256, 256], "expectile": 0.9, "landmarks": None},
            "planner": {"horizon": 8, "num_samples": 64, "num_iters": 2, "std": 0.7},
        },
        "seed": 7,
        "device": "cpu",
        "threads": 2,
        "command": "worldmodel quickstart --seed 7 --out runs/two-rooms",
        "versions": {"worldmodel": "0.1.0", "torch": "2.9.0", "python": "3.11.7"},
        "store": {
            "path": "stores/two-rooms",
            "env": {"id": "worldmodel/TwoRooms-v0", "kwargs": {"image_size": 65, "layout": "fixed"}},
            "num_episodes": 4000,
            "num_steps": 360000,
        },
        "seconds": {
            "collect": 9.1,
            "world_model": 96,
            "predictor": 31.4,
            "critic": 27,
            "actor": 13.2,
            "evaluate": 24,
        },
    }
    results = {
        "evaluations": [
            evaluation("zero", 0.0, 0.0, 0.0188, 0.001, None),
            evaluation("random", 0.03, 0.0138, 0.0639, 0.004, 88),
            evaluation("straight-line", 0.125, 0.086, 0.178, 0.003, 21),
            evaluation("expert", 1.0, 0.9812, 1.0, 0.01, 19),
            evaluation("oracle", 1.0, 0.9812, 1.0, 0.08, 22, planner="cem"),
            evaluation("mode-1", 0.975, 0.943, 0.989, 0.021, 21.5),
            evaluation("mode-2", 0.995, 0.9722, 0.9991, 1.83, 24, planner="cem", model="jepa-conv"),
        ]
    }
    agents = ["mode-2"] * max(1, num_episodes * 2 // 3) + ["mode-1"] * (num_episodes // 3)
    episodes = [episode(rng, agent, i % 5 != 2) for i, agent in enumerate(agents)]
    steps = list(range(1, 21))
    files = {
        "config.json": config,
        "results.json": results,
        "media/episodes.json": {
            "extent": [0, 0, 64, 64],
            "unit": "px",
            "success_radius": 4.5,
            "episodes": episodes,
        },
        "media/probe.json": {
            "steps": steps,
            "rmse": [0.31 + 0.045 * k for k in steps],
            "encoding_rmse": 0.274,
            "chance": 21.7,
            "unit": "px",
            "target": "position",
            "num_rollouts": 512,
        },
        "media/cost_map.json": {
            "extent": [0, 0, 64, 64],
            "unit": "px",
            "maps": [cost_map((50.0, 46.0), rng), cost_map((14.0, 12.0), rng)],
            "rank_correlation": {"critic": 0.987, "embedding_distance": 0.713},
        },
    }
    for name, value in files.items():
        (run / name).write_text(json.dumps(value))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics(rng)))
    return run


class Page(HTMLParser):
    """What a browser would see: visible text, references, ids, and the contents of script elements."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.references, self.ids, self.scripts, self.text = [], [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        inside = next((tag for tag in reversed(self.tags) if tag in ("script", "style", "main")), None)
        if self.cdata_elem == "script":
            self.scripts.append(data)
        elif inside == "main" or self.cdata_elem is None:
            self.text += data


def section(html, name):
    found = re.search(rf'<section id="{name}".*?</section>', html, re.DOTALL)
    assert found
    return found[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "two & rooms")


@pytest.fixture(scope="module")
def html(run):
    return render_report(run).read_text(encoding="utf-8")


def test_the_header_says_what_was_run_and_how_it_went(html):
    words = " ".join(Page(html[: html.index("</header>")]).text.replace("\u00a0", " ").split())
    assert "two & rooms" in words
    assert "Planning on the learned model (Mode-2) reaches the goal in 99.5 % of 200 tasks" in words
    assert "95 % interval 97.2–99.9) at 1.8 ms per action and episode" in words
    assert "The policy alone (Mode-1) reaches the goal in 97.5 %" in words
    assert "worldmodel quickstart --seed 7 --out runs/two-rooms" in words
    assert "4,000 episodes, 360,000 steps" in words
    assert "cpu, 2 threads" in words
    assert "World model 1 min 36 s" in words


def test_the_table_sets_the_reference_rows_apart(html):
    table = section(html, "results")
    learned, references = table.split("For reference")
    assert [agent in learned for agent in ("Mode-2", "Mode-1", "Oracle")] == [True, True, False]
    rows = ("Oracle", "Expert", "Straight-line", "Random", "Zero")
    assert sorted(rows, key=references.index) == list(rows)
    assert "8.6–17.8" in references


def test_an_interval_is_drawn_where_its_numbers_say(html):
    straight_line = section(html, "results").split("Straight-line")[1]
    band = re.search(r'class="band" x="([\d.]+)" y="\d" width="([\d.]+)"', straight_line)
    assert [float(value) for value in band.groups()] == pytest.approx([8.6, 9.2])


def test_actions_outside_their_bounds_are_called_out(tmp_path):
    rows = [evaluation("mode-2", 0.5, 0.4, 0.6, 1.0, 20, bounds_respected=False)]
    (tmp_path / "results.json").write_text(json.dumps({"evaluations": rows}))
    assert "not kept" in section(render_report(tmp_path).read_text(encoding="utf-8"), "results")


def test_the_headline_takes_the_last_evaluation_of_a_mode(tmp_path):
    rows = [evaluation("mode-2", rate, rate, rate, 1.0, 20) for rate in (0.25, 0.75)]
    (tmp_path / "results.json").write_text(json.dumps({"evaluations": rows}))
    headline = render_report(tmp_path).read_text(encoding="utf-8").split("</header>")[0]
    assert "75\u00a0%" in headline
    assert "25\u00a0%" not in headline


def test_every_episode_has_a_room_and_its_path_reaches_the_player(html, run):
    recorded = json.loads((run / "media" / "episodes.json").read_text())["episodes"]
    player = section(html, "episodes")
    assert player.count("<canvas") == len(recorded)
    drawn = json.loads(re.search(r'class="player-data">(.*?)</script>', player, re.DOTALL)[1])["episodes"]
    for got, expected in zip(drawn, recorded, strict=True):
        np.testing.assert_allclose(got["path"], expected["path"], atol=0.005)
        assert [plan is None for plan in got["imagined"]] == [plan is None for plan in expected["imagined"]]
    assert "10 reached" in player
    assert "2 not reached" in player


def test_figures_quote_the_numbers_of_their_files(html):
    maps = section(html, "cost-maps")
    assert maps.count("<svg") == 6
    assert "0.987" in maps
    assert "0.713" in maps
    probe = section(html, "probe")
    for words in ("chance 21.7", "encoded 0.274", "imagined 1.21", "512 rollouts"):
        assert words in probe
    curves = section(html, "training")
    for words in ("temporal similarity", "inverse dynamics", "grad norm", "3,990 steps"):
        assert words in curves


def test_the_full_configuration_is_in_the_page(html):
    config = section(html, "config")
    for words in ("objective.covariance", "256, 256", "store.env.kwargs.layout", "2.9.0"):
        assert words in config


def test_text_from_files_is_escaped(html):
    assert "<img src=x" not in html
    assert HOSTILE in unescape(section(html, "config"))


def test_hostile_strings_cannot_leave_any_part_of_the_page(tmp_path):
    run = write_run(tmp_path / "run")

    def poisoned(value):
        if isinstance(value, dict):
            return {key: poisoned(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poisoned(item) for item in value]
        return HOSTILE + value if isinstance(value, str) and value not in ("mode-2", "mode-1") else value

    for path in [*run.glob("*.json"), *run.glob("media/*.json")]:
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()))))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-3:]
    poisoned_lines = [{**line, "stage": HOSTILE, HOSTILE + "$x": 1.0} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in poisoned_lines))
    page = Page(render_report(run).read_text(encoding="utf-8"))
    assert "img" not in page.tags
    assert page.tags.count("script") == 2


def test_a_script_end_inside_json_data_stays_data():
    written = script_json({"agent": HOSTILE, "line": "\u2028"})
    assert "<" not in written
    assert json.loads(written) == {"agent": HOSTILE, "line": "\u2028"}


def test_the_page_loads_nothing_from_outside_itself(html):
    page = Page(html)
    assert page.references
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert all(target.startswith(("#", "data:")) for target in re.findall(r"url\(['\"]?([^)]*)", html))
    outside = set(re.findall(r"\bhttps?://[^\s\"'<>)]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)


def test_references_inside_the_page_resolve_and_ids_are_unique(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    targets = {reference[1:] for reference in page.references if reference.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", html))
    assert targets <= set(page.ids)


def test_figures_follow_the_colour_scheme_of_the_page(html):
    assert "#0102" not in html
    assert "var(--accent)" in section(html, "probe")


def test_the_same_files_give_the_same_bytes(run, html):
    before = {path: path.read_bytes() for path in run.rglob("*.json*")}
    assert render_report(run).read_text(encoding="utf-8") == html
    assert {path: path.read_bytes() for path in run.rglob("*.json*")} == before
    assert not list(run.glob(".report-*"))


def test_an_empty_run_says_which_commands_fill_the_sections(tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    html = render_report(run).read_text(encoding="utf-8")
    for name in ("results", "episodes", "cost-maps", "probe"):
        assert f"worldmodel evaluate '{run}'" in unescape(section(html, name))
    assert "worldmodel train RECIPE" in section(html, "training")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "metrics.jsonl",
        "results.json",
        "media/episodes.json",
        "media/probe.json",
        "media/cost_map.json",
    ],
)
def test_each_file_alone_makes_a_report(run, tmp_path, name):
    (tmp_path / "media").mkdir()
    (tmp_path / name).write_bytes((run / name).read_bytes())
    html = render_report(tmp_path).read_text(encoding="utf-8")
    assert html.count('class="missing"') >= 4


def test_rows_and_figures_with_holes_are_drawn(tmp_path):
    (tmp_path / "media").mkdir()
    rows = [{"agent": "mode-2", "success_rate": None, "ci95": None, "plan_ms": None}, {"agent": "dreamer"}]
    (tmp_path / "results.json").write_text(json.dumps({"evaluations": rows}))
    (tmp_path / "media" / "probe.json").write_text(json.dumps({"rmse": [1.0, float("nan"), 2.0]}))
    maps = {"extent": [0, 0, 8, 4], "maps": [{"goal": [1, 1], "true_distance": [[0.0, 1.0], [None, 2.0]]}]}
    (tmp_path / "media" / "cost_map.json").write_text(json.dumps(maps))
    lines = [
        {"stage": "critic", "step": 0, "loss": float("inf")},
        {"stage": "critic", "step": 1, "loss": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = render_report(tmp_path).read_text(encoding="utf-8")
    assert "Dreamer" in section(html, "results")
    assert section(html, "cost-maps").count("<svg") == 1


def test_a_line_of_metrics_cut_by_a_kill_is_dropped(tmp_path):
    line = json.dumps({"stage": "critic", "step": 10, "loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"stage": "cri')
    assert "10 steps" in section(render_report(tmp_path).read_text(encoding="utf-8"), "training")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("results.json", '{"evaluations": [', r"results\.json must be JSON, got"),
        ("config.json", "[1]", r"config\.json must be a JSON object, got list"),
        ("metrics.jsonl", "oops\n", r"metrics\.jsonl, line 1 must be JSON, got"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        render_report(tmp_path)


def test_a_run_that_is_not_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run must be a folder that a run has written, got"):
        render_report(tmp_path / "nowhere")


@pytest.mark.render
def test_the_gif_moves_and_fits_a_readme(run, tmp_path):
    from PIL import Image

    out = write_gif(run, tmp_path / "episodes.gif", num_episodes=3)
    assert out.stat().st_size <= 1_500_000
    with Image.open(out) as animation:
        assert animation.n_frames > 10
        first = np.asarray(animation.convert("RGB")).astype(int)
        animation.seek(animation.n_frames - 1)
        last = np.asarray(animation.convert("RGB")).astype(int)
    assert (np.abs(first - last).sum(2) > 60).sum() > 500
    assert tuple(first[100, 20]) == (0xAA, 0xB3, 0xBD)  # the left wall, in its exact colour


@pytest.mark.render
def test_the_gif_draws_as_many_episodes_as_asked(run, tmp_path):
    from PIL import Image

    sizes = []
    for num_episodes in (1, 2):
        with Image.open(write_gif(run, tmp_path / "a.gif", num_episodes=num_episodes)) as animation:
            sizes.append(animation.size)
    assert sizes[1][0] > 1.8 * sizes[0][0]


def test_a_gif_without_episodes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run must hold recorded episodes"):
        write_gif(tmp_path, tmp_path / "a.gif")
    with pytest.raises(ValueError, match="num_episodes must be at least 1, got 0"):
        write_gif(tmp_path, tmp_path / "a.gif", num_episodes=0)


@pytest.mark.parametrize(("low", "high"), [(0.2, 25.0), (1e-8, 1e3), (0.9, 1.9), (3e-4, 2e-1)])
def test_ticks_of_a_log_axis_are_few_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_close_ticks_are_told_apart():
    assert [tick_text(tick) for tick in (8e-5, 1.6e-4, 2.4e-4, 0.05, 20, 3000)] == [
        *("8e-5", "1.6e-4", "2.4e-4"),
        *("0.05", "20", "3k"),
    ]


def test_numbers_are_written_as_people_write_them():
    assert [number(value) for value in (0, 0.0294, 1.0, 38.4, 1234.5, 1e9)] == [
        *("0", "0.0294", "1", "38.4", "1,234", "1e+09"),
    ]
    assert [percent(rate, unit=False) for rate in (0.0, 0.995, 1.0, None)] == ["0", "99.5", "100", "–"]
    assert [duration(s).replace("\u00a0", " ") for s in (9.13, 96, 7500)] == [
        "9.1 s",
        "1 min 36 s",
        "2 h 05 min",
    ]
