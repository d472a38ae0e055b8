// One streamed answer and its figures: time to first token, tokens a second.

import { events } from "./api.js";
import { element } from "./drawing.js";
import { count, seconds } from "./words.js";

// Stream the answer of `row` into its article; `open()` gives the reply.  Gives what a screen
// reader is told at the end.
export async function answer(article, row, open) {
  const [text, wrong] = [article.querySelector(".answer"), article.querySelector(".error")];
  const run = { began: performance.now(), first: null, last: null, tokens: 0, finish: "" };
  article.querySelector("h3").textContent = row.size;
  text.replaceChildren();
  wrong.textContent = "";
  text.ariaBusy = "true";
  try {
    await stream(await open(), run, text, () => showRun(article, run));
    if (run.finish === "length") run.finish = "max tokens";
  } catch (error) {
    run.finish = error.name === "AbortError" ? "stopped by you" : "failed";
    if (run.finish === "failed") wrong.textContent = error.message;
  }
  text.ariaBusy = "false";
  showRun(article, run);
  return `${row.size}: ${run.finish}, ${run.tokens} tokens`;
}

async function stream(reply, run, text, progress) {
  for await (const { choices, usage } of events(reply)) {
    const piece = choices[0]?.delta?.content ?? choices[0]?.text ?? "";
    run.tokens = usage?.completion_tokens ?? run.tokens;
    run.finish = choices[0]?.finish_reason ?? run.finish;
    if (piece) {
      text.append(piece);
      run.last = performance.now();
      run.first ??= { at: run.last, tokens: run.tokens };
    }
    progress();
  }
}

// Tokens per second count what came after the first piece: the prompt has its own figure.
function showRun(article, { began, first, last, tokens, finish }) {
  const rate = first && last > first.at ? ((tokens - first.tokens) * 1000) / (last - first.at) : null;
  const figures = [
    ["first token", first ? seconds(first.at - began) : "–"],
    ["tokens/s", rate === null ? "–" : rate.toFixed(1)],
    ["tokens", count(tokens)],
  ];
  if (finish) figures.push(["end", finish]);
  const pairs = figures.map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", "", name), element("dd", "", value));
    return pair;
  });
  article.querySelector("dl").replaceChildren(...pairs);
}
