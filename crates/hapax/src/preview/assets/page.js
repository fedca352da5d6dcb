// The page of `hapax template preview`. State is what is chosen (kept in the address, so that a reload keeps it) and the
// last answer; everything shown follows from the two. Nothing here makes HTML from text.
"use strict";

const VIEWS = ["desktop", "mobile", "dark", "text", "source", "headers"];
const byId = (id) => document.getElementById(id);
const chosen = { kind: "", sample: "", locale: "", view: "desktop", payload: null };
let kinds = [];
let answer = null;
let asked = 0;
let heights = new Map();

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function show(id, visible) {
  byId(id).hidden = !visible;
}

function size(bytes) {
  return bytes < 1000 ? `${bytes} B` : `${(bytes / 1024).toFixed(bytes < 10240 ? 1 : 0)} KB`;
}

// What is chosen ------------------------------------------------------------------------------------------------------

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  for (const key of ["kind", "sample", "locale"]) chosen[key] = words.get(key) ?? "";
  chosen.view = VIEWS.includes(words.get("view")) ? words.get("view") : "desktop";
}

function writeAddress() {
  const words = new URLSearchParams();
  for (const key of ["kind", "sample", "locale", "view"]) if (chosen[key]) words.set(key, chosen[key]);
  history.replaceState(null, "", `#${words}`);
  document.title = chosen.kind ? `${chosen.kind} · Hapax preview` : "Hapax preview";
}

// What the directory no longer has cannot stay chosen.
function settle() {
  const kind = kinds.find((one) => one.name === chosen.kind) ?? kinds[0];
  if (!kind) return void (chosen.kind = "");
  if (kind.name !== chosen.kind) Object.assign(chosen, { kind: kind.name, payload: null });
  if (!kind.samples.includes(chosen.sample)) chosen.sample = kind.samples[0] ?? "";
  if (chosen.locale && !kind.locales.includes(chosen.locale)) chosen.locale = "";
}

function choose(what) {
  const before = `${chosen.kind} ${chosen.sample}`;
  Object.assign(chosen, what);
  settle();
  if (`${chosen.kind} ${chosen.sample}` !== before) chosen.payload = null;
  if (what.kind) byId("stage").scrollTop = 0;
  showChoices();
  if (what.view) showAnswer();
  else render();
}

// What the server says ------------------------------------------------------------------------------------------------

async function loadKinds() {
  const response = await fetch("/api/kinds");
  const loaded = await response.json();
  kinds = loaded.kinds;
  byId("directory").textContent = `\u200e${loaded.directory}`;
  byId("directory").title = loaded.directory;
  settle();
  showChoices();
  await render();
}

async function render() {
  const ticket = ++asked;
  if (!chosen.kind) return;
  const { kind, sample, locale, payload } = chosen;
  const response = await fetch("/api/render", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ kind, sample, locale, payload }),
  });
  if (!response.ok || ticket !== asked) return;
  answer = await response.json();
  if (ticket !== asked) return;
  showAnswer();
}

function listen() {
  const live = byId("live");
  const events = new EventSource("/api/events");
  const state = (on, text) => {
    live.dataset.state = on ? "on" : "off";
    live.textContent = text;
  };
  events.addEventListener("changed", () => {
    state(true, "following edits");
    loadKinds().catch(() => state(false, "hapax does not answer"));
  });
  events.addEventListener("height", (event) => {
    const [id, pixels] = event.data.split(" ");
    heights.set(id, Number(pixels));
    if (heights.size > 64) heights.delete(heights.keys().next().value);
    fit();
  });
  events.onerror = () => state(false, "hapax does not answer, trying again");
}

// What is shown -------------------------------------------------------------------------------------------------------

function showChoices() {
  writeAddress();
  const kind = kinds.find((one) => one.name === chosen.kind);
  show("none", kinds.length === 0);
  show("kinds", kinds.length > 0);
  const focused = document.activeElement?.dataset?.kind;
  byId("kinds").replaceChildren(...kinds.map(kindItem));
  if (focused) document.querySelector(`#kinds button[data-kind="${CSS.escape(focused)}"]`)?.focus();
  const samples = kind?.samples ?? [];
  options("sample", samples, (name) => name || "sample.json");
  show("sample-label", samples.length > 1);
  const locales = kind?.locales ?? [];
  options("locale", ["", ...locales], (name) => name || "default");
  show("locale-label", locales.length > 0);
  for (const button of document.querySelectorAll("#views button")) {
    const here = button.dataset.view === chosen.view;
    button.ariaSelected = String(here);
    button.tabIndex = here ? 0 : -1;
  }
}

