// Keeps the page as the server would write it now, draws the curves, and sends orders.
"use strict";

// Never from the page's own address: that may hold the password, which no request may.
const at = (path) => new URL(path, location.origin).href;
const root = document.documentElement;
const told = document.getElementById("told");
const link = document.getElementById("link");

// --- the numbers: what differs from the page as it is now is put in its place

async function refresh() {
  const answer = await fetch(at("/"));
  if (!answer.ok) return;
  const text = await answer.text();
  if (isAway) return; // An answer that was under way when the learner went knows less than the page.
  const fresh = new DOMParser().parseFromString(text, "text/html");
  document.title = fresh.title;
  root.dataset.state = fresh.documentElement.dataset.state;
  for (const part of document.querySelectorAll("[data-live]")) {
    // What somebody reads does not go away under the eyes.
    if (part.querySelector("details[open]")) continue;
    const now = fresh.getElementById(part.id);
    if (now) become(part, now);
  }
  showOrders();
}

// Change `old` into `now` in place, so that focus and what is open stay as they are.
function become(old, now) {
  if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) {
    old.replaceWith(document.importNode(now, true));
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
  } else {
    for (const { name } of [...old.attributes]) {
      if (!now.hasAttribute(name) && name !== "disabled") old.removeAttribute(name);
    }
    for (const { name, value } of now.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const [before, after] = [[...old.childNodes], [...now.childNodes]];
    before.slice(after.length).forEach((node) => node.remove());
    after.forEach((node, i) => {
      if (i < before.length) become(before[i], node);
      else old.append(document.importNode(node, true));
    });
  }
}

let isAway = false; // The learner has ended or does not answer, and the page says so.
let refreshing = false;
let again = false;
async function refreshSoon() {
  again = true;
  if (refreshing) return;
  refreshing = true;
  while (again) {
    again = false;
    await refresh().catch(() => {});
  }
  refreshing = false;
}

// --- the curves

// As a canvas understands it: light-dark() is resolved only where a colour is used.
function colour(name) {
  told.style.color = `var(${name})`;
  const resolved = getComputedStyle(told).color;
  told.style.color = "";
  return resolved;
}
const words = (text, mark) => (text ? text.split(mark) : []);
const lines = { steps: new Map(), evaluations: new Map() };

class Curve {
  constructor(figure) {
    const { metrics, labels, evaluations, evaluationLabels, digits } = figure.dataset;
    this.place = figure.querySelector(".plot");
    this.metrics = words(metrics, " ");
    this.evaluations = words(evaluations, " ");
    this.labels = [...words(labels, "|"), ...words(evaluationLabels, "|")];
    this.digits = Number(digits);
    this.plot = null;
  }

  draw() {
    const steps = [...new Set([...lines.steps.keys(), ...lines.evaluations.keys()])].sort((a, b) => a - b);
    if (!steps.length) return;
    const of = (kind, name) => steps.map((step) => lines[kind].get(step)?.[name] ?? null);
    const rows = [
      ...this.metrics.map((name) => of("steps", name)),
      ...this.evaluations.map((name) => of("evaluations", name)),
    ];
    // A metric that this run does not have needs no line.
    const kept = rows.map((row, i) => i).filter((i) => i === 0 || rows[i].some((value) => value !== null));
    const shown = kept.join();
    if (this.plot && this.shown === shown) {
      this.plot.setData([steps, ...kept.map((i) => rows[i])]);
    } else {
      this.shown = shown;
      this.begin([steps, ...kept.map((i) => rows[i])], kept);
    }
  }

  begin(data, kept) {
    this.plot?.destroy();
    const [quiet, grid] = [colour("--quiet"), colour("--line")];
    const axis = { stroke: quiet, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const strokes = [colour("--blue"), colour("--orange"), colour("--ok"), colour("--critical")];
    const series = kept.map((i, k) => {
      const isEvaluation = i >= this.metrics.length;
      return {
        label: this.labels[i], stroke: strokes[k], width: k ? 1.5 : 2, spanGaps: true,
        dash: k && !isEvaluation ? [4, 3] : undefined,
        points: { show: isEvaluation, size: 6, fill: strokes[k] },
        value: (_, value) => (value === null ? "" : value.toFixed(this.digits)),
      };
    });
    const box = this.place.getBoundingClientRect();
    const legend = kept.length > 1;
    this.plot = new uPlot(
      {
        width: Math.floor(box.width), height: Math.floor(box.height) - (legend ? 24 : 0),
        scales: { x: { time: false } }, legend: { show: legend, live: false }, cursor: { y: false },
        axes: [{ ...axis, size: 24 }, { ...axis, size: 48, values: (_, ticks) => ticks.map((tick) => +tick.toPrecision(6)) }],
        series: [{ label: "step" }, ...series],
      },
      data, this.place,
    );
  }
}

const curves = [...document.querySelectorAll("figure[data-metrics]")].map((figure) => new Curve(figure));
let drawing = 0;
function drawSoon(anew = false) {
  if (anew) for (const curve of curves) curve.shown = null;
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    for (const curve of curves) curve.draw();
  });
}

