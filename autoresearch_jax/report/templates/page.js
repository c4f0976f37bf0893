"use strict";
// Draws the charts of a run's page from the data beside them; on a live page also takes its updates.

const data = JSON.parse(document.getElementById("data").textContent);
const TINTS = ["--keep", "--certified", "--pruned", "--reverted", "--failed"];
const SYMBOLS = { baseline: "diamond", revert: "diamond-open", keep: "circle", certified: "star", reverted: "circle-open", discard: "circle", pruned: "triangle-up",
  failed: "x" };
const MOST_LABELS = 15;
const CURVE_POINTS = 20;
const CONFIG = { displayModeBar: false, responsive: true };
let isDrawDue = false;
const NUMBER = 0, HOURS = 1, SCORE = 2, OUTCOME = 3, KIND = 4, WORDS = 5, RUNS = 6, CURVE = 7;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isNarrow = () => window.innerWidth < 600;
const over = () => document.querySelector("input[name=over]:checked").value;
const escape = (text) => String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "\u2026" : text);

function layout(more) {
  const rule = colour("--rule");
  const axis = { gridcolor: rule, zerolinecolor: rule, linecolor: rule, automargin: true };
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), size: 13 },
    margin: { l: 50, r: 15, t: 10, b: 45 }, hovermode: "closest", showlegend: !isNarrow(),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    ...more, xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
    ...(more.yaxis2 ? { yaxis2: { ...axis, ...more.yaxis2 } } : {}) };
}

// The range that holds the champions and most other scores: a wild one must not squash the rest.
function range(runs) {
  const scores = runs.flatMap((run) => run.points.map((point) => point[SCORE])).filter((score) => score !== null);
  const champions = runs.flatMap((run) => run.champions.flatMap((one) => [one[2] - 2 * one[3], one[2] + 2 * one[3]]));
  if (!scores.length) return undefined;
  scores.sort((a, b) => a - b);
  const at = (share) => scores[Math.round(share * (scores.length - 1))];
  const width = Math.max(at(0.75) - at(0.25), Math.max(...champions) - Math.min(...champions));
  const low = Math.min(...champions, Math.max(scores[0], at(0.25) - 3 * width));
  const high = Math.max(...champions, Math.min(scores[scores.length - 1], at(0.75) + 3 * width));
  const margin = 0.04 * (high - low || 1);
  return [low - margin, high + margin];
}

function pointTraces(run, index, several, bounds) {
  const by = over() === "hours" ? HOURS : NUMBER;
  const groups = new Map();
  for (const point of run.points) {
    // Without a score, or with one far outside: on the strip below the chart, so that every experiment is seen.
    const isBelow = point[SCORE] === null || (bounds && (point[SCORE] < bounds[0] || point[SCORE] > bounds[1]));
    const key = `${point[KIND]} ${isBelow}`;
    if (!groups.has(key)) groups.set(key, { kind: point[KIND], isBelow, points: [] });
    groups.get(key).points.push(point);
  }
  const order = ["discard", "pruned", "failed", "reverted", "baseline", "revert", "keep", "certified"];
  const sorted = [...groups.values()].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
  return sorted.map(({ kind, isBelow, points }) => ({
    type: "scatter", mode: "markers", name: kind, legendgroup: kind, xaxis: "x", yaxis: isBelow ? "y2" : "y",
    showlegend: !several && !(isBelow && groups.has(`${kind} false`)),
    x: points.map((point) => point[by]), y: points.map((point) => (isBelow ? 0 : point[SCORE])),
    hovertext: points.map((point) => `${point[NUMBER]} ${escape(point[OUTCOME])}` +
      `${point[SCORE] === null ? "" : " " + point[SCORE]}<br>${escape(cut(point[WORDS], 90))}`),
    hoverinfo: "text", customdata: points.map((point) => `${index} ${point[NUMBER]}`),
    marker: { symbol: SYMBOLS[kind], size: kind === "discard" || kind === "pruned" ? 6 : 9,
      opacity: several ? 0.35 : kind === "discard" ? 0.65 : 1,
      color: colour(several ? TINTS[index % TINTS.length] : kind === "baseline" ? "--ink" : kind === "revert" ? "--keep" : `--${kind}`) },
  }));
}

