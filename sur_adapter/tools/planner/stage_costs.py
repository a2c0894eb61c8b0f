"""Estimates what each stage does: operations and their precision, images decoded, bytes written, memory.

Bytes of features follow from the data contract (io/schema.py, features/store.py, features/query_bank.py), operations and memory from the
models' configs. For a model of unknown size, model_specs.UnknownModelError says which.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sur_adapter.features.extractors import clip, llm, queries, vae
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import MAIN
from sur_adapter.generation.sampling import GenerateConfig, SweepConfig
from sur_adapter.io.schema import ROWS_PER_SHARD
from sur_adapter.models.captioner import CaptionConfig
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.tools.planner.flops import Cost, measure_cost, meta_tensor, num_weights, token_ids
from sur_adapter.tools.planner.model_specs import captioner, clip_model, diffusion_model, language_model

SHARD_OVERHEAD = 2_500  # bytes of a feature shard beside its rows: manifest and footer
ID_BYTES = 20  # an id of sixteen digits and its length, uncompressed
ROW_BYTES = {
    "prompts": 31,
    "captions": 24,
    "score": 16,
    "phash": 78,
    "pairs": 119,
    "sentences": 35,
    "answers": 45,
}  # of a table row, compressed: the miniature's
CAPTION_TOKENS = 12
TIME_ID_BYTES = 24  # six int32
PIXEL_BYTES = 1.6  # of a generated image's pixel as PNG: assumed, not measured
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a number


@dataclass
class StageCost:
    """What a stage does. operations: kind of work -> (number, precision). note: what is not counted."""

    rows: int
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0  # weights, activations and buffers
    operations: dict[str, tuple[float, str]] = field(default_factory=dict)
    images_decoded: int = 0
    rows_crawled: int = 0
    rows_filtered: int = 0
    note: str = ""


def nothing(reason: str) -> StageCost:
    """Returns the cost of a stage that computes nothing."""
    return StageCost(0, note=f"nothing is computed: {reason}")


def crawl(candidates: int, kept: int, image_bytes: float) -> StageCost:
    member = 512 + -(-image_bytes // 512) * 512  # a tar header and padding
    return StageCost(candidates, kept * member + candidates * ROW_BYTES["prompts"], rows_crawled=candidates)


def caption(rows: int, config: CaptionConfig) -> StageCost:
    one, batch = (caption_cost(config.model, size, config.sentences * config.candidates) for size in (1, config.batch_size))
    operations = {"captions": (one.flops * rows, "bf16")}
    memory = 4 * num_weights(captioner(config.model)) + batch.peak_bytes
    return StageCost(rows, rows * config.sentences * ROW_BYTES["captions"], memory, operations, images_decoded=rows)


@cache
def caption_cost(model: str, batch_size: int, samples: int = 1) -> Cost:
    """Measures the cost of captioning images with `samples` captions each, which share the image's features."""
    blip = captioner(model)
    side = blip.config.vision_config.image_size

    def call() -> None:
        image_embeds = blip.vision_model(pixel_values=meta_tensor(batch_size, 3, side, side))[0]
        for _ in range(samples):
            blip.text_decoder(input_ids=token_ids(batch_size, CAPTION_TOKENS), encoder_hidden_states=image_embeds)

    return measure_cost(call)


@cache
def clip_cost(model: str, batch_size: int, texts: int) -> Cost:
    """Measures the cost of encoding images, and `texts` texts for each, with CLIP."""
    module = clip_model(model)
    side, length = module.config.vision_config.image_size, module.config.text_config.max_position_embeddings

    def call() -> None:
        module.get_image_features(pixel_values=meta_tensor(batch_size, 3, side, side))
        for _ in range(texts):
            module.get_text_features(input_ids=token_ids(batch_size, length))

    return measure_cost(call)


def score(rows: int, configs: dict[str, Any], sentences: int = 1) -> StageCost:
    """Estimates all scores, which share one decoding of each image. configs: score -> its `Config`. sentences: captions of each image."""
    if not configs:
        return nothing("scores is empty")
    cost = StageCost(rows, images_decoded=rows * bool(configs.keys() & {"clip", "nsfw", "phash"}))
    cost.disk_bytes = rows * sum(ROW_BYTES["phash" if name == "phash" else "score"] for name in configs if name != "clip")
    cost.note = "the model of nsfw is not counted" if "nsfw" in configs else ""
    if config := configs.get("clip"):
        texts = sum({"simple": sentences, "complex": 1, "aesthetic": 0}[measure] for measure in config.measures)
        one, batch = (clip_cost(config.model, size, texts) for size in (1, config.batch_size))
        cost.disk_bytes += rows * ROW_BYTES["score"] * (texts + ("aesthetic" in config.measures))
        cost.memory_bytes = 4 * num_weights(clip_model(config.model)) + batch.peak_bytes
        cost.operations = {"encoding": (one.flops * rows, "fp32")}
    return cost


def filter_pairs(candidates: int) -> StageCost:
    return StageCost(candidates, candidates * ROW_BYTES["pairs"], rows_filtered=candidates)