function kindItem(kind) {
  const more = [kind.locales.join(" "), kind.samples.length === 1 ? "" : `${kind.samples.length} samples`];
  const button = element("button", {}, element("span", { className: "name", textContent: kind.name }));
  button.dataset.kind = kind.name;
  button.ariaCurrent = String(kind.name === chosen.kind);
  if (kind.failures.length) {
    const bad = element("span", { className: "bad", textContent: "!", title: kind.failures.join("\n") });
    bad.setAttribute("role", "img");
    bad.ariaLabel = "fails";
    button.append(bad);
  }
  const text = more.filter(Boolean).join(" · ");
  if (text) button.append(element("span", { className: "more", textContent: text }));
  button.onclick = () => choose({ kind: kind.name });
  return element("li", {}, button);
}

function options(id, names, label) {
  const select = byId(id);
  select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: label(name) })));
  select.value = chosen[id];
}

function showAnswer() {
  if (!answer) return;
  const view = answer.view;
  const framed = ["desktop", "mobile", "dark"].includes(chosen.view);
  show("errors", !view);
  byId("errors").replaceChildren(...(view ? [] : answer.problems.map(problemItem)));
  byId("subject").textContent = view ? view.subject : "This message cannot be rendered";
  byId("sizes").textContent = view
    ? [view.has_html && `HTML ${size(view.html_bytes)}`, view.text !== null && `text ${size(view.text_bytes)}`,
       `message ${size(view.message_bytes)}`].filter(Boolean).join(" · ")
    : "";
  show("frames", Boolean(view && framed && view.has_html));
  show("plain", Boolean(view && (chosen.view === "text" || chosen.view === "source")));
  show("headers", Boolean(view && chosen.view === "headers"));
  showHint(view, framed);
  if (view && framed && view.has_html) showFrame(view);
  if (view && chosen.view === "text") keepScroll("plain", view.text ?? "");
  if (view && chosen.view === "source") keepScroll("plain", view.source);
  if (view && chosen.view === "headers") byId("headers").tBodies[0].replaceChildren(...view.headers.map(fieldRow));
  showAside(view);
  showPayload();
  document.body.dataset.shown = `${answer.version}`;
}

