// Keeps a page up with the service: loads the page again and takes over the parts that have changed.
// The server draws a page in one way only, with scripts or without.

let running = null;
let wanted = false;

// Ask for the present page. Calls while one is under way are answered by one more after it.
export function refresh() {
  wanted = true;
  running ??= work().finally(() => { running = null; });
  return running;
}

async function work() {
  while (wanted) {
    wanted = false;
    const began = performance.now();
    await once();
    // A slow service is asked less often.
    await pause(Math.max(1000, 2 * (performance.now() - began)));
  }
}

async function once() {
  let response;
  try {
    response = await fetch(location.href, { headers: { accept: "text/html" } });
  } catch {
    return; // The service is away; the next event or poll tries again.
  }
  if (response.redirected && new URL(response.url).pathname === "/sign-in") {
    location.assign(response.url);
    return;
  }
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  let changed;
  if (sections(document) === sections(fresh)) {
    changed = [...document.querySelectorAll("[data-part]")].filter((part) => takeOver(part, fresh)).map((part) => part.id);
  } else {
    // Sections came or went: the search has ended, for one.
    const main = document.querySelector("main");
    main.replaceChildren(...adopted(fresh.querySelector("main")));
    changed = [...main.querySelectorAll("[data-part]")].map((part) => part.id);
  }
  if (changed.length) document.dispatchEvent(new CustomEvent("parts-changed", { detail: changed }));
}

function sections(page) {
  return [...page.querySelector("main").children].map((section) => section.id).join();
}

function adopted(parent) {
  return [...parent.childNodes].map((node) => document.adoptNode(node));
}

function takeOver(part, fresh) {
  const next = fresh.getElementById(part.id);
  if (next === null || part.isEqualNode(next)) return false;
  if (part.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
    return false; // Nobody's typing is taken away; the next change comes soon.
  }
  const focused = part.contains(document.activeElement) ? path(part, document.activeElement) : null;
  const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  const open = [...part.querySelectorAll("details[open][id]")].map((details) => details.id);
  part.replaceChildren(...adopted(next));
  for (const { name, value } of next.attributes) part.setAttribute(name, value);
  part.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] ?? 0; });
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (focused !== null) find(part, focused)?.focus({ preventScroll: true });
  return true;
}

// Where an element is: by its id, or by the way down to it.
function path(part, element) {
  if (element.id) return element.id;
  const steps = [];
  for (let node = element; node !== part; node = node.parentElement) {
    steps.unshift([...node.parentElement.children].indexOf(node));
  }
  return steps;
}

function find(part, place) {
  if (typeof place === "string") return document.getElementById(place);
  return place.reduce((node, step) => node?.children[step], part);
}

export function pause(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds); });
}
