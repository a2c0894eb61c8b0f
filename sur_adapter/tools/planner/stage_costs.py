"""What each stage does of a run, in numbers: operations and how fine they are, pictures decoded, bytes written, memory held.

Bytes of the features follow from the data contract (records.py, store.py, bank.py), operations and memory from the models' configs.
Where a stage uses a model whose sizes nobody knows here, plan_models.Unknown says so.
"""

from dataclasses import dataclass, field
from functools import cache
from inspect import signature

import torch
from torch import Tensor

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.extractors import clip, queries, vae
from sur_adapter.generation.arms import ARMS
from sur_adapter.io.schema import ROWS_PER_SHARD
from sur_adapter.models.llm import LanguageModel
from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.tools.planner import model_specs as models
from sur_adapter.tools.planner.flops import Cost, cost, meta, tokens, weight
from sur_adapter.training import losses
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.objective import Objective

HEAD = 2_500  # bytes of a shard of features beside its rows: its manifest and footer
ID = 20  # bytes of an id of sixteen digits and its length, uncompressed
ROW = {"prompts": 31, "captions": 24, "score": 16, "phash": 78, "pairs": 119}  # bytes of a row in tables, compressed: the miniature's
LONG = 12  # tokens of a caption
FRAME = 24  # bytes: six int32
PIXEL = 1.6  # bytes of a drawn picture's pixel as PNG: stated, not measured
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass
class Task:
    """Of one stage: rows it goes through; operations of each kind, kind -> (their number, precision); pictures decoded; rows filtered."""

    rows: int
    disk: float = 0.0  # bytes
    held: float = 0.0  # bytes of weights, activations and buffers
    work: dict[str, tuple[float, str]] = field(default_factory=dict)
    decoded: int = 0
    crawled: int = 0
    filtered: int = 0
    why: str = ""  # what is left out


