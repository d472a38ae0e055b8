// HTTP to the server that served the page, and its server-sent events.

const RETRY_SECONDS = 5;

// What the server, or the way to it, refused: `message` as it was worded.
export class Refusal extends Error {
  constructor(message, status = 0, retryAfter = RETRY_SECONDS) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

// The reply of a GET, or of a POST where there is a body.  `key` is an API key or "".
export async function call(path, body, key, signal) {
  const headers = { "content-type": "application/json" };
  if (/[^\x21-\x7e]/.test(key)) throw new Refusal("an API key has no spaces and only ASCII characters");
  if (key) headers.authorization = `Bearer ${key}`;
  const method = body ? "POST" : "GET";
  let reply;
  try {
    reply = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the server does not answer");
  }
  if (!reply.ok) throw await refusalOf(reply);
  return reply;
}

async function refusalOf(reply) {
  const said = await reply.json().catch(() => null); // a proxy in between may answer in HTML
  const message = said?.error?.message ?? `the server answered ${reply.status} ${reply.statusText}`;
  const seconds = Number(reply.headers.get("retry-after")) || RETRY_SECONDS;
  return new Refusal(message, reply.status, seconds);
}

// The data of server-sent events, parsed.
export async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) throw new Refusal("the connection ended before the answer did");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(event.error.message);
      yield event;
    }
  }
}