function championTraces(run, index, several) {
  const by = over() === "hours" ? HOURS : NUMBER;
  const last = Math.max(0, ...run.points.map((point) => point[by]));
  const tint = colour(several ? TINTS[index % TINTS.length] : "--certified");
  const x = [], low = [], mean = [], high = [];
  let from = 0; // of several in flight an earlier experiment may be kept after a later one: the line goes on from there
  run.champions.forEach((one, place) => {
    from = Math.max(from, one[by]);
    const until = place + 1 < run.champions.length ? Math.max(from, run.champions[place + 1][by]) : last;
    for (const at of [from, until]) {
      x.push(at); mean.push(one[2]); low.push(one[2] - 1.96 * one[3]); high.push(one[2] + 1.96 * one[3]);
    }
  });
  const line = { type: "scatter", mode: "lines", hoverinfo: "skip", legendgroup: run.tag };
  return [
    { ...line, x, y: low, line: { width: 0 }, showlegend: false },
    { ...line, x, y: high, line: { width: 0 }, showlegend: false, fill: "tonexty", fillcolor: tint + "30" },
    { ...line, x, y: mean, line: { width: 2, color: tint }, name: several ? run.tag : "champion, 95 % interval" },
  ];
}

function labels(run, bounds) {
  const by = over() === "hours" ? HOURS : NUMBER;
  const steps = run.champions.slice(1).map((one, place) => ({ one, gain: Math.abs(one[2] - run.champions[place][2]) }));
  steps.sort((a, b) => b.gain - a.gain);
  return steps.slice(0, MOST_LABELS).filter(({ one }) => !bounds || (one[2] > bounds[0] && one[2] < bounds[1]))
    .map(({ one }) => {
      const isLate = one[by] > 0.75 * spread()[1]; // there a label would leave the chart on the right
      return { x: one[by], y: one[2], text: isNarrow() ? `${one[0]}` : `${one[0]} ${escape(cut(one[4], 28))}`,
        textangle: isNarrow() || isLate ? 0 : -25, showarrow: false, xanchor: isLate ? "right" : "left",
        yanchor: "bottom", yshift: 4, font: { size: 11, color: colour("--quiet") } };
    });
}

// From the first experiment to the last, with some room on either side.
function spread() {
  const by = over() === "hours" ? HOURS : NUMBER;
  const all = data.runs.flatMap((run) => run.points.map((point) => point[by]));
  const last = all.length ? Math.max(...all) : 0;
  return [-0.03 * (last || 1), 1.03 * (last || 1)];
}

function drawProgress() {
  const several = data.runs.length > 1;
  const bounds = range(data.runs);
  const traces = data.runs.flatMap((run, index) => [
    ...championTraces(run, index, several), ...pointTraces(run, index, several, bounds)]);
  const metric = data.runs[0].metric;
  const better = data.runs[0].direction === "minimize" ? "lower" : "higher";
  Plotly.react("progress", traces, layout({
    xaxis: { title: { text: over() === "hours" ? "attended hours" : "experiment" }, anchor: "y2", range: spread(),
      ...(over() === "experiments" && data.runs.every((run) => run.points.length < 12) ? { dtick: 1 } : {}) },
    yaxis: { title: { text: `${escape(metric)} (${better} is better)` }, range: bounds, domain: [0.09, 1] },
    yaxis2: { domain: [0, 0.05], range: [-1, 1], showticklabels: false, showgrid: false, zeroline: false,
      fixedrange: true, title: { text: "" } },
    annotations: several ? [] : labels(data.runs[0], bounds),
  }), CONFIG);
}

const losses = (point) => (point && point[CURVE] ? point[CURVE].split(" ").map(Number) : []);