def crawl(candidates: int, kept: int, picture: float) -> Task:
    member = 512 + -(-picture // 512) * 512  # a tar's head and its padding
    return Task(candidates, kept * member + candidates * ROW["prompts"], crawled=candidates)


def caption(rows: int, p: dict, size: int = 0) -> Task:
    model, batch = captioning(p["caption"]["model"]), p["caption"].get("batch", 32)
    each, many = sentence(p["caption"]["model"], 1), sentence(p["caption"]["model"], batch)
    work = each.operations * p["caption"].get("candidates", 1) * rows
    return Task(rows, rows * ROW["captions"], weight(model) + many.held, {"captions": (work, "bf16")}, decoded=rows)


captioning = cache(models.captioner)
clips = cache(models.clip)
diffusion = cache(models.diffusion)


@cache
def sentence(model: str, batch: int) -> Cost:
    blip = captioning(model)
    side = blip.config.vision_config.image_size

    def call() -> None:
        seen = blip.vision_model(pixel_values=meta(batch, 3, side, side))[0]
        blip.text_decoder(input_ids=tokens(batch, LONG), encoder_hidden_states=seen)

    return cost(call)


@cache
def seen(model: str, batch: int, texts: int) -> Cost:
    """CLIP's look at pictures and at so many texts of each."""
    m = clips(model)
    side, length = m.config.vision_config.image_size, m.config.text_config.max_position_embeddings

    def call() -> None:
        m.get_image_features(pixel_values=meta(batch, 3, side, side))
        for _ in range(texts):
            m.get_text_features(input_ids=tokens(batch, length))

    return cost(call)


def score(rows: int, lane: str, rules: dict) -> Task:
    if lane != "clip":
        looks = lane in ("phash", "nsfw", "size")
        why = "its model is not counted" if lane == "nsfw" else ""
        return Task(rows, rows * ROW["phash" if lane == "phash" else "score"], decoded=rows * looks, why=why)
    texts = sum(name != "aesthetic" for name in rules["measures"])
    work, many = seen(rules["model"], 1, texts).operations * rows, seen(rules["model"], rules.get("batch", 100), texts)
    disk = rows * ROW["score"] * len(rules["measures"])
    return Task(rows, disk, weight(clips(rules["model"])) + many.held, {"words": (work, "fp32")}, decoded=rows)


def filter(candidates: int) -> Task:
    return Task(candidates, candidates * ROW["pairs"], filtered=candidates)


def shards(rows: int) -> int:
    """Of three splits, each of which may end in a shard that is not full."""
    return -(-rows // ROWS_PER_SHARD) + 2


def text_sizes(model: str) -> tuple[int, int, int]:
    """(tokens L, width d, width p of the pooled vector) of what the text encoders make of a prompt."""
    encoders = [m for name, m in diffusion(model).items() if name.startswith("text_encoder")]
    pooled = encoders[1].config.projection_dim if len(encoders) > 1 else 0
    return encoders[0].config.max_position_embeddings, sum(m.config.hidden_size for m in encoders), pooled


def cache_clip(rows: int, p: dict) -> Task:
    encoders = [m for name, m in diffusion(p["models"]["diffusion"]).items() if name.startswith("text_encoder")]
    length, width, pooled = text_sizes(p["models"]["diffusion"])
    batch = p["cache"]["clip"].get("batch", signature(clip.write).parameters["batch"].default)
    one, many = (cost(lambda n=n: [m(tokens(n, length)) for m in encoders]) for n in (1, batch))
    each = ID + 2 * (2 * length * width + 2 * pooled + 4)  # both prompts, and how long each is
    held = weight(*encoders) + many.held + 2 * ROWS_PER_SHARD * each
    return Task(rows, rows * each + shards(rows) * HEAD, held, {"words": (2 * one.operations * rows, "fp32")})


def cache_llm(rows: int, p: dict, length: float) -> Task:
    how = p["cache"]["llm"]
    model = models.llm(p["models"]["llm"], how["layers"])
    pooling, at_once = how.get("pooling", "last"), how.get("tokens", signature(LanguageModel).parameters["tokens"].default)

    def call(batch: int, long: int) -> Cost:
        return cost(lambda: model(input_ids=tokens(batch, long), attention_mask=meta(batch, 1, long, long), use_cache=False))

    long = max(1, round(length))
    config = model.config.get_text_config()
    columns = 1 if pooling == "layernorm-mean" else config.num_hidden_layers if how["layers"] == "all" else len(set(how["layers"]))
    numbers = columns * config.hidden_size * (length if pooling == "tokens" else 1)
    each = ID + numbers * WIDTHS[how.get("stored", "fp16")] + (columns * 16 if pooling == "tokens" else 0)
    one, many = call(1, long), call(max(1, at_once // long), long)
    bits = how.get("bits") or {"fp32": 32}.get(how.get("precision"), 16)  # auto: 16 on a GPU
    held = weight(model) * bits / 32 + many.held / 2 + 2 * ROWS_PER_SHARD * each
    return Task(rows, rows * each + shards(rows) * HEAD, held, {"llm": (one.operations * length / long * rows, "bf16")})


def cache_vae(rows: int, p: dict) -> Task:
    how, model = p["cache"]["vae"], diffusion(p["models"]["diffusion"])["vae"]
    side, flips, precision = p["models"]["resolution"], 1 + how.get("flips", False), how.get("precision", "fp32")
    batch = how.get("batch", signature(vae.write).parameters["batch"].default)
    one, many = (cost(lambda n=n: model.encode(meta(n, 3, side, side))) for n in (1, batch))
    each = ID + FRAME + flips * 2 * 2 * model.config.latent_channels * (side // factor(model)) ** 2
    held = (weight(model) + many.held) * WIDTHS[precision] / 4 + 2 * ROWS_PER_SHARD * each
    work = {"pictures": (one.operations * flips * rows, precision)}
    why = "buckets are counted as squares" if how.get("buckets") else ""
    return Task(rows, rows * each + shards(rows) * HEAD, held, work, decoded=rows, why=why)


def factor(model) -> int:
    """Pixels a side that become one latent."""
    return 2 ** (len(model.config.block_out_channels) - 1)


def latents(p: dict) -> tuple[int, int, int]:
    model = diffusion(p["models"]["diffusion"])["vae"]
    return (model.config.latent_channels, *[p["models"]["resolution"] // factor(model)] * 2)


def step(p: dict, batch: int) -> Cost:
    """One pass of the U-Net."""
    length, width, pooled = text_sizes(p["models"]["diffusion"])
    unet = diffusion(p["models"]["diffusion"])["unet"]
    more = {"text_embeds": meta(batch, pooled), "time_ids": meta(batch, 6)} if pooled else None
    z = meta(batch, *latents(p))
    return cost(lambda: unet(z, meta(batch), meta(batch, length, width), added_cond_kwargs=more))


def cache_queries(rows: int, p: dict) -> Task:
    how, parts, pictures = p["cache"]["queries"], diffusion(p["models"]["diffusion"]), min(rows, queries.PICTURES)
    batch = how.get("batch", signature(queries.write).parameters["batch"].default)
    side, vae = p["models"]["resolution"], parts["vae"]
    look, seen = step(p, 1), cost(lambda: vae.encode(meta(1, 3, side, side)))
    disk = sum(2 * numbers for numbers in bank(parts["unet"], how["count"]))
    held = weight(*parts.values()) + step(p, batch).held + 2 * disk
    return Task(pictures, disk, held, {"pictures": ((look.operations + seen.operations) * pictures, "fp32")}, decoded=pictures)


def bank(unet, count: int) -> list[int]:
    """Numbers that are kept of each cross-attention layer: its queries and its frozen weights."""
    layers = cross_attention_layers(unet).values()
    return [
        count * m.to_q.out_features + sum(w.numel() for w in (m.to_k.weight, m.to_v.weight, m.to_out[0].weight, m.to_out[0].bias))
        for m in layers
    ]


def train(pairs: int, p: dict) -> Task:
    """pairs: that the filter keeps; without their number how often each is seen is not told."""
    how, batch = p["train"], p["train"]["batch"]
    adapter, call = training(p, min(batch, 64))
    found = cost(call, backward=True)
    samples = how["steps"] * batch * how.get("accumulation", 1)
    numbers = weight(adapter, each=1)
    states = 2 if how.get("optimizer", "muon") == "adamw" else 1  # of the optimizer, for each weight
    parts = diffusion(p["models"]["diffusion"])
    asked = WIDTHS[how.get("precision", "fp32")]
    frozen = weight(parts["unet"], each=asked) if p["loss"]["w_diffusion"] else 0
    if p["loss"]["w_prompt"] and p["loss"].get("prompt", "attention") == "attention":
        frozen += asked * sum(bank(parts["unet"], p["cache"]["queries"]["count"]))
    held = 4 * numbers * (2 + states) + frozen + found.held * batch / min(batch, 64)
    work = found.operations / min(batch, 64) * samples
    why = f"{samples:,} samples are {samples / pairs:.2g} times as many as there are pairs" if pairs else ""
    return Task(samples, 4 * numbers, held, {"training": (work, how.get("precision", "fp32"))}, why=why)


def training(p: dict, batch: int):
    """(the adapter, a call of its loss on a batch), on the meta device."""
    length, width, pooled = text_sizes(p["models"]["diffusion"])
    teacher = models.llm(p["models"]["llm"], p["cache"]["llm"]["layers"]).config.get_text_config().hidden_size
    weights = {name: p["loss"][name] for name in ("w_diffusion", "w_prompt", "w_llm")}
    taught = {"teacher_width": teacher if weights["w_llm"] else 0, "pooled_width": pooled}
    with torch.device("meta"):
        adapter = SURAdapter(AdapterConfig(width, **taught, **p["adapter"])).train()
    unet = diffusion(p["models"]["diffusion"])["unet"]
    goal = Asked(**weights, unet=unet)
    if p["loss"].get("prompt", "attention") == "attention":
        goal.layers = [_layer(m, p["cache"]["queries"]["count"]) for m in cross_attention_layers(unet).values()]
    vector = meta(batch, pooled) if pooled else None
    rows = TrainingBatch(*[meta(batch, length, width)] * 2, meta(batch, teacher), meta(batch, 2, *latents(p)), vector, vector)
    return adapter, lambda: goal(adapter, rows)[0]


class Asked(Objective):
    """The U-Net is asked, and that is what costs; noise and its schedule are left out."""

    def _diffusion(self, batch: TrainingBatch, adapted: Tensor, pooled: Tensor | None, portion: object) -> Tensor:
        more = None if pooled is None else {"text_embeds": pooled, "time_ids": meta(len(adapted), 6)}
        return self.unet(batch.latents[:, 0], meta(len(adapted)), adapted, added_cond_kwargs=more).sample.mean()


def _layer(m, count: int) -> losses.CrossAttention:
    return losses.CrossAttention(
        m.heads, meta(count, m.to_q.out_features), m.to_k.weight, m.to_v.weight, m.to_out[0].weight, m.to_out[0].bias
    )


def picture(p: dict) -> tuple[float, float]:
    """(operations, bytes held of a batch) of one drawn picture: the steps, and the way from latents to pixels."""
    how, parts = p["generate"], diffusion(p["models"]["diffusion"])
    passes, batch = how["steps"] * (2 if how["guidance"] > 1 else 1), how.get("batch", 4)
    one, many = step(p, 1), step(p, batch * (2 if how["guidance"] > 1 else 1))
    seen, all_seen = (cost(lambda n=n: parts["vae"].decode(meta(n, *latents(p)))) for n in (1, batch))
    return passes * one.operations + seen.operations, weight(*parts.values()) + max(many.held, all_seen.held)


def draw(p: dict, pictures: int) -> Task:
    each, held = picture(p)
    side, precision = p["models"]["resolution"], p["generate"].get("precision", "fp32")
    return Task(pictures, pictures * (PIXEL * side**2 + 1024), held, {"drawing": (each * pictures, precision)})


def generate(p: dict, prompts: int) -> Task:
    return draw(p, len(ARMS) * prompts * p["generate"]["seeds"])


def sweep(p: dict, prompts: int) -> Task:
    return draw(p, len(p["sweep"]["strengths"]) * prompts * p["sweep"].get("seeds", 1))


def evaluate(p: dict, pictures: int) -> Task:
    model, why = p["evaluate"].get("clip"), "judge and measures are not counted"
    if not model:
        return Task(pictures, decoded=pictures, why=why)
    one, many = (seen(model, n, 0) for n in (1, 32))
    return Task(pictures, 0, weight(clips(model)) + many.held, {"words": (one.operations * pictures, "fp32")}, decoded=pictures, why=why)