def num_shards(rows: int) -> int:
    """Returns the number of shards of three splits, each of which may end in a partial shard."""
    return -(-rows // ROWS_PER_SHARD) + 2


def text_shapes(model: str) -> tuple[int, int, int]:
    """Returns (tokens L, width d, width p of the pooled vector) of the embeddings of a prompt."""
    encoders = [module for name, module in diffusion_model(model).items() if name.startswith("text_encoder")]
    pooled = encoders[1].config.projection_dim if len(encoders) > 1 else 0
    return encoders[0].config.max_position_embeddings, sum(encoder.config.hidden_size for encoder in encoders), pooled


def cache_clip(rows: int, models: ModelsConfig, config: clip.Config, sentences: int = 1) -> StageCost:
    """sentences: captions of an image, whose keyword prompt is encoded and stored once."""
    flops, weights, activations = encoding_cost(models, config.batch_size)
    row_bytes, images = text_row_bytes(models), -(-rows // sentences)
    disk = rows * row_bytes - (rows - images) * prompt_bytes(models) + num_shards(rows) * SHARD_OVERHEAD
    memory = weights + activations + 2 * ROWS_PER_SHARD * row_bytes
    return StageCost(rows, disk, memory, {"encoding": (flops * (rows + images), "fp32")})


def text_row_bytes(models: ModelsConfig) -> int:
    """Returns the stored bytes of the features of two prompts, with the length of each."""
    return ID_BYTES + 2 * (prompt_bytes(models) + 4)


def prompt_bytes(models: ModelsConfig) -> int:
    """Returns the stored bytes of the features of a prompt."""
    length, width, pooled = text_shapes(models.diffusion)
    return 2 * (length * width + pooled)


def encoding_cost(models: ModelsConfig, batch_size: int) -> tuple[float, int, int]:
    """Returns (operations of one prompt, bytes of the text encoders' weights, bytes of a batch)."""
    encoders = [module for name, module in diffusion_model(models.diffusion).items() if name.startswith("text_encoder")]
    length = text_shapes(models.diffusion)[0]
    one, batch = (measure_cost(lambda n=n: [encoder(token_ids(n, length)) for encoder in encoders]) for n in (1, batch_size))
    return one.flops, 4 * num_weights(*encoders), batch.peak_bytes


def cache_llm(rows: int, models: ModelsConfig, config: llm.Config, tokens_per_prompt: float) -> StageCost:
    model = language_model(models.llm, config.layers)
    length = max(1, round(tokens_per_prompt))

    def cost(batch_size: int) -> Cost:
        mask = meta_tensor(batch_size, 1, length, length)
        return measure_cost(lambda: model(input_ids=token_ids(batch_size, length), attention_mask=mask, use_cache=False))

    row_bytes = ID_BYTES + llm_row_bytes(models, config, tokens_per_prompt)
    one, batch = cost(1), cost(max(1, config.max_tokens_per_batch // length))
    bits = config.bits or {"fp32": 32}.get(config.precision, 16)  # auto: 16 on a GPU
    memory = 4 * num_weights(model) * bits / 32 + batch.peak_bytes / 2 + 2 * ROWS_PER_SHARD * row_bytes
    operations = {"llm": (one.flops * tokens_per_prompt / length * rows, "bf16")}
    return StageCost(rows, rows * row_bytes + num_shards(rows) * SHARD_OVERHEAD, memory, operations)


def llm_row_bytes(models: ModelsConfig, config: llm.Config, tokens: float) -> float:
    """Returns the stored bytes of the hidden states of a text of so many tokens."""
    text_config = language_model(models.llm, config.layers).config.get_text_config()
    layers = text_config.num_hidden_layers if config.layers == "all" else len(set(config.layers))
    columns = 1 if config.pooling == "layernorm-mean" else layers
    numbers = columns * text_config.hidden_size * (tokens if config.pooling == "tokens" else 1)
    return numbers * WIDTHS[config.storage_dtype] + (columns * 16 if config.pooling == "tokens" else 0)


def cache_vae(rows: int, models: ModelsConfig, config: vae.Config) -> StageCost:
    model, side, flips = diffusion_model(models.diffusion)["vae"], models.resolution, 1 + config.flips
    one, batch = (measure_cost(lambda n=n: model.encode(meta_tensor(n, 3, side, side))) for n in (1, config.batch_size))
    row_bytes = ID_BYTES + TIME_ID_BYTES + flips * 2 * 2 * model.config.latent_channels * (side // downsampling(model)) ** 2
    weights = 4 * num_weights(model)
    memory = (weights + batch.peak_bytes) * WIDTHS[config.precision] / 4 + 2 * ROWS_PER_SHARD * row_bytes
    operations = {"images": (one.flops * flips * rows, config.precision)}
    note = "buckets are counted as squares" if config.buckets else ""
    disk = rows * row_bytes + num_shards(rows) * SHARD_OVERHEAD
    return StageCost(rows, disk, memory, operations, images_decoded=rows, note=note)


def downsampling(model) -> int:
    """Returns the pixels per latent, in each direction."""
    return 2 ** (len(model.config.block_out_channels) - 1)


def latent_shape(models: ModelsConfig) -> tuple[int, int, int]:
    model = diffusion_model(models.diffusion)["vae"]
    return (model.config.latent_channels, *[models.resolution // downsampling(model)] * 2)


def unet_cost(models: ModelsConfig, batch_size: int) -> Cost:
    """Measures the cost of one call of the U-Net."""
    length, width, pooled = text_shapes(models.diffusion)
    unet = diffusion_model(models.diffusion)["unet"]
    conditions = {"text_embeds": meta_tensor(batch_size, pooled), "time_ids": meta_tensor(batch_size, 6)} if pooled else None
    latents, timesteps = meta_tensor(batch_size, *latent_shape(models)), meta_tensor(batch_size)
    prompt_embeds = meta_tensor(batch_size, length, width)
    return measure_cost(lambda: unet(latents, timesteps, prompt_embeds, added_cond_kwargs=conditions))


def cache_queries(rows: int, models: ModelsConfig, config: queries.Config) -> StageCost:
    modules, images, side = diffusion_model(models.diffusion), min(rows, queries.NUM_IMAGES), models.resolution
    one, batch = unet_cost(models, 1), unet_cost(models, config.batch_size)
    encoding = measure_cost(lambda: modules["vae"].encode(meta_tensor(1, 3, side, side)))
    disk = sum(2 * numbers for numbers in query_bank_sizes(modules["unet"], config.count))
    memory = 4 * num_weights(*modules.values()) + batch.peak_bytes + 2 * disk
    return StageCost(images, disk, memory, {"images": ((one.flops + encoding.flops) * images, "fp32")}, images_decoded=images)


def query_bank_sizes(unet, count: int) -> list[int]:
    """Returns how many numbers are stored for each cross-attention layer: its queries and its frozen weights."""
    layers = cross_attention_layers(unet).values()
    return [
        count * layer.to_q.out_features
        + sum(weight.numel() for weight in (layer.to_k.weight, layer.to_v.weight, layer.to_out[0].weight, layer.to_out[0].bias))
        for layer in layers
    ]


def image_cost(models: ModelsConfig, config: GenerateConfig) -> tuple[float, float]:
    """Returns (operations of one image, bytes of memory of a batch): the denoising steps and the VAE's decoder."""
    modules, guided = diffusion_model(models.diffusion), 2 if config.guidance_scale > 1 else 1
    one, batch = unet_cost(models, 1), unet_cost(models, config.batch_size * guided)
    decode, decode_batch = (
        measure_cost(lambda n=n: modules["vae"].decode(meta_tensor(n, *latent_shape(models)))) for n in (1, config.batch_size)
    )
    flops = config.num_inference_steps * guided * one.flops + decode.flops
    return flops, 4 * num_weights(*modules.values()) + max(batch.peak_bytes, decode_batch.peak_bytes)


def generate_images(models: ModelsConfig, config: GenerateConfig, images: int) -> StageCost:
    flops, memory = image_cost(models, config)
    disk = images * (PIXEL_BYTES * models.resolution**2 + 1024)
    return StageCost(images, disk, memory, {"generation": (flops * images, config.precision)})


def num_images(config: GenerateConfig, prompts: dict[str, int]) -> int:
    """Returns the images of all arms. prompts: set -> its number of prompts."""
    seeds = {name: config.seeds if name == MAIN else config.set_seeds or config.seeds for name in prompts}
    return sum(count * seeds[name] for arm in ARMS.values() for name, count in prompts.items() if name == MAIN or not arm.main_only)


def sweep(models: ModelsConfig, config: GenerateConfig, sweep_config: SweepConfig, strength: float, prompts: int) -> StageCost:
    """Estimates the images of the sweep; those that the arms `baseline` and `adapter` have are copied.

    strength: of the adapter. prompts: number of those of the sweep.
    """
    images, scales = prompts * sweep_config.seeds, sweep_config.strengths
    in_arms = sweep_config.per_category <= config.per_category and sweep_config.seeds <= config.seeds
    generated = [scale for scale in scales if not (in_arms and scale in (0, strength))]
    cost = generate_images(models, config, len(scales) * images)
    flops, precision = cost.operations["generation"]
    cost.operations["generation"] = (flops * len(generated) / max(1, len(scales)), precision)
    return cost


def evaluate(clip_name: str | None, images: int) -> StageCost:
    """Estimates the evaluation. clip_name: the CLIP of section `evaluate`; None if there is none."""
    note = "judge and metrics are not counted"
    if not clip_name:
        return StageCost(images, images_decoded=images, note=note)
    one, batch = (clip_cost(clip_name, n, 0) for n in (1, 32))
    memory = 4 * num_weights(clip_model(clip_name)) + batch.peak_bytes
    return StageCost(images, 0, memory, {"encoding": (one.flops * images, "fp32")}, images_decoded=images, note=note)
