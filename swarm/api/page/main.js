// Starts the page: which part is shown, the stream of states, and what the person is told about the connection.

import * as chat from "./chat.js";
import { byId, startCopying } from "./dom.js";
import { call, events, key } from "./server.js";
import { render } from "./swarm.js";

function route() {
  const wanted = location.hash === "#chat" ? "chat" : "swarm";
  for (const name of ["swarm", "chat"]) {
    byId(name).hidden = name !== wanted;
    if (name === wanted) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  document.title = wanted === "chat" ? "Chat · swarm" : "swarm";
  if (wanted === "chat") byId("text").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** What is shown is of now, or plainly not: an old picture that looks live would mislead. */
function tell(text, live) {
  byId("connection").textContent = text;
  document.body.className = live ? "live" : "stale";
}

async function follow() {
  for (let failures = 0; ; failures++) {
    try {
      const answer = await call("swarm/events");
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      for await (const event of events(answer)) {
        if (event.event !== "state") continue;
        failures = 0;
        const state = JSON.parse(event.data);
        render(state);
        chat.know(state);
        tell("Live", true);
      }
    } catch (error) {
      console.info("swarm: the stream of states ended:", error.message);
    }
    tell("This node does not answer; trying again …", false);
    await pause(Math.min(10, 0.5 * 2 ** failures));
  }
}

window.addEventListener("hashchange", route);
byId("forget-key").hidden = !key();
byId("forget-key").addEventListener("click", () => { sessionStorage.clear(); location.reload(); });
route();
startCopying();
chat.start();
follow();
