// The page at `/`: choose a size, see what it needs, ask, compare.  No framework, no build.
//
// `sizes` are the rows of GET /v1/sizes that are offered, smallest first.  A *side* is one of the
// two places of a comparison; each has a chosen row, a slider, an article for its answer.

import { answer } from "./answers.js";
import { call } from "./api.js";
import { drawCurve, element } from "./drawing.js";
import { bytes, count, params } from "./words.js";

const $ = (selector) => document.querySelector(selector);
const SIDES = ["first", "second"];
const RESOLVE_MS = 250;

let family = null; // the reply of GET /v1/sizes
let sizes = [];
let budget = null; // the reply of POST /v1/sizes/resolve, while the size is chosen by budget
let running = null; // AbortController of the requests under way

const footprint = (row, tokens) => row.weight_bytes + row.kv_bytes_per_token * tokens;
const key = () => $("#key").value;

async function start() {
  try {
    adopt(await offers());
  } catch (error) {
    $("#status").className = "wrong";
    $("#status").textContent = error.message;
    if (error.status === 401) $("#access").open = true;
    else setTimeout(start, error.retryAfter * 1000);
  }
}

const offers = async () => (await call("v1/sizes", null, key())).json();

// A change of the server's memory budget brings sizes and takes them away.
async function refresh() {
  if (!family || running) return;
  const now = await offers().catch(() => null); // what is wrong, the next request says
  if (now && JSON.stringify(now) !== JSON.stringify(family)) adopt(now);
}

function adopt(offered) {
  const before = family && SIDES.map((side) => sizes[$(`#${side}`).valueAsNumber].id);
  family = offered;
  sizes = family.data.filter((row) => row.offered);
  $("#status").className = "ready";
  $("#status").textContent = `ready, ${sizes.length} sizes`;
  $("#family").textContent = family.family;
  document.title = `${family.family} · Boomerang`;
  fillControls(before ?? []);
  if (byBudget()) resolveSoon();
  show();
}

// ── Choosing ───────────────────────────────────────────────────────────────────────────────────

const byBudget = () => $("input[name=by]:checked").value === "budget";
const comparing = () => $("#compare").checked;
const kvTokens = () => (byBudget() && budget ? budget.kv_tokens : family.footprint_tokens);

function chosen(side) {
  if (side === "second") return comparing() ? sizes[$("#second").valueAsNumber] : null;
  if (byBudget()) return budget?.size ?? null;
  return sizes[$("#first").valueAsNumber];
}

// `chosen` are the names of the sizes that the sliders were at, as far as they are still there.
function fillControls(chosen) {
  const middle = sizes[Math.floor((sizes.length - 1) / 2)];
  const first = [chosen[0], family.default, sizes.at(-1).id]; // the default may be auto
  const second = [chosen[1], middle.id];
  [first, second].forEach((wanted, i) => {
    const places = wanted.map((id) => sizes.findIndex((row) => row.id === id));
    $(`#${SIDES[i]}`).max = sizes.length - 1;
    $(`#${SIDES[i]}`).value = places.find((place) => place >= 0);
  });
  for (const end of document.querySelectorAll(".smallest")) end.textContent = sizes[0].size;
  for (const end of document.querySelectorAll(".largest")) end.textContent = sizes.at(-1).size;
  $("#budget").value ||= bytes(footprint(middle, family.footprint_tokens));
  $("#context").value ||= family.footprint_tokens;
}

// Everything that follows from the choice; called whenever it changes.
function show() {
  $("#by-size").hidden = byBudget();
  $("#by-budget").hidden = !byBudget();
  $("#by-second").hidden = !comparing();
  $("article.second").hidden = !comparing();
  for (const place of ["#figures", "#answers"]) $(place).classList.toggle("alone", !comparing());
  if (!family) return;
  for (const side of SIDES) describeSlider(side);
  $("#budget-name").textContent = budget?.size.size ?? "–";
  fillFigures();
  fillTable();
  drawCurve($("#curve"), family.data, SIDES.map(chosen), pick);
  const [path, body] = requestFor(chosen("first") ?? sizes.at(-1));
  const data = JSON.stringify(body).replaceAll("'", "'\\''");
  $("#curl pre").textContent =
    `curl -N ${new URL(path, location.href)} -H 'content-type: application/json' -d '${data}'`;
}

function describeSlider(side) {
  const row = sizes[$(`#${side}`).valueAsNumber];
  $(`#${side}-name`).textContent = row.size;
  const needs = bytes(footprint(row, family.footprint_tokens));
  $(`#${side}`).setAttribute("aria-valuetext", `${row.size}, ${row.layers} layers, ${needs}`);
}

function fillFigures() {
  const tokens = kvTokens();
  const measured = (show) => (row) => (row.quality ? show(row.quality) : "not measured");
  const lines = [
    ["Layers", (row) => row.layers],
    ["Parameters", (row) => params(row.params)],
    ["Weights", (row) => bytes(row.weight_bytes)],
    [`KV cache, ${count(tokens)} tokens`, (row) => bytes(row.kv_bytes_per_token * tokens)],
    ["Footprint", (row) => bytes(footprint(row, tokens))],
    ["KL to the teacher", measured((quality) => quality.kl.toFixed(3))],
    ["Same next token", measured((quality) => `${(quality.top1 * 100).toFixed(1)} %`)],
  ];
  const rows = SIDES.map(chosen);
  SIDES.forEach((side, i) => ($(`#figures th.${side}`).textContent = rows[i]?.size ?? "–"));
  const body = lines.map(([name, value]) => {
    const line = element("tr", name === "Footprint" ? "total" : "");
    const cells = SIDES.map((side, i) => element("td", side, rows[i] ? value(rows[i]) : "–"));
    line.append(element("th", "", name, { scope: "row" }), ...cells);
    return line;
  });
  $("#figures tbody").replaceChildren(...body);
}

