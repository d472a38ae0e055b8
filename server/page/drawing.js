// Elements, and the curve of quality against size as an SVG.  Colours are the style sheet's.

const SVG = "http://www.w3.org/2000/svg";
const BOX = { left: 34, right: 388, top: 22, bottom: 190 };

// An HTML element with a class and a text.
export function element(name, kind = "", text = "", attributes = {}) {
  const made = document.createElement(name);
  return finish(made, kind, text, attributes);
}

function shape(name, kind, attributes, text = "") {
  return finish(document.createElementNS(SVG, name), kind, text, attributes);
}

function finish(made, kind, text, attributes) {
  if (kind) made.setAttribute("class", kind);
  if (text !== "") made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// `rows` smallest first; `marks` are the rows that are chosen, or null, in the order of SIDES.
export function drawCurve(svg, rows, marks, pick) {
  const measured = rows.filter((row) => row.quality);
  svg.toggleAttribute("hidden", measured.length < 2);
  if (measured.length < 2) return;
  const naive = measured.filter((row) => row.naive);
  const at = scales(measured, naive);
  const parts = [...axes(at), ...naiveLine(naive, at), line(measured, "line", at, (row) => row.quality.kl)];
  for (const row of measured) parts.push(dot(row, at, pick));
  marks.forEach((row, i) => row?.quality && parts.push(...mark(row, ["first", "second"][i], at)));
  svg.replaceChildren(...parts);
}

function scales(measured, naive) {
  const [low, high] = [measured[0].params, measured.at(-1).params];
  const worst = [...measured.map((row) => row.quality.kl), ...naive.map((row) => row.naive.kl)];
  const step = niceStep(Math.max(...worst, 1e-6) / 3);
  const top = step * Math.ceil(Math.max(...worst, 1e-6) / step);
  const x = (value) => BOX.left + 8 + ((value - low) / (high - low)) * (BOX.right - BOX.left - 16);
  const y = (value) => BOX.bottom - (value / top) * (BOX.bottom - BOX.top);
  return { x, y, low, high, step, top };
}

// 1, 2 or 5 times a power of ten, not below `rough`.
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
}

function axes({ x, y, low, high, step, top }) {
  const parts = [shape("text", "", { x: 0, y: 10 }, "KL to the teacher")];
  for (let value = 0; value <= top * 1.001; value += step) {
    const height = y(value);
    parts.push(shape("line", "grid", { x1: BOX.left, x2: BOX.right, y1: height, y2: height }));
    const digits = step < 1 ? Math.ceil(-Math.log10(step) - 1e-9) : 0;
    const place = { x: BOX.left - 8, y: height + 4, "text-anchor": "end" };
    parts.push(shape("text", "", place, value.toFixed(digits)));
  }
  const across = niceStep((high - low) / 4);
  for (let value = Math.ceil(low / across) * across; value <= high; value += across) {
    const label = across >= 1e8 ? `${(value / 1e9).toFixed(1)}B` : `${Math.round(value / 1e5) / 10}M`;
    parts.push(shape("text", "", { x: x(value), y: BOX.bottom + 18, "text-anchor": "middle" }, label));
  }
  const place = { x: BOX.right, y: BOX.bottom + 37, "text-anchor": "end" };
  parts.push(shape("text", "", place, "parameters"));
  return parts;
}

function line(rows, kind, at, kl) {
  const points = rows.map((row) => `${at.x(row.params).toFixed(1)},${at.y(kl(row)).toFixed(1)}`);
  return shape("polyline", kind, { points: points.join(" ") });
}

function naiveLine(rows, at) {
  if (!rows.length) return [];
  const parts = [line(rows, "line naive", at, (row) => row.naive.kl)];
  const place = (row) => ({ cx: at.x(row.params), cy: at.y(row.naive.kl), r: 2 });
  parts.push(...rows.map((row) => shape("circle", "naive", place(row))));
  const beside = { x: at.x(rows[0].params) + 10, y: at.y(rows[0].naive.kl) + 1 };
  parts.push(shape("text", "naive", beside, "naive pruning"));
  return parts;
}

function dot(row, at, pick) {
  const kind = row.offered ? "dot pick" : "dot apart";
  const place = { cx: at.x(row.params), cy: at.y(row.quality.kl), r: 4.5, "data-size": row.size };
  const made = shape("circle", kind, place);
  made.append(shape("title", "", {}, `${row.size}: KL ${row.quality.kl.toFixed(3)}`));
  if (row.offered) made.addEventListener("click", () => pick(row));
  return made;
}

function mark(row, kind, { x, y, low, high }) {
  const [cx, cy] = [x(row.params), y(row.quality.kl)];
  const anchor = row.params > (low + high) / 2 ? "end" : "start";
  const away = anchor === "end" ? -6 : 6;
  const text = { x: cx + away, y: cy - 12, "text-anchor": anchor };
  return [
    shape("line", `mark ${kind}`, { x1: cx, x2: cx, y1: cy + 8, y2: BOX.bottom }),
    shape("circle", `mark ${kind}`, { cx, cy, r: 8 }),
    shape("text", `mark ${kind}`, text, row.size),
  ];
}
