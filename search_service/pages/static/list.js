// The list of searches: asked again every few seconds while somebody looks.

import { pause, refresh } from "./live.js";

const OFTEN = 3000; // milliseconds, while a search is under way
const SELDOM = 15000;

for (;;) {
  const moving = document.getElementById("searches").dataset.moving === "yes";
  await pause(moving ? OFTEN : SELDOM);
  if (!document.hidden) await refresh();
}
