"use strict";
// The page to vote on. Votes wait in an outbox until the server says that they are stored; the outbox survives a reload.
// The token is in the address after the #, which the browser sends to nobody.
const at = (id) => document.getElementById(id);
const AHEAD = 5; // pairs that are loaded beyond the one on screen
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "tie", ArrowDown: "skip" };
const stacked = matchMedia("(max-aspect-ratio: 1/1)"); // as in label.css: one picture above the other
const BUTTONS = { left: ["choose-left", "left"], right: ["choose-right", "right"], tie: ["tie"], skip: ["skip"] };

let rater = "";
let last = null; // vote_id of the last vote of an earlier visit
let queue = []; // pairs to come; the first is on screen
let past = []; // what was answered here, for undo: {view, id}
let outbox = []; // {kind: "vote" | "withdraw", id, ...} in order
let known = new Set(); // numbers of pairs in the queue or answered
let asking = false, exhausted = false, sending = false, stopped = false;
let changes = 0; // answers and undos so far
let shownAt = 0, times = [], progress = { pairs: 0, answered: 0, votes: 0 }, self = null;

class Halt extends Error {}

async function call(path, body) {
  const headers = { authorization: `Bearer ${location.hash.slice(1)}` };
  const options = body === undefined ? { headers } : { method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { ...options, cache: "no-store" });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ error: `The server said ${answer.status}.` }));
  if (answer.status === 401 || answer.status === 403) {
    stopped = true;
    at("answers").hidden = at("status").hidden = true;
    tell("This link does not work", told.error.charAt(0).toUpperCase() + told.error.slice(1));
    throw new Halt(told.error);
  }
  throw Object.assign(new Error(told.error), { status: answer.status });
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const lasting = (status) => status >= 400 && status < 500 && status !== 408 && status !== 429;

// pairs ---------------------------------------------------------------------------------------------------------------

async function picture(number, side) {
  for (let wait = 0.5; ; wait = Math.min(2 * wait, 8)) {
    try {
      const image = new Image();
      image.alt = "";
      image.draggable = false;
      image.src = URL.createObjectURL(await (await call(`/api/pictures/${number}/${side}`)).blob());
      await image.decode();
      return image;
    } catch (error) {
      if (error instanceof Halt || lasting(error.status) || error.name === "EncodingError") {
        const missing = document.createElement("span");
        missing.textContent = error.status ? error.message : "This picture cannot be shown. Skip the pair.";
        return missing;
      }
      await pause(wait);
    }
  }
}

function load(view) {
  view.ready = Promise.all([picture(view.number, "left"), picture(view.number, "right")]).then((images) => {
    view.images = images;
    if (queue[0] === view) show();
  });
  return view;
}

async function ask() {
  if (asking || exhausted || stopped || queue.length > AHEAD) return;
  asking = true;
  for (let wait = 0.5; !stopped; wait = Math.min(2 * wait, 8)) {
    try {
      const unsent = outbox.filter((entry) => entry.kind === "vote").length;
      const count = Math.min(50, queue.length + unsent + AHEAD);
      const before = changes, settled = !outbox.length;
      const told = await (await call(`/api/views?count=${count}`)).json();
      if (!settled || changes !== before) { // votes were on their way: the server may not have counted them
        told.progress.answered += progress.votes - told.progress.votes;
        told.progress.votes = progress.votes;
      }
      progress = told.progress;
      self = told.with_self;
      const fresh = told.views.filter((view) => !known.has(view.number));
      exhausted = told.views.length < count;
      for (const view of fresh) {
        known.add(view.number);
        queue.push(load(view));
      }
      queue.sort((a, b) => a.number - b.number);
      break;
    } catch (error) {
      if (error instanceof Halt) break;
      if (!queue.length) tell("The server does not answer", "The page goes on by itself when it does. Nothing is lost.");
      await pause(wait);
    }
  }
  asking = false;
  show();
}

