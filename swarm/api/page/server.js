// Talks to this page's own front door. The key lives in sessionStorage and travels in a header, never in a URL.

import { byId } from "./dom.js";

const KEY = "swarm-api-key";
const base = new URL(".", location.href);

export const key = () => sessionStorage.getItem(KEY);

const SILENCE_MS = 30_000;  // the server writes a comment every few seconds: what is silent for longer is gone

let asking = null;

/** Ask the person for a key; all who wait for one share the dialog. */
function askForKey(wasWrong) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-problem").hidden = !wasWrong;
    byId("key").value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, byId("key").value.trim());
      byId("key").value = "";
      byId("forget-key").hidden = false;
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** fetch() against this door: adds the key, and asks for one when the door wants it. */
export async function call(path, options = {}) {
  for (;;) {
    const used = key();
    const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}), ...(used ? { Authorization: `Bearer ${used}` } : {}) };
    const answer = await reach(new URL(path, base), { ...options, headers, cache: "no-store" });
    const noKey = answer.status === 400 && (await answer.clone().json().catch(() => null))?.error?.code === "missing_api_key";
    if (answer.status !== 401 && !noKey) return answer;
    if (used === key()) await askForKey(answer.status === 401);
  }
}

/** fetch()'s own words for a server that is gone differ from browser to browser and help nobody. */
async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("This node does not answer. Does it still run?");
  }
}

function within(promise, milliseconds) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("the server went silent")), milliseconds); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Yield {event, data} of a server-sent event stream. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await within(reader.read(), SILENCE_MS);
      if (done) return;
      rest += value;
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const found = { event: "message", data: "" };
        for (const line of rest.slice(0, end).split("\n")) {
          if (line.startsWith("data:")) found.data += (found.data ? "\n" : "") + line.slice(5).trimStart();
          else if (line.startsWith("event:")) found.event = line.slice(6).trim();
        }
        rest = rest.slice(end + 2);
        if (found.data) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
