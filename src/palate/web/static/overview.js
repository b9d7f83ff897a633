"use strict";
// The owner's overview, asked for every few seconds. The token is in the address after the #, which no server sees.
const at = (id) => document.getElementById(id);
const percent = (x) => `${Math.round(100 * x)} %`;

async function update() {
  const headers = { authorization: `Bearer ${location.hash.slice(1)}` };
  try {
    const answer = await fetch("/api/overview", { headers });
    const told = await answer.json();
    if (!answer.ok) {
      at("answer").textContent = told.error;
      if (answer.status === 401 || answer.status === 403) return;
    } else show(told);
  } catch {
    at("note").textContent = "The server does not answer. Figures are the last ones known.";
  }
  setTimeout(update, 4000);
}

const minutes = (count) => (count < 1.5 ? "a minute" : `${Math.round(count)} minutes`);

function show(told) {
  const left = told.pairs - told.answered;
  const pace = told.a_minute > 0 && left > 0 ? `, about ${minutes(left / told.a_minute)} more at this pace` : "";
  at("answer").textContent = left > 0
    ? `${told.answered.toLocaleString()} of ${told.pairs.toLocaleString()} pairs are answered${pace}.`
    : `All ${told.pairs.toLocaleString()} pairs are answered.`;
  at("bar").max = told.pairs;
  at("bar").value = told.answered;
  at("agreement").textContent = [
    agreement("Two people agree on", told.between_people, "couple", "of votes"),
    agreement("People repeat their own choice on", told.with_self, "repeated pair"),
    agreement("They are right on", told.right, "pair", "with a known answer"),
  ].filter(Boolean).join(" ") || "No pair has been shown twice yet, so agreement is not known.";
  at("known").hidden = !told.right;
  at("people").replaceChildren(...Object.entries(told.people).map(([name, person]) => row(name, person, Boolean(told.right))));
  at("note").textContent = "Agreement with 95 % intervals; a tie equals only a tie. Pace is that of the last ten minutes.";
}

function agreement(text, share, what, more = "") {
  if (!share) return "";
  const things = `${share.n} ${what}${share.n === 1 ? "" : "s"} ${more}`.trim();
  return `${text} ${percent(share.share)} [${percent(share.low)}, ${percent(share.high)}] of ${things}.`;
}

function row(name, person, known) {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  line.append(head, ...[
    cell(person.votes), cell(person.a_minute.toFixed(1)), cell(person.median_seconds === null ? "–" : person.median_seconds.toFixed(1)),
    cell(person.ties), cell(person.skips), interval(person.left), interval(person.with_self), interval(person.with_others), ...(known ? [interval(person.right)] : []),
  ]);
  return line;
}

function cell(text) {
  const made = document.createElement("td");
  made.textContent = text;
  return made;
}

function interval(share) {
  if (!share) return cell("–");
  const made = cell(percent(share.share));
  const small = document.createElement("small");
  small.textContent = `${percent(share.low)} to ${percent(share.high)}, n ${share.n}`;
  made.append(small);
  return made;
}

update();