let onScreen = null;
function show() {
  if (stopped) return;
  const view = queue[0];
  facts();
  if (!view) {
    onScreen = null;
    enable(false);
    if (asking || !exhausted) return;
    const left = progress.pairs - progress.answered;
    const detail = left > 0 ? "The last pairs are with other people. Reload later: what they leave comes to you." : "Every vote counts. You can close this page once it says that all are stored.";
    return tell("Done, thank you", detail);
  }
  at("message").hidden = true;
  at("pair").hidden = false;
  at("prompt").hidden = false;
  at("prompt").textContent = view.prompt;
  ask_of(view);
  if (!view.images) {
    onScreen = null;
    enable(false);
    for (const side of ["left", "right"]) at(side).replaceChildren("Loading…");
    return;
  }
  if (onScreen === view) return;
  onScreen = view;
  at("left").replaceChildren(view.images[0]);
  at("right").replaceChildren(view.images[1]);
  enable(true);
  shownAt = performance.now();
  document.body.dataset.number = view.number;
}

// With several questions each view has its own: what is asked changes while the pictures stay.
let asked = "";
function ask_of(view) {
  if (!view.question || view.question === asked) return;
  asked = view.question;
  at("question").textContent = asked;
  at("question").classList.add("named");
  say(asked);
}

function enable(on) {
  for (const id of ["left", "right", "choose-left", "choose-right", "tie", "skip"]) at(id).disabled = !on;
  at("undo").disabled = !(past.length || last);
}

function tell(headline, detail) {
  at("pair").hidden = true;
  at("prompt").hidden = true;
  at("message").hidden = false;
  at("headline").textContent = headline;
  at("detail").textContent = detail;
  say(`${headline}. ${detail}`);
}

function say(text) {
  at("spoken").textContent = text;
}

// votes ---------------------------------------------------------------------------------------------------------------

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is not there without https
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

function answer(choice) {
  const view = queue[0];
  if (!view || onScreen !== view || stopped) return;
  const broken = view.images.some((image) => image.nodeName !== "IMG");
  if (broken && choice !== "skip") return say("A picture is missing. Skip the pair.");
  queue.shift();
  const id = newId();
  const seconds = (performance.now() - shownAt) / 1000;
  past.push({ view, id });
  if (past.length > 20) forget(past.shift().view);
  post({ kind: "vote", id, number: view.number, answer: choice, seconds });
  times.push(Date.now());
  changes += 1;
  progress.votes += 1;
  progress.answered += 1; // until the server's count comes: a repetition is no new pair
  flash(choice);
  show();
  say(`${{ ...sides(), tie: "Tie", skip: "Skipped" }[choice]}. ${queue[0] ? `Next: ${queue[0].prompt}` : ""}`);
  ask();
}

function forget(view) {
  for (const image of view.images) if (image.src) URL.revokeObjectURL(image.src);
}

function undo() {
  if (stopped) return;
  if (past.length) {
    const { view, id } = past.pop();
    const unsent = outbox.findIndex((entry) => entry.id === id);
    if (unsent > 0 || (unsent === 0 && !sending)) {
      outbox.splice(unsent, 1);
      keep();
      flush();
    } else post({ kind: "withdraw", id });
    queue.unshift(view);
    onScreen = null;
    times.pop();
    changes += 1;
    progress.votes -= 1;
    progress.answered -= 1;
    show();
    say(`Undone. ${view.prompt}`);
  } else if (last) {
    post({ kind: "withdraw", id: last, reload: true });
    last = null;
    say("Undone. The pair before comes back.");
  }
  enable(Boolean(onScreen));
}

function sides() {
  return stacked.matches ? { left: "Upper", right: "Lower" } : { left: "Left", right: "Right" };
}

function nameSides() {
  for (const [side, name] of Object.entries(sides())) {
    at(side).setAttribute("aria-label", `The ${name.toLowerCase()} picture is better`);
    at(`choose-${side}`).querySelector("span").textContent = name;
  }
}