function drawCurves() {
  const [place, number] = document.getElementById("chosen").value.split(" ").map(Number);
  const run = data.runs[place || 0];
  const champion = run.champions[run.champions.length - 1][0];
  const of = (wanted) => losses(run.points.find((point) => point[NUMBER] === wanted));
  const tag = data.runs.length > 1 ? `${run.tag}: ` : "";
  const said = (wanted, name) => `${tag}${name}${of(wanted).length < CURVE_POINTS ? ", cut short" : ""}`;
  const curve = (wanted, name, tint) => ({ type: "scatter", mode: "lines", name: said(wanted, name), y: of(wanted),
    x: of(wanted).map((_, index) => 5 * (index + 1)), line: { color: colour(tint), width: 2 } });
  const traces = [curve(champion, `champion ${champion}`, "--certified")];
  if (!Number.isNaN(number) && number !== champion) traces.push(curve(number, `experiment ${number}`, "--failed"));
  Plotly.react("curves", traces, layout({ xaxis: { title: { text: "% of the budget" } },
    yaxis: { title: { text: "training loss" } }, showlegend: true }), CONFIG);
}

function fillChoice() {
  const select = document.getElementById("chosen");
  const before = select.value;
  select.replaceChildren();
  data.runs.forEach((run, place) => {
    for (const point of [...run.points].reverse()) {
      if (!point[CURVE]) continue;
      const tag = data.runs.length > 1 ? `${run.tag}: ` : "";
      select.add(new Option(cut(`${tag}${point[NUMBER]} ${point[OUTCOME]}: ${point[WORDS]}`, 80), `${place} ${point[NUMBER]}`));
    }
  });
  if ([...select.options].some((option) => option.value === before)) select.value = before;
}

// How many peers adopted a finding, as steps: each of the most adopted below, all together above.
function drawAdoptions() {
  const chart = document.getElementById("adoptions");
  if (!chart) return;
  chart.hidden = !data.swarm || !data.swarm.lines;
  if (chart.hidden) return;
  const steps = (points, name, line, more) => ({ type: "scatter", mode: "lines+markers", name: escape(name), hoverinfo: "text",
    x: points.map((one) => one[0]), y: points.map((one) => one[1]),
    hovertext: points.map((one) => `${one[0]} ${one[1]}<br>${escape(one[2])}`),
    line: { shape: "hv", width: 2, ...line }, marker: { size: points.map((one) => (one[2] ? 6 : 0)) }, ...more });
  const lines = data.swarm.lines.map((one, place) =>
    steps(one.points, isNarrow() ? one.name.split(" ")[0] : cut(one.name, 28), tintOf(place)));
  const counts = (title, domain, points) => ({ title: { text: title }, domain, rangemode: "tozero",
    ...(points.every((one) => one[1] < 8) ? { dtick: 1 } : {}) });
  Plotly.react(chart, [...lines, steps(data.swarm.all, "all", { color: colour("--ink") }, { yaxis: "y2", showlegend: false })],
    layout({ xaxis: { title: { text: "UTC" }, type: "date" }, showlegend: true,
      yaxis: counts("adopted by", [0, 0.6], data.swarm.lines.flatMap((one) => one.points)),
      yaxis2: counts("in all", [0.7, 1], data.swarm.all) }), CONFIG);
}

function draw() {
  drawProgress();
  drawCurves();
  drawAdoptions();
}

function choose(wanted) {
  const select = document.getElementById("chosen");
  if (![...select.options].some((option) => option.value === wanted)) return;
  select.value = wanted;
  drawCurves();
  document.getElementById("curves").scrollIntoView({ block: "nearest" });
}

// ---- a live page ----

function place(name, part) {
  let element = document.querySelector(`[data-part="${name}"]`);
  if (!element) {
    const list = part.into && document.querySelector(`[data-list="${part.into}"]`);
    if (!list) return;
    element = document.createElement(part.tag);
    element.dataset.part = name;
    list.append(element);
    document.querySelector(`[data-empty="${part.into}"]`)?.remove();
  }
  element.innerHTML = part.html; // escaped by the server's templates, and the policy runs no script in it
}

