// A search's page: follows its events, and draws the front.

import { refresh } from "./live.js";
import { draw } from "./plot.js";

const head = () => document.getElementById("head").dataset;
const announcer = document.getElementById("announcer");
const KINDS = ["progress", "started", "phase", "trial", "best", "priority", "paused", "resumed", "stopping"];
const LAST = ["succeeded", "failed", "cancelled"];
let events = null;

function follow() {
  if (events !== null || head().final === "yes") return;
  events = new EventSource(head().events);
  for (const kind of [...KINDS, ...LAST]) events.addEventListener(kind, refresh);
  events.addEventListener("error", () => {
    // The browser comes back by itself, unless the service says that there is nothing more, or who are you.
    if (events?.readyState === EventSource.CLOSED) {
      leave();
      refresh();
    }
  });
}

function leave() {
  events?.close();
  events = null;
}

// A browser keeps few connections with one service: pages that nobody looks at hold none.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    leave();
  } else if (head().final !== "yes") {
    refresh();
    follow();
  }
});

let { said } = head();
document.addEventListener("parts-changed", ({ detail: ids }) => {
  if (head().said !== said) {
    said = head().said;
    announcer.textContent = said;
  }
  if (head().final === "yes") leave();
  if (ids.includes("plane")) draw();
});

draw();
follow();
