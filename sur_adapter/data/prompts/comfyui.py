"""Reads the prompts of a ComfyUI graph: from a sampler's `positive` and `negative` inputs to the texts that are encoded for them.

A graph is {id: {"class_type", "inputs"}}; an input is a value or a link [node id, output number]. Graphs are untrusted: links may form
cycles or lead nowhere, values may have any type, NaN included.
"""

import json
import re
from itertools import chain, islice
from typing import NamedTuple

OTHER_SIDE = {"positive": "negative", "negative": "positive"}
TEXT_INPUTS = (
    *("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "prompt", "string", "value", "populated_text"),
    *("text_positive", "positive_prompt", "text_negative", "negative_prompt"),
)
JOINED_INPUT = re.compile(r"(text|string)_?\w")  # text_a, string1: inputs of a node that joins strings
LINKED_INPUT = re.compile(
    "text|prompt|string|value|conditioning|guider|base_positive|cond|clip_[lg]|t5xxl", re.I
)  # inputs whose links lead to text
TEXT_NODE = re.compile("text|prompt|string|primitive|wildcard", re.I)  # nodes that hold or join strings
MAX_SAMPLERS = 16  # each may lead through the whole graph


class Prompts(NamedTuple):
    """The prompts that an image was generated with."""

    positive: str | None
    negative: str | None


def graph_prompts(text: str) -> Prompts:
    """Reads the executed graph (PNG chunk `prompt`): the first sampler with text, or, without samplers, any node with a positive input."""
    graph = json.loads(text)  # accepts NaN, which ComfyUI writes
    nodes = {str(k): v for k, v in graph.items() if isinstance(v, dict) and isinstance(v.get("inputs"), dict)}
    samplers = [n["inputs"] for n in nodes.values() if "sampler" in str(n.get("class_type")).lower()]
    others = [n["inputs"] for n in nodes.values() if isinstance(n["inputs"].get("positive"), list)]  # detailers, upscalers
    for inputs in islice(chain(samplers, others), MAX_SAMPLERS):
        positive, negative = (_resolve(nodes, inputs.get(side) or inputs.get("guider"), side, set()) for side in OTHER_SIDE)
        if positive:
            return Prompts(positive, negative)
    return Prompts(None, None)


def workflow_prompts(text: str) -> Prompts:
    """Reads the graph as the editor saves it (PNG chunk `workflow`): links in a list of their own, texts in a node's widgets."""
    workflow = json.loads(text)
    links = {}
    for link in workflow["links"]:  # a list, or an object since schema 1
        key, node, output = (link["id"], link["origin_id"], link["origin_slot"]) if isinstance(link, dict) else link[:3]
        links[key] = [str(node), output]
    nodes = {}
    for node in workflow["nodes"]:
        widgets = node.get("widgets_values") or []
        texts = [w for w in (widgets if isinstance(widgets, list) else widgets.values()) if isinstance(w, str)]
        inputs = {"text": texts[0]} if texts and TEXT_NODE.search(node["type"]) else {}
        for slot in node.get("inputs") or []:
            if slot.get("link") in links:
                inputs["value" if node["type"] == "Reroute" else slot["name"]] = links[slot["link"]]  # a reroute's input has no name
        nodes[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph_prompts(json.dumps(nodes))


def _resolve(nodes: dict, value, side: str, visited: set[str]) -> str | None:
    """Returns the text of an input value: itself, or the texts of the node that it links to. Each node is visited once."""
    if isinstance(value, str):
        return value.strip() or None
    if not (isinstance(value, list) and len(value) == 2 and str(value[0]) in nodes) or str(value[0]) in visited:
        return None
    visited.add(str(value[0]))
    node = nodes[str(value[0])]
    inputs, node_type = node["inputs"], str(node.get("class_type"))
    if "positive" in inputs and "negative" in inputs:  # a ControlNet, a guider, a loader: it has both sides
        return _resolve(nodes, inputs[side], side, visited)
    if side == "negative" and "Guider" in node_type:  # BasicGuider has no negative side
        return None
    texts = [_resolve(nodes, inputs[key], side, visited) for key in _text_keys(inputs, node_type, side)]
    return ", ".join(dict.fromkeys(filter(None, texts))) or None


def _text_keys(inputs: dict, node_type: str, side: str) -> list[str]:
    """Lists the inputs of a node that hold or lead to text of a side, its own text first."""
    keys = [key for key in inputs if OTHER_SIDE[side] not in key]
    own = [key for key in keys if key in TEXT_INPUTS or (JOINED_INPUT.fullmatch(key) and TEXT_NODE.search(node_type))]
    return own + [key for key in keys if key not in own and isinstance(inputs[key], list) and LINKED_INPUT.search(key)]
