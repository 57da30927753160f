import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import render_report, write_gif
from benchmarks.report.svg import log_ticks
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
        "plan_ms": {"median": plan_ms, "p90": plan_ms * 1.4},
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


if __name__ == "__main__":
    import sys

    print(render_report(write_run(Path(sys.argv[1]))))