function fillTable() {
  const marks = SIDES.map(chosen);
  const measured = family.data.filter((row) => row.quality);
  $("#sizes table").classList.toggle("unmeasured", !family.data.some((row) => row.naive));
  const body = family.data.map((row) => {
    const place = marks.findIndex((mark) => mark?.id === row.id);
    const line = element("tr", row.offered ? (SIDES[place] ? `${SIDES[place]}-row` : "") : "apart");
    const name = row.offered ? row.size : `${row.size}, not offered`;
    line.append(element("th", "", name, { scope: "row" }));
    for (const [text, kind] of cellsOf(row)) line.append(element("td", kind, text));
    return line;
  });
  $("#sizes tbody").replaceChildren(...body);
  $("#curve-text").textContent = curveInWords(measured, marks);
  const n = measured.length ? count(measured[0].quality.n) : "";
  $("#curve-note").textContent = measured.length
    ? `KL to the teacher in nats a token, on ${n} tokens of held-out text. Choose a size by its dot.`
    : "The quality of this family was not measured.";
  const absent = new Set(family.data.map((row) => row.unavailable).filter(Boolean));
  const tokens = count(family.footprint_tokens);
  $("#sizes-note").textContent = [`Footprint with ${tokens} tokens of KV cache.`, ...absent].join(" ");
}

function cellsOf({ layers, params: total, footprint_bytes, quality, naive }) {
  return [
    [layers],
    [count(total)],
    [bytes(footprint_bytes)],
    [quality?.kl.toFixed(3) ?? "–"],
    [naive?.kl.toFixed(3) ?? "–", "naive"],
    [quality?.top1.toFixed(3) ?? "–"],
    [quality?.perplexity.toFixed(1) ?? "–"],
  ];
}

// The text alternative of the picture.
function curveInWords(measured, marks) {
  if (!measured.length) return "No quality was measured.";
  const point = (row) => `${row.size} has ${row.quality.kl.toFixed(3)}`;
  const picked = marks.filter((row) => row?.quality).map((row) => `Chosen: ${point(row)}.`);
  const ends = `${point(measured[0])}, ${point(measured.at(-1))}`;
  return `KL to the teacher against parameters: ${ends} nats a token. ${picked.join(" ")}`;
}

let waiting = 0; // timer of the next question
let asked = null; // AbortController of the last one

function resolveSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(resolveBudget, RESOLVE_MS);
}

// Ask the server which size the budget gives; its refusal is shown as it words it.
async function resolveBudget() {
  clearTimeout(waiting);
  asked?.abort();
  asked = new AbortController();
  const wanted = { memory_budget: $("#budget").value };
  if ($("#context").value) wanted.context_tokens = $("#context").valueAsNumber;
  if ($("#concurrency").value) wanted.concurrency = $("#concurrency").valueAsNumber;
  try {
    budget = await (await call("v1/sizes/resolve", wanted, key(), asked.signal)).json();
    $("#budget-error").textContent = "";
  } catch (error) {
    if (error.name === "AbortError") return;
    budget = null;
    $("#budget-error").textContent = error.message;
  }
  show();
}

function pick(row) {
  $("input[name=by][value=size]").checked = true;
  $("#first").value = sizes.indexOf(row);
  show();
}

// ── Asking ─────────────────────────────────────────────────────────────────────────────────────

function requestFor(row) {
  const prompt = $("#prompt").value;
  const common = {
    model: row.id,
    max_tokens: $("#max-tokens").valueAsNumber,
    temperature: $("#temperature").valueAsNumber,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  if ($("input[name=as]:checked").value === "completion") return ["v1/completions", { ...common, prompt }];
  return ["v1/chat/completions", { ...common, messages: [{ role: "user", content: prompt }] }];
}

function ask(side, row, signal) {
  const open = () => call(...requestFor(row), key(), signal);
  return answer($(`article.${side}`), row, open);
}

async function send() {
  if (running) return;
  running = new AbortController(); // before anything is awaited: a second send must see it
  $("#send").disabled = true;
  $("#stop").disabled = false;
  try {
    await answerBoth(running.signal);
  } finally {
    running = null;
    $("#send").disabled = false;
    $("#stop").disabled = true;
  }
  if ([...document.querySelectorAll("article .error")].some((place) => place.textContent)) refresh();
}

async function answerBoth(signal) {
  if (byBudget()) await resolveBudget(); // what is sent is what is shown
  if (signal.aborted) return;
  if (byBudget() && !budget) return $("#budget").focus();
  const sides = comparing() ? SIDES : ["first"];
  $("#progress").textContent = "answering";
  const ends = await Promise.all(sides.map((side) => ask(side, chosen(side), signal)));
  $("#progress").textContent = ends.join("; ");
}

// ── Wiring ─────────────────────────────────────────────────────────────────────────────────────

$("#ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("#prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("#ask").requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
$("#stop").addEventListener("click", () => running?.abort());
document.addEventListener("visibilitychange", () => document.hidden || refresh());
$("#access-form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
for (const field of ["#budget", "#context", "#concurrency"]) $(field).addEventListener("input", resolveSoon);
for (const control of ["#choice", "#ask"]) $(control).addEventListener("input", show);
for (const way of document.querySelectorAll("input[name=by]")) {
  way.addEventListener("change", () => byBudget() && resolveBudget());
}
show();
start();