function update(message) {
  const run = data.runs[0];
  if (!run) return; // this page has no figures yet, and loads again
  for (const [name, part] of Object.entries(message.parts)) place(name, part);
  if (message.champions) run.champions = message.champions;
  const places = new Map(run.points.map((one, at) => [one[NUMBER], at]));
  for (const point of message.points) {
    if (places.has(point[NUMBER])) run.points[places.get(point[NUMBER])] = point; else run.points.push(point);
  }
  if (message.swarm) data.swarm = message.swarm;
  if (message.points.length || message.champions || message.swarm) drawSoon();
}

// Draws once the words are painted: the charts of a long run take longer than they do.
function drawSoon() {
  if (isDrawDue) return;
  isDrawDue = true;
  requestAnimationFrame(() => setTimeout(() => {
    isDrawDue = false;
    fillChoice();
    draw();
  }));
}

function text(tag, words, into) {
  const element = document.createElement(tag);
  element.textContent = words;
  into.append(element);
  return element;
}

// A trial keeps its line while others end.
const tintOf = (trial) => ({ color: colour(TINTS[trial % TINTS.length]),
  dash: trial % (2 * TINTS.length) < TINTS.length ? "solid" : "dash" });

function showNow(now) {
  const panel = document.getElementById("now");
  panel.replaceChildren();
  const several = now.trials.length > 1;
  for (const trial of now.trials) {
    for (const line of trial.lines) text("p", line, panel);
    if (trial.share === null) continue;
    const bar = text("progress", "", panel);
    bar.max = 1;
    bar.value = trial.share;
    bar.setAttribute("aria-label", `share of the budget that is spent${several ? `: ${trial.name}` : ""}`);
  }
  for (const line of now.lines) text("p", line, panel);
  const chart = document.getElementById("now-curve");
  const curves = now.trials.filter((trial) => trial.curve.length > 1);
  if (curves.length) {
    chart.hidden = false; // and it stays, else the page would jump between two trials
    Plotly.react(chart, curves.map((trial) => ({ type: "scatter", mode: "lines", name: escape(trial.name),
      x: trial.curve.map((one) => one[0]), y: trial.curve.map((one) => one[1]),
      line: { width: 2, ...(several ? tintOf(trial.trial) : { color: colour("--certified") }) } })),
      layout({ xaxis: { title: { text: now.unit } }, yaxis: { title: { text: "loss" } }, showlegend: several }), CONFIG);
  }
  document.getElementById("log").textContent = now.log.join("\n");
}

function listen() {
  const status = document.getElementById("connection");
  const say = (words, isLost) => { status.textContent = words; status.classList.toggle("lost", isLost); };
  const events = new EventSource(`events?since=${document.body.dataset.live}`);
  events.addEventListener("open", () => say("live", false));
  events.addEventListener("error", () => say(events.readyState === EventSource.CLOSED
    ? "the server of this page refuses it: open the address that it printed last"
    : "the server of this page is gone; asking again", true));
  events.addEventListener("update", (event) => update(JSON.parse(event.data)));
  events.addEventListener("now", (event) => showNow(JSON.parse(event.data)));
  events.addEventListener("state", (event) => {
    const state = JSON.parse(event.data);
    say(state.words, state.isTrouble);
  });
  events.addEventListener("reload", () => location.reload());
}

// A page in one file has plotly.js packed; a live one has it from its server. The policy runs it by its hash.
async function unpackPlotly() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const bytes = Uint8Array.from(atob(packed.textContent), (character) => character.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}

async function start() {
  await unpackPlotly();
  if (document.body.dataset.live) listen();
  if (!data.runs.length) return;
  fillChoice();
  draw();
  document.getElementById("chosen").addEventListener("change", drawCurves);
  for (const input of document.querySelectorAll("input[name=over]")) input.addEventListener("change", drawProgress);
  document.getElementById("progress").on("plotly_click", (event) => choose(event.points[0].customdata));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

start();
