"use strict";
const get = id => document.getElementById(id);
const pairs = [...document.querySelectorAll(".pair")], votes = {}, storageKey = "votes " + document.querySelector("main").dataset.page;
let at = 0;

function store() {
  try { localStorage.setItem(storageKey, JSON.stringify({votes, rater: get("rater").value})); }
  catch { get("storage-note").textContent = "This browser cannot store votes: save them before you close the page."; }
}

function restore() {
  let stored = {};
  try { stored = JSON.parse(localStorage.getItem(storageKey)) || {}; } catch { }
  for (const pair of pairs) {
    const vote = (stored.votes || {})[pair.dataset.pair];
    if (["left", "right", "both_right", "both_wrong"].includes(vote)) votes[pair.dataset.pair] = vote;
  }
  get("rater").value = stored.rater || "rater " + crypto.getRandomValues(new Uint16Array(1))[0];
  at = pairs.findIndex(pair => !(pair.dataset.pair in votes));
  if (at < 0) at = pairs.length;
}

function show(moveFocus) {
  const finished = at >= pairs.length, current = finished ? "" : votes[pairs[at].dataset.pair];
  pairs.forEach((pair, i) => { pair.hidden = i !== at; });
  get("done").hidden = !finished;
  document.querySelectorAll("[data-vote]").forEach(button => {
    button.setAttribute("aria-pressed", button.dataset.vote === current);
    if (!button.closest(".pair")) button.disabled = finished;
  });
  get("back").disabled = at === 0;
  get("bar").value = Object.keys(votes).length;
  get("place").textContent = finished ? "All " + pairs.length + " pairs shown" : "Pair " + (at + 1) + " of " + pairs.length;
  if (moveFocus) (finished ? get("done") : pairs[at].querySelector("h2")).focus({preventScroll: true});
}

function castVote(vote) {
  if (at >= pairs.length) return;
  votes[pairs[at].dataset.pair] = vote;
  at += 1;
  store();
  show(true);
}

function back() {
  at = Math.max(0, at - 1);
  show(true);
}

function csv() {
  const rater = get("rater").value.replace(/[^\p{L}\p{N} ._-]/gu, "").replace(/^[^\p{L}\p{N}]+/u, "").trim() || "anonymous";
  const rows = pairs.map(pair => pair.dataset.pair).filter(pair => pair in votes).map(pair => [pair, rater, votes[pair]].join(","));
  return ["pair,rater,vote", ...rows].join("\n") + "\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], {type: "text/csv"}));
  link.download = "votes.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const keys = {
  ArrowLeft: () => castVote("left"),
  ArrowRight: () => castVote("right"),
  ArrowUp: () => castVote("both_right"),
  ArrowDown: () => castVote("both_wrong"),
  Backspace: back,
};
document.addEventListener("keydown", event => {
  const ignored = event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || event.target.id === "rater";
  if (ignored || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
document.querySelectorAll("[data-vote]").forEach(button => button.addEventListener("click", event => {
  if (event.detail < 2) castVote(button.dataset.vote);  // the second click of a double click or tap is not a vote on the next pair
}));
get("back").addEventListener("click", back);
get("save").addEventListener("click", save);
get("rater").addEventListener("change", store);
restore();
show(false);
