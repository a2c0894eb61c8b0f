"""The page to vote on: one HTML file, worked with the keyboard, that opens from a disk and writes votes.csv.

It names no arm; a pair is known by its hash alone (vote.py). What was voted stays in the browser until it is saved.
"""

import pandas as pd

from sur_adapter.io.schema import record_id
from sur_adapter.reporting.html import document, picture, said

SIDE = 512  # pixels: larger pictures are made smaller


def vote_page(key: pd.DataFrame, asked: dict, pictures: dict) -> str:
    """The HTML. key: of vote.key; asked: prompt id -> prompt; pictures: (arm, prompt id, seed) -> bytes."""
    pairs = [
        _pair(row.pair, asked[row.id]["prompt"], [pictures[arm, row.id, row.seed] for arm in (row.left, row.right)])
        for row in key.itertuples()
    ]
    name = record_id("".join(key.pair).encode())
    body = BODY.replace("NAME", name).replace("COUNT", str(len(pairs))).replace("PAIRS", "\n".join(pairs))
    return document("Which picture shows the sentence better?", body, STYLE, SCRIPT)


def _pair(pair: str, prompt: str, sides: list[bytes]) -> str:
    shown = {side: picture(data, f"{side} picture", SIDE) for side, data in zip(("left", "right"), sides, strict=True)}
    buttons = [
        f'<button type="button" data-vote="{side}" aria-keyshortcuts="Arrow{side.title()}">{img}</button>' for side, img in shown.items()
    ]
    words = f'<h2 tabindex="-1">{said(prompt)}</h2><div class="two">{"".join(buttons)}</div>'
    return f'<article class="pair" data-pair="{pair}" hidden>{words}</article>'


BODY = """<main data-page="NAME">
<header><h1>Which picture shows the sentence better?</h1>
<p class="soft">Two pictures of each sentence, in an order that was drawn by lot. Choose with the arrow keys: ← left, → right,
↓ neither is better, ↑ back to the one before. Or click a picture.</p>
<noscript><p>This page needs its script, which asks nothing of any network.</p></noscript>
<p class="place"><span id="place" role="status">COUNT pairs</span>
<progress id="bar" max="COUNT" value="0" aria-label="pairs voted on"></progress></p>
</header>
<section id="pairs" aria-label="The pair to vote on">
PAIRS
<p id="done" tabindex="-1" hidden>That was the last pair. Save your votes and send the file to who asked you; ↑ leads back.</p>
</section>
<div class="controls" role="group" aria-label="Your vote">
<button type="button" data-vote="left" aria-keyshortcuts="ArrowLeft">← left</button>
<button type="button" data-vote="tie" aria-keyshortcuts="ArrowDown">↓ neither</button>
<button type="button" data-vote="right" aria-keyshortcuts="ArrowRight">right →</button>
<button type="button" id="back" aria-keyshortcuts="ArrowUp">↑ back</button>
</div>
<p class="save"><label>Your name or any other word <input id="rater" maxlength="40" autocomplete="off" spellcheck="false"></label>
<button type="button" id="save">Save votes.csv</button></p>
<p class="soft" id="kept">Votes stay in this browser until you save them.</p>
</main>"""

SCRIPT = """"use strict";
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
  const rater = get("rater").value.replace(/[^\\p{L}\\p{N} ._-]/gu, "").replace(/^[^\\p{L}\\p{N}]+/u, "").trim() || "nameless";
  const rows = pairs.map(pair => pair.dataset.pair).filter(pair => pair in votes).map(pair => [pair, rater, votes[pair]].join(","));
  return ["pair,rater,vote", ...rows].join("\\n") + "\\n";
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
"""

STYLE = """
h1{font-size:1.3rem}
h2{font-size:1.15rem;border:0;margin:.6em 0;padding:0;min-height:3em}
.place{display:flex;gap:1em;align-items:center}progress{flex:1;accent-color:var(--adapter)}
.two{display:grid;grid-template-columns:1fr 1fr;gap:12px;max-width:min(100%,110vh)}
button,input{font:inherit;color:inherit;background:var(--card);max-width:100%}
button,input{border:1px solid var(--soft);border-radius:8px;padding:.5em .8em}
button{cursor:pointer}button:disabled{opacity:.5;cursor:default}
.two button{padding:4px}.two img{border:0}
[aria-pressed=true]{outline:3px solid var(--good);outline-offset:-3px}
.controls{display:grid;grid-template-columns:repeat(4,1fr);gap:8px;margin:1em 0}
@media (max-width:560px){.controls{grid-template-columns:repeat(3,1fr)}.controls #back{grid-column:3}}
.save{display:flex;flex-wrap:wrap;gap:.6em;align-items:end}
"""
