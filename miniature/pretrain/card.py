"""The model card: measures everything, writes `figures.json`, `README.md` and a picture of 6×6 samples a style.

`python -m miniature.pretrain card models/miniature OUT` measures the weights in the first folder again and
writes the card into the second.
"""

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from miniature import judge
from miniature.pretrain import measure
from miniature.pretrain.world import TEST_SEED, texts
from miniature.scenes import CATEGORIES, make

PARTS = {
    "stable-diffusion/vae": "`AutoencoderKL`: 64×64 pixels to 4×8×8 latents",
    "stable-diffusion/unet": "`UNet2DConditionModel`: keyword prompts alone, behind the frozen text tower of `clip`",
    "stable-diffusion/text_encoder": "`CLIPTextModel`: the text tower of `clip`, the same weights",
    "clip": "`CLIPModel`: contrastive, mostly keyword prompts",
    "clip-eval": "`CLIPModel`: other seed, other width; for evaluation alone",
    "blip": "`BlipForConditionalGeneration`: images to plain sentences, in thousands of phrases",
    "llama": "`LlamaForCausalLM`: plain language of every kind and its keyword prompts; the teacher",
}


def main(folder: Path, out: Path, *, card: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "parts": {part: _part(folder / part) for part in PARTS},
        "vae": measure.vae(folder, card["pictures"]),
        "diffusion": measure.diffusion(folder, card["prompts"], card["steps"], card["guidance"]),
        "blip": measure.blip(folder, card["prompts"]),
        "clip": measure.clip(folder / "clip", card["retrieval"]),
        "clip-eval": measure.clip(folder / "clip-eval", card["retrieval"]),
        "llama": measure.llama(folder, card["lines"]),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    samples(folder, out, card)
    (out / "README.md").write_text(render(figures, card))
    print(json.dumps({name: figures[name] for name in ("vae", "diffusion", "blip", "clip", "clip-eval", "llama")}, indent=1))


def _part(path: Path) -> dict:
    weights = next(path.glob("*.safetensors"))
    trained = path / "training.json"
    return {"bytes": weights.stat().st_size} | (json.loads(trained.read_text()) if trained.exists() else {})


def samples(folder: Path, out: Path, card: dict) -> None:
    """samples-complex.png and samples-simple.png: the same 36 scenes and the same noise, a green or red mark by the judge."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "stable-diffusion", safety_checker=None)
    scenes = [make(TEST_SEED + 500_000 + i) for i in range(36)]
    for style in ("complex", "simple"):
        prompts = texts(scenes, style, TEST_SEED, "development")
        images = measure.draw(pipe, prompts, [s.seed for s in scenes], card["steps"], card["guidance"])
        sheet = Image.new("RGB", (6 * 104, 6 * 104), (244, 244, 246))
        pen = ImageDraw.Draw(sheet)
        for i, (image, scene) in enumerate(zip(images, scenes, strict=True)):
            x, y = i % 6 * 104 + 4, i // 6 * 104 + 2
            sheet.paste(image.resize((96, 96), Image.Resampling.BICUBIC), (x, y))
            pen.rectangle((x, y + 97, x + 95, y + 99), fill=(30, 150, 80) if judge.shows(image, scene.include) else (210, 40, 40))
        sheet.save(out / f"samples-{style}.png")


def render(figures: dict, card: dict) -> str:
    """The card in Markdown, every number from the figures."""
    params = YAML(typ="safe").load(Path(__file__).parents[1] / "params.yaml")
    sizes = [f"| `{p}` | {about} | {_size(figures['parts'][p])} | {_training(figures['parts'][p])} |" for p, about in PARTS.items()]
    diffusion, vae, llama = figures["diffusion"], figures["vae"], figures["llama"]
    accuracy = [f"| {s} | {_cells(diffusion[k])} |" for s, k in STYLES.items()]
    retrieval = [
        f"| `{m}` | {s} | {_rate(v['text_to_image'])} | {_rate(v['image_to_text'])} |"
        for m in ("clip", "clip-eval")
        for s, v in figures[m].items()
    ]
    layers = range(len(llama["probe"]["count"]))
    probes = [f"| {k} | " + " | ".join(f"{100 * llama['probe'][fact][k]['value']:.1f}" for fact in measure.FACTS) + " |" for k in layers]
    world = params["arranged"]
    return CARD.format(
        megabytes=sum(p["bytes"] for p in figures["parts"].values()) / 1e6,
        minutes=sum(p.get("seconds", 0) for p in figures["parts"].values()) / 60,
        sizes="\n".join(sizes),
        count=world["count"],
        mix=", ".join(f"{100 * share:.0f} % {name}" for name, share in world["mix"].items()),
        shares=_shares(params["clip"]["shares"]),
        shares_eval=_shares(params["clip-eval"]["shares"]),
        pieces=params["clip"]["pieces"],
        swapped=100 * params["clip"]["swapped"],
        drop=100 * params["diffusion"]["drop"],
        clean=_cells(vae["judge_clean"]),
        decoded=_cells(vae["judge_decoded"]),
        l1=vae["l1"],
        psnr=vae["psnr_db"],
        accuracy="\n".join(accuracy),
        steps=diffusion["steps"],
        guidance=diffusion["guidance"],
        blip=_cells(figures["blip"]["exact"]),
        captions="; ".join(f"“{c}”" for c in figures["blip"]["examples"][:4]),
        contents=figures["clip"]["simple"]["text_to_image"]["n"],
        retrieval="\n".join(retrieval),
        perplexity=llama["perplexity"],
        tokens=llama["tokens"],
        fitted=card["lines"],
        rewriting="\n".join(f"| {kind} | {_rate(r)} | {r['n']} |" for kind, r in llama["rewriting"].items()),
        probes="\n".join(probes),
        threads=torch.get_num_threads(),
    )


STYLES = {
    "keyword prompts": "complex",
    "plain sentences, test templates": "simple",
    "plain sentences, training templates": "simple_train_templates",
    "plain sentences, broad language": "broad",
}
SHARES = {"complex": "keyword prompts", "simple": "plain sentences of the training templates", "broad": "broad plain language"}


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{100 * share:.0f} % {SHARES[style]}" for style, share in shares.items())


def _rate(r: dict) -> str:
    return f"{100 * r['value']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}]"


def _cells(rates: dict) -> str:
    """By category and overall, in per cent; n at the end."""
    return " | ".join(_rate(rates[c]) for c in (*CATEGORIES, "overall")) + f" | {rates['overall']['n']}"


def _size(part: dict) -> str:
    return f"{part['bytes'] / 1e6:.2f} MB"


def _training(part: dict) -> str:
    if "seconds" not in part:
        return "not trained"
    size, minutes = part["parameters"] / 1e6, part["seconds"] / 60
    return f"{size:.2f} M parameters, {part['steps']:,} steps, {minutes:.0f} min on {part['threads']} thread(s)"


CARD = (Path(__file__).parent / "card.md").read_text()