const keep = (kind, line) => lines[kind].set(line.step, line.metrics);

const MOST_STEPS = 20000;
async function readPast(kind, after) {
  for (let next = after; next !== null; ) {
    const answer = await fetch(at(`/v1/${kind}?limit=1000&after=${next}`));
    if (!answer.ok) return;
    const page = await answer.json();
    for (const line of page[kind]) keep(kind, line);
    next = page.next;
    drawSoon();
  }
}

// --- orders

const ask = document.getElementById("ask");
const TOKEN = "volley-admin-token";

function say(words_, isRefused = false) {
  told.textContent = words_;
  told.classList.toggle("refused", isRefused);
}

// What the person said: null, or the token to use.
async function consent(question, needsToken) {
  document.getElementById("ask-title").textContent = question;
  const label = document.getElementById("ask-token");
  label.hidden = !needsToken;
  const input = label.querySelector("input");
  input.value = "";
  input.required = needsToken;
  ask.returnValue = "no";
  ask.showModal();
  await new Promise((done) => ask.addEventListener("close", done, { once: true }));
  if (ask.returnValue !== "yes") return null;
  return needsToken ? input.value.trim() : sessionStorage.getItem(TOKEN);
}

async function order(button) {
  const known = sessionStorage.getItem(TOKEN);
  const { sure } = button.dataset;
  let token = known;
  if (sure || !known) token = await consent(sure ?? `${button.textContent}?`, !known);
  if (!token) return;
  button.disabled = true;
  try {
    const headers = { Authorization: `Bearer ${token}` };
    const answer = await fetch(at(button.dataset.order), { method: "POST", headers });
    const { detail } = await answer.json();
    say(answer.ok ? `Accepted: ${detail}` : detail, !answer.ok);
    if (answer.ok) sessionStorage.setItem(TOKEN, token);
    if (answer.status === 401 || answer.status === 403) sessionStorage.removeItem(TOKEN);
    refreshSoon();
  } catch {
    say("The learner did not answer: it is away, or the connection is.", true);
  } finally {
    button.disabled = false;
  }
}

function showOrders() {
  for (const button of document.querySelectorAll("[data-while], [data-while-not]")) {
    const { while: only, whileNot } = button.dataset;
    button.hidden = only ? root.dataset.state !== only : root.dataset.state === whileNot;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-order]");
  if (button) order(button);
});

// --- what happens

function end(look, sentence, fix) {
  isAway = true;
  const health = document.getElementById("health");
  health.className = `health ${look}`;
  const list = document.createElement("ul");
  list.append(Object.assign(document.createElement("li"), { textContent: fix }));
  const line = health.querySelector(".sentence").cloneNode(true);
  line.lastChild.textContent = sentence;
  health.replaceChildren(line, list);
}

function listen() {
  const events = new EventSource(at("/v1/events"));
  const line = (kind) => (event) => {
    keep(kind, JSON.parse(event.data));
    drawSoon();
  };
  events.addEventListener("open", () => {
    isAway = false;
    link.textContent = "live";
  });
  events.addEventListener("status", refreshSoon);
  events.addEventListener("step", line("steps"));
  events.addEventListener("evaluation", line("evaluations"));
  events.addEventListener("end", (event) => {
    events.close();
    const { state, reason, exit_code: code } = JSON.parse(event.data);
    link.textContent = "the learner has ended";
    const isFinished = state === "finished";
    const sentence = isFinished ? "Finished." : `The learner has stopped${code ? ` with exit code ${code}` : ""}.`;
    end(isFinished ? "ok" : "gone", sentence, `${reason}. The run folder has all of it.`);
  });
  events.addEventListener("error", () => {
    link.textContent = "no connection";
    end("gone", "The learner does not answer.", "It has ended, or the connection has; this page goes on trying. See the run folder's logs/, or start the same command again.");
  });
}

root.classList.add("live");
showOrders();
listen();
const step = Number(document.querySelector("#glance progress").value);
readPast("steps", Math.max(-1, step - MOST_STEPS));
readPast("evaluations", -1);
new ResizeObserver(() => drawSoon(true)).observe(document.querySelector(".curves"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawSoon(true));