function flash(choice) {
  const button = at(BUTTONS[choice][0]);
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 140);
}

function post(entry) {
  outbox.push(entry);
  keep();
  flush();
}

const place = () => `palate outbox ${rater}`;

function keep() {
  try {
    localStorage.setItem(place(), JSON.stringify(outbox));
  } catch {} // private windows may refuse; the outbox then lives as long as the page
  saving();
}

function saving(trouble = "") {
  const waiting = outbox.length;
  at("saving").textContent = trouble || (waiting ? "storing…" : progress.votes ? "all votes stored" : "");
  at("saving").classList.toggle("late", Boolean(trouble));
  document.body.dataset.waiting = waiting;
}

async function flush() {
  if (sending || stopped) return;
  sending = true;
  let wait = 0.5;
  while (outbox.length && !stopped) {
    const entry = outbox[0];
    try {
      if (entry.kind === "vote") {
        await call("/api/votes", { vote_id: entry.id, number: entry.number, answer: entry.answer, seconds: entry.seconds });
      } else {
        const told = await (await call(`/api/votes/${entry.id}/withdraw`, {})).json();
        if (entry.reload) return restart(told.last);
      }
    } catch (error) {
      if (error instanceof Halt) break;
      if (!lasting(error.status)) {
        const votes = outbox.length === 1 ? "1 vote waits" : `${outbox.length} votes wait`;
        saving(`${votes} here until the server answers`);
        await pause(wait);
        wait = Math.min(2 * wait, 8);
        continue;
      }
      if (!entry.reload) say(`A vote was not taken: ${error.message}`);
      at("facts").textContent = error.message;
    }
    wait = 0.5;
    outbox.shift();
    keep();
  }
  sending = false;
  if (stopped) return;
  if (exhausted && !queue.length) exhausted = false; // once more: for the last counts, and for what others left
  ask();
}

function restart(latest) { // after undoing a vote of an earlier visit: the server knows which pair comes back
  outbox.shift();
  keep();
  sending = false;
  last = latest;
  queue = [];
  known = new Set();
  exhausted = false;
  onScreen = null;
  flush();
  ask();
}

function facts() {
  const now = Date.now();
  times = times.filter((time) => now - time < 300_000);
  const told = [`${progress.votes.toLocaleString()} ${progress.votes === 1 ? "vote" : "votes"} by you`];
  const answered = Math.min(progress.pairs, Math.max(progress.answered, 0));
  if (progress.pairs) told.unshift(`${answered.toLocaleString()} of ${progress.pairs.toLocaleString()} pairs`);
  if (times.length > 4) told.push(`${Math.round((times.length - 1) / Math.max((times.at(-1) - times[0]) / 60_000, 1 / 60))} a minute`);
  if (self) told.push(`same choice on ${Math.round(self.share * self.n)} of ${self.n} repeats`);
  at("facts").textContent = told.join(" · ");
  at("bar").max = progress.pairs || 1;
  at("bar").value = answered;
}

// -------------------------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Backspace") undo();
  else if (KEYS[event.key]) answer(KEYS[event.key]);
  else return;
  event.preventDefault();
});
for (const [choice, ids] of Object.entries(BUTTONS)) for (const id of ids) at(id).addEventListener("click", () => answer(choice));
at("undo").addEventListener("click", undo);
stacked.addEventListener("change", nameSides);
nameSides();
window.addEventListener("hashchange", () => location.reload());

async function start() {
  try {
    const told = await (await call("/api/session")).json();
    rater = told.rater;
    last = told.last;
    at("question").textContent = told.question;
    outbox = JSON.parse(localStorage.getItem(place()) || "[]");
    for (const entry of outbox) if (entry.kind === "vote") known.add(entry.number);
    await flush();
    await ask();
    at("prompt").focus();
  } catch (error) {
    if (error instanceof Halt) return;
    tell("The server does not answer", "The page tries again by itself.");
    await pause(2);
    start();
  }
}

start();
