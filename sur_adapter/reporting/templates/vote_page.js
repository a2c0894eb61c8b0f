"use strict";
const get = id => document.getElementById(id);
const pairs = [...document.querySelectorAll(".pair")], votes = {}, shelf = "votes " + document.querySelector("main").dataset.page;
let at = 0;

function keep() {
  try { localStorage.setItem(shelf, JSON.stringify({votes, rater: get("rater").value})); }
  catch { get("kept").textContent = "This browser keeps nothing: save your votes before you close the page."; }
}

function fetchKept() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(shelf)) || {}; } catch { }
  for (const pair of pairs) {
    const vote = (kept.votes || {})[pair.dataset.pair];
    if (["left", "right", "tie"].includes(vote)) votes[pair.dataset.pair] = vote;
  }
  get("rater").value = kept.rater || "rater " + crypto.getRandomValues(new Uint16Array(1))[0];
  at = pairs.findIndex(pair => !(pair.dataset.pair in votes));
  if (at < 0) at = pairs.length;
}

function show(move) {
  const over = at >= pairs.length, mine = over ? "" : votes[pairs[at].dataset.pair];
  pairs.forEach((pair, i) => { pair.hidden = i !== at; });
  get("done").hidden = !over;
  document.querySelectorAll("[data-vote]").forEach(button => {
    button.setAttribute("aria-pressed", button.dataset.vote === mine);
    if (!button.closest(".pair")) button.disabled = over;
  });
  get("back").disabled = at === 0;
  get("bar").value = Object.keys(votes).length;
  get("place").textContent = over ? "All " + pairs.length + " pairs seen" : "Pair " + (at + 1) + " of " + pairs.length;
  if (move) (over ? get("done") : pairs[at].querySelector("h2")).focus({preventScroll: true});
}

function choose(vote) {
  if (at >= pairs.length) return;
  votes[pairs[at].dataset.pair] = vote;
  at += 1;
  keep();
  show(true);
}

function back() {
  at = Math.max(0, at - 1);
  show(true);
}

function table() {
  const rater = get("rater").value.replace(/[^\p{L}\p{N} ._-]/gu, "").replace(/^[^\p{L}\p{N}]+/u, "").trim() || "nameless";
  const rows = pairs.map(pair => pair.dataset.pair).filter(pair => pair in votes).map(pair => [pair, rater, votes[pair]].join(","));
  return ["pair,rater,vote", ...rows].join("\n") + "\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], {type: "text/csv"}));
  link.download = "votes.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const keys = {ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), ArrowDown: () => choose("tie"), ArrowUp: back};
document.addEventListener("keydown", event => {
  const busy = event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || event.target.id === "rater";
  if (busy || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
document.querySelectorAll("[data-vote]").forEach(button => button.addEventListener("click", () => choose(button.dataset.vote)));
get("back").addEventListener("click", back);
get("save").addEventListener("click", save);
get("rater").addEventListener("change", keep);
fetchKept();
show(false);
