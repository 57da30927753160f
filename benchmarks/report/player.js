"use strict";

// Copy buttons. The clipboard interface is missing from pages opened over plain http.
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// Planned episodes: every canvas shows the same step of its own episode.
function startPlayer(section) {
  const data = JSON.parse(section.querySelector(".player-data").textContent);
  const find = (name) => section.querySelector(name);
  const [play, scrubber, stepOut, speed, outcome, agent, every] =
    [".play", ".scrubber", ".step", ".speed", ".outcome", ".agent", ".every"].map(find);
  const tiles = [...section.querySelectorAll(".episode")].map((figure) => ({
    figure,
    canvas: figure.querySelector("canvas"),
    episode: data.episodes[Number(figure.dataset.index)],
  }));
  const [x0, y0, x1, y1] = data.extent;
  const STEPS_PER_SECOND = 10;
  let time = 0; // in steps, fractional while playing
  let last = 1; // the last step of the longest visible episode
  let previousFrame = null; // time stamp while playing [ms]
  let colours = {};

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["room", "wall", "accent", "imagined", "goal", "muted", "paper"]) {
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
  }

  function draw({ canvas, episode }) {
    const width = canvas.clientWidth;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    const height = (width * (y1 - y0)) / (x1 - x0);
    if (canvas.width !== Math.round(width * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const scale = (canvas.width / (x1 - x0));
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, -x0 * scale, -y0 * scale);
    const pixel = ratio / scale; // one CSS pixel in room units
    const size = Math.max(1, Math.sqrt(width / 220)); // lines grow a little with an enlarged room

    const line = (points, colour, thickness, alpha, dash = []) => {
      if (points.length < 2) return;
      context.beginPath();
      points.forEach(([x, y]) => context.lineTo(x, y));
      Object.assign(context, { strokeStyle: colour, lineWidth: thickness * pixel * size, globalAlpha: alpha });
      context.setLineDash(dash.map((length) => length * pixel * size));
      context.stroke();
    };
    const disc = ([x, y], radius, alpha, fill, stroke, thickness = 1.5) => {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.setLineDash([]);
      context.globalAlpha = alpha;
      if (fill) { context.fillStyle = fill; context.fill(); }
      context.globalAlpha = 1;
      if (stroke) {
        Object.assign(context, { strokeStyle: stroke, lineWidth: thickness * pixel * size });
        context.stroke();
      }
    };

    context.lineJoin = context.lineCap = "round";
    context.globalAlpha = 1;
    context.fillStyle = colours.room;
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
    context.fillStyle = colours.wall;
    for (const [left, top, right, bottom] of episode.rects || []) {
      context.fillRect(left, top, right - left, bottom - top);
    }

    const path = episode.path || [];
    const end = path.length - 1;
    const now = Math.min(time, Math.max(end, 0));
    const step = Math.floor(now);
    if (episode.goal) {
      disc(episode.goal, data.success_radius || 3 * pixel, 0.16, colours.goal, colours.goal);
      disc(episode.goal, 1.8 * pixel * size, 1, colours.goal);
    }
    line(path, colours.accent, 1.6, 0.4);

    const plans = episode.imagined || [];
    if (every.checked) {
      plans.forEach((plan, k) => {
        if (plan && path[k]) line([path[k], ...plan], colours.imagined, 0.9, 0.22);
      });
    }
    if (!end || end < 0) {
      if (path[0]) disc(path[0], 4.5 * pixel * size, 1, colours.accent, colours.paper);
      return;
    }

    const [ax, ay] = path[step];
    const [bx, by] = path[Math.min(step + 1, end)];
    const dot = [ax + (bx - ax) * (now - step), ay + (by - ay) * (now - step)];
    line([...path.slice(0, step + 1), dot], colours.accent, 2.2, 0.95);
    if (episode.start) disc(episode.start, 3.5 * pixel * size, 1, colours.room, colours.muted);

    if (step < end) disc(path[end], 2.2 * pixel * size, 0.45, colours.accent);

    // A plan is kept for several steps by some planners: show the latest, fading.
    let planned = Math.min(step, plans.length - 1);
    while (planned >= 0 && !plans[planned]) planned -= 1;
    if (planned >= 0 && path[planned]) {
      const alpha = Math.max(0, 1 - 0.15 * (step - planned));
      const plan = [path[planned], ...plans[planned]];
      line(plan, colours.imagined, 2.2, alpha, [0.1, 4]);
      disc(plan[plan.length - 1], 2.4 * pixel * size, alpha, colours.imagined);
    }
    disc(dot, 4.5 * pixel * size, 1, colours.accent, colours.paper);
  }

  function drawAll() {
    scrubber.value = time;
    stepOut.textContent = `step ${Math.floor(time)}`;
    for (const tile of tiles) if (!tile.figure.hidden) draw(tile);
  }

  function filter() {
    let visible = 0;
    last = 1;
    for (const { figure, episode } of tiles) {
      figure.hidden = Boolean(
        (outcome.value && figure.dataset.outcome !== outcome.value) ||
        (agent && agent.value && figure.dataset.agent !== agent.value));
      if (figure.hidden) continue;
      visible += 1;
      last = Math.max(last, (episode.path || []).length - 1);
    }
    find(".nothing").hidden = visible > 0;
    scrubber.max = last;
    time = Math.min(time, last);
    drawAll();
  }

  function setPlaying(playing) {
    play.setAttribute("aria-pressed", playing);
    find(".play-label").textContent = playing ? "Pause" : "Play";
    previousFrame = null;
    if (!playing) return;
    if (time >= last) time = 0;
    requestAnimationFrame(advance);
  }

  function isPlaying() { return play.getAttribute("aria-pressed") === "true"; }

  function advance(stamp) {
    if (!isPlaying()) return;
    if (previousFrame !== null) {
      time = Math.min(last, time + ((stamp - previousFrame) / 1000) * STEPS_PER_SECOND * Number(speed.value));
    }
    previousFrame = stamp;
    drawAll();
    if (time >= last) setPlaying(false);
    else requestAnimationFrame(advance);
  }

  function recolour() { readColours(); drawAll(); }

  play.addEventListener("click", () => setPlaying(!isPlaying()));
  scrubber.addEventListener("input", () => { setPlaying(false); time = Number(scrubber.value); drawAll(); });
  outcome.addEventListener("change", filter);
  if (agent) agent.addEventListener("change", filter);
  every.addEventListener("change", drawAll);
  for (const tile of tiles) {
    const enlarge = () => tile.figure.classList.toggle("large");
    tile.canvas.style.aspectRatio = `${x1 - x0} / ${y1 - y0}`;
    tile.canvas.addEventListener("click", enlarge);
    tile.canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(); }
    });
  }
  const resized = new ResizeObserver(drawAll);
  tiles.forEach((tile) => resized.observe(tile.canvas));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  addEventListener("beforeprint", () => { document.documentElement.classList.add("printing"); recolour(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); recolour(); });
  readColours();
  filter();
}

document.querySelectorAll(".player").forEach((section) => {
  if (section.querySelector(".player-data")) startPlayer(section);
});