// Writing the same text again would lose what is marked in it.
function keepScroll(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function showHint(view, framed) {
  let hint = "";
  if (view && framed && !view.has_html) hint = "This message has no HTML part; its text is under Text.";
  else if (view && chosen.view === "text" && view.text === null) hint = "This message has no text part.";
  else if (view && chosen.view === "source" && view.source_is_cut) hint = "Only the beginning of a long message.";
  else if (view && chosen.view === "dark") {
    hint = view.has_dark_rules
      ? "The message's own rules for dark readers are applied here."
      : "A simulation: this message has no rules for dark readers, so all colours but those of images are inverted, " +
        "about as readers do that darken messages by themselves. Many leave them light.";
  }
  byId("hint").textContent = hint;
  show("hint", hint !== "");
}

// The new frame is loaded behind the old one, and takes its place when it is there: nothing flickers.
function showFrame(view) {
  const frames = byId("frames");
  const dark = chosen.view === "dark";
  const source = `/shown/${answer.id}/html${dark ? "?dark=true" : ""}`;
  frames.className = chosen.view;
  const current = frames.lastElementChild;
  if (current?.getAttribute("src") === source) return fit();
  const frame = element("iframe", { title: "Message", className: dark && view.has_dark_rules ? "own" : "" });
  frame.setAttribute("sandbox", "");
  frame.setAttribute("referrerpolicy", "no-referrer");
  frame.classList.add("coming");
  frame.dataset.id = answer.id;
  frame.onload = () => {
    frame.classList.remove("coming");
    while (frames.firstElementChild !== frame) frames.firstElementChild.remove();
    fit();
  };
  frame.src = source;
  frames.append(frame);
  if (!frames.style.height) frames.style.height = "600px";
}

// As tall as its message, so that the stage scrolls and not the frame: then an edit keeps the place.
function fit() {
  const frame = byId("frames").firstElementChild;
  const pixels = heights.get(frame?.dataset.id);
  if (pixels) byId("frames").style.height = `${Math.max(pixels + 20, chosen.view === "mobile" ? 640 : 200)}px`;
}

function fieldRow({ name, value }) {
  return element("tr", {}, element("th", { textContent: name, scope: "row" }), element("td", { textContent: value }));
}

function problemItem(problem) {
  const where = [problem.file || "this message", problem.line].filter(Boolean).join(":");
  const head = element("header", {}, element("p", { className: "where", textContent: where }),
    element("p", { className: "what", textContent: problem.what }));
  const lines = problem.lines.map(([number, text]) =>
    element("li", { className: number === problem.line ? "here" : "" },
      element("span", { className: "no", textContent: number }), element("span", { textContent: text })));
  return element("article", { className: "error" }, head, ...(lines.length ? [element("ol", {}, ...lines)] : []));
}

function showAside(view) {
  const advice = view?.advice ?? [];
  show("advice-panel", Boolean(view?.has_html));
  byId("advice-count").textContent = advice.length || "";
  const fine = element("li", { className: "fine" }, element("b", { textContent: "Nothing to complain about" }),
    element("span", { textContent: "That is no promise: look at it in real readers before it matters." }));
  const items = advice.map(({ weight, what, remedy }) =>
    element("li", { className: weight }, element("b", { textContent: what }), element("span", { textContent: remedy })));
  byId("advice").replaceChildren(...(items.length ? items : [fine]));
  list("blocked", view?.blocked ?? [], ({ what, url }) => [`${what}: ${url}`]);
  list("attached", view?.attachments ?? [], ({ name, media_type, bytes, inline }) => [
    element("span", { textContent: name }),
    element("span", { className: "small", textContent: `${inline ? "inline " : ""}${media_type} ${size(bytes)}` }),
  ]);
}

function list(name, items, parts) {
  show(`${name}-panel`, items.length > 0);
  byId(`${name}-count`).textContent = items.length || "";
  byId(name).replaceChildren(...items.map((item) => element("li", {}, ...parts(item))));
}

function showPayload() {
  const area = byId("payload");
  if (chosen.payload === null && area.value !== answer.payload) area.value = answer.payload;
  const edited = chosen.payload !== null;
  show("payload-reset", edited);
  byId("payload-toggle").classList.toggle("edited", edited);
  area.classList.toggle("bad", !isObject(area.value));
}

function isObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

// What people do ------------------------------------------------------------------------------------------------------

function togglePayload() {
  const toggle = byId("payload-toggle");
  const open = toggle.ariaExpanded !== "true";
  toggle.ariaExpanded = String(open);
  show("payload-panel", open);
  if (open) byId("payload").focus();
}

function step(by) {
  const at = kinds.findIndex((one) => one.name === chosen.kind);
  const next = kinds[Math.min(Math.max(at + by, 0), kinds.length - 1)];
  if (!next || next.name === chosen.kind) return;
  choose({ kind: next.name });
  document.querySelector("#kinds button[aria-current=true]")?.scrollIntoView({ block: "nearest" });
  document.querySelector("#kinds button[aria-current=true]")?.focus({ preventScroll: true });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches?.("textarea, select, input")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const tabs = event.target.matches?.("#views button");
  const view = VIEWS.indexOf(chosen.view);
  const keys = {
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    ArrowRight: () => tabs && pick(VIEWS[(view + 1) % VIEWS.length]),
    ArrowLeft: () => tabs && pick(VIEWS[(view + VIEWS.length - 1) % VIEWS.length]),
    p: togglePayload,
    P: togglePayload,
  };
  const number = Number(event.key);
  if (number >= 1 && number <= VIEWS.length) choose({ view: VIEWS[number - 1] });
  else if (keys[event.key]) keys[event.key]();
  else return;
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") event.preventDefault();
}

function pick(view) {
  choose({ view });
  document.querySelector("#views button[aria-selected=true]").focus();
}

let typing = 0;
byId("payload").oninput = () => {
  chosen.payload = byId("payload").value;
  showPayload();
  clearTimeout(typing);
  typing = setTimeout(render, 200);
};
byId("payload-reset").onclick = () => {
  chosen.payload = null;
  render();
};
byId("payload-toggle").onclick = togglePayload;
byId("sample").onchange = (event) => choose({ sample: event.target.value });
byId("locale").onchange = (event) => choose({ locale: event.target.value });
for (const button of document.querySelectorAll("#views button")) button.onclick = () => choose({ view: button.dataset.view });
document.addEventListener("keydown", onKey);
addEventListener("hashchange", () => {
  readAddress();
  choose({});
  showAnswer();
});
readAddress();
listen();
