"""The prompt in a ComfyUI graph: from a sampler's `positive` and `negative` to the texts that were encoded for it.

A graph is {id: {"class_type", "inputs"}}; an input is a value, or a link [id of a node, number of its output].
Strangers wrote these graphs: links may lead in circles or nowhere, values may be anything, NaN included.
"""

import json
import re
from itertools import chain, islice

Prompts = tuple[str | None, str | None]  # (positive, negative)
SIDES = ("positive", "negative")
TEXTS = (
    *("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "prompt", "string", "value", "populated_text"),
    *("text_positive", "positive_prompt", "text_negative", "negative_prompt"),
)
JOINED = re.compile(r"(text|string)_?\w")  # text_a, string1: what a node of strings puts together
PASSED = re.compile(
    "text|prompt|string|value|conditioning|guider|base_positive|cond|clip_[lg]|t5xxl", re.I
)  # inputs whose links lead to words
MOST = 16  # samplers asked for words: each may lead through the whole graph
WORDS = re.compile("text|prompt|string|primitive|wildcard", re.I)  # nodes that hold or join strings


def graph(text: str) -> Prompts:
    """The graph as it ran (chunk `prompt`): of the samplers, the first with words; without samplers, whatever has a positive side."""
    saved = json.loads(text)  # NaN, which ComfyUI writes, is read
    nodes = {str(k): v for k, v in saved.items() if isinstance(v, dict) and isinstance(v.get("inputs"), dict)}
    samplers = [n["inputs"] for n in nodes.values() if "sampler" in str(n.get("class_type")).lower()]
    others = [n["inputs"] for n in nodes.values() if isinstance(n["inputs"].get("positive"), list)]  # detailers, upscalers
    for inputs in islice(chain(samplers, others), MOST):
        positive, negative = (_walk(nodes, inputs.get(side) or inputs.get("guider"), side, set()) for side in SIDES)
        if positive:
            return positive, negative
    return None, None


def workflow(text: str) -> Prompts:
    """The same graph as the editor saves it: links in a list of their own, texts among a node's widgets."""
    saved = json.loads(text)
    links = {}
    for link in saved["links"]:  # a list, or since schema 1 an object
        ends = (link["id"], link["origin_id"], link["origin_slot"]) if isinstance(link, dict) else link[:3]
        links[ends[0]] = [str(ends[1]), ends[2]]
    nodes = {}
    for node in saved["nodes"]:
        widgets = node.get("widgets_values") or []
        words = [w for w in (widgets if isinstance(widgets, list) else widgets.values()) if isinstance(w, str)]
        inputs = {"text": words[0]} if words and WORDS.search(node["type"]) else {}
        for i in node.get("inputs") or []:
            if i.get("link") in links:
                inputs["value" if node["type"] == "Reroute" else i["name"]] = links[i["link"]]  # a reroute's input has no name
        nodes[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph(json.dumps(nodes))


def _walk(nodes: dict, value, side: str, seen: set[str]) -> str | None:
    """The text a value is, or the texts its node encodes or passes on; no node is asked twice."""
    if isinstance(value, str):
        return value.strip() or None
    if not (isinstance(value, list) and len(value) == 2 and str(value[0]) in nodes) or str(value[0]) in seen:
        return None
    seen.add(str(value[0]))
    node = nodes[str(value[0])]
    inputs, kind = node["inputs"], str(node.get("class_type"))
    if "positive" in inputs and "negative" in inputs:  # a ControlNet, a guider, a loader: it has both sides
        return _walk(nodes, inputs[side], side, seen)
    if side == "negative" and "Guider" in kind:  # BasicGuider has no negative side
        return None
    found = [_walk(nodes, inputs[key], side, seen) for key in _keys(inputs, kind, side)]
    return ", ".join(dict.fromkeys(filter(None, found))) or None


def _keys(inputs: dict, kind: str, side: str) -> list[str]:
    """The inputs of a node that may hold or lead to words of a side, what it says itself first."""
    other = SIDES[side == "positive"]
    mine = [key for key in inputs if other not in key]
    said = [key for key in mine if key in TEXTS or (JOINED.fullmatch(key) and WORDS.search(kind))]
    return said + [key for key in mine if key not in said and isinstance(inputs[key], list) and PASSED.search(key)]
