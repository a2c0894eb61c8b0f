"""The commands of the command line. Each takes the parsed arguments of main.py and returns the text to print.

Bad input raises ValueError or FileNotFoundError with one sentence, and nothing is written then.
"""

import argparse
import json
import os
import re
import sys
import warnings
from importlib.util import find_spec

FINGERPRINT = re.compile(r"([0-9a-f]{16})?(\.[0-9a-f]{16}){2}|[0-9a-f]{16}")
CHECKPOINT_SUFFIXES = (".pt", ".safetensors")


def generate(args: argparse.Namespace) -> str:
    """Generates an image with the adapter, or with --compare one without and one with it, from the same initial noise."""
    from sur_adapter.cli.output import resolve_png, save_png

    target = resolve_png(args.out)
    _silence_libraries()
    from sur_adapter.cli.known_models import known_model, without_folders
    from sur_adapter.cli.loading import default_adapter, load_session
    from sur_adapter.generation.image_grid import side_by_side

    adapter = default_adapter() if args.adapter is None else args.adapter
    session = load_session(adapter, args.model, revision=args.revision, device=args.device, dtype=args.dtype)
    prompt, known = args.prompt, known_model(session.model)
    session.pipe.set_progress_bar_config(disable=None, leave=False)  # None: no bar where stderr is not a terminal
    scale = session.default_scale if args.scale is None else args.scale
    guidance_scale = args.guidance_scale
    if guidance_scale is None:
        guidance_scale = known.guidance_scale or session.default_guidance_scale
    sampling = {"seed": args.seed, "num_inference_steps": args.steps, "guidance_scale": guidance_scale, "size": args.size}
    images = {}
    for value in (0.0, scale) if args.compare else (scale,):
        label = f"with the adapter, strength {value:g}" if images or not args.compare else "without the adapter"
        images[label] = session.generate(prompt, args.negative, scale=value, **sampling)
    size = list(next(iter(images.values())).size)
    settings = {"prompt": prompt, "negative": args.negative, "seed": args.seed, "steps": args.steps, "guidance": guidance_scale}
    settings |= {"size": size, "strength": scale, "compare": args.compare}
    settings |= {"model": without_folders(session.model), "adapter": without_folders(adapter)}
    settings |= {} if args.dtype == "fp32" else {"dtype": args.dtype}
    save_png(side_by_side(images, prompt) if args.compare else images[label], target, settings)
    summary = f"seed {args.seed}, {args.steps} steps, guidance {guidance_scale:g}, {size[0]}x{size[1]}"
    return "\n".join([f"{target}: {' | '.join(images)}; {summary}", *session.truncation_warnings(prompt, args.negative)])


def info(args: argparse.Namespace) -> str:
    """The facts about an adapter, as an aligned table or as JSON."""
    from dataclasses import asdict

    from sur_adapter.model_card import adapter_facts

    adapter = _load_adapter(args)
    parameters = sum(p.numel() for p in adapter.parameters())
    if args.json:
        return json.dumps(asdict(adapter.config) | {"parameters": parameters}, indent=2, sort_keys=True)
    rows = adapter_facts(adapter.config) | {"parameters": f"{parameters:,}"}
    width = max(map(len, rows))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows.items())


def card(args: argparse.Namespace) -> str:
    """The model card of an adapter."""
    from sur_adapter.hub import read_metrics
    from sur_adapter.model_card import model_card

    metrics = read_metrics(args.metrics) if args.metrics else None
    text = model_card(_load_adapter(args).config, metrics, name=str(args.adapter), licence=args.licence, datasets=args.dataset)
    return text.rstrip("\n")


def convert(args: argparse.Namespace) -> str:
    """Converts a checkpoint of the published code to an adapter's folder, or a folder to a checkpoint."""
    source, target = args.source, args.target
    if target.exists():
        raise ValueError(f"{target} exists already: name another place, or remove it first")
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: name a checkpoint or an adapter's folder")
    return _to_checkpoint(args) if source.is_dir() else _to_folder(args)


def fingerprint(args: argparse.Namespace) -> str:
    """The fingerprint of a diffusion model's text encoder."""
    _silence_libraries()
    from sur_adapter.cli.base_model import load_text_encoder
    from sur_adapter.models.fingerprint import fingerprint

    return fingerprint(load_text_encoder(args.model))


def demo(args: argparse.Namespace) -> str:
    """Serves the demo until it is interrupted."""
    from sur_adapter.cli.demo import NO_GRADIO, serve

    if find_spec("gradio") is None:
        raise ValueError(NO_GRADIO)
    _silence_libraries()
    serve(args.adapter, args.model, host=args.host, port=args.port, device=args.device, dtype=args.dtype)
    return ""


def _load_adapter(args: argparse.Namespace):
    from sur_adapter.hub import SURAdapter

    return SURAdapter.from_pretrained(args.adapter, revision=args.revision)


def _silence_libraries() -> None:
    """Turns off the libraries' warnings, and their progress bars where stderr is not a terminal."""
    warnings.simplefilter("ignore")
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")  # read at import; the command itself reports truncated prompts
    if sys.stderr.isatty():
        return
    import diffusers
    import transformers
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _to_folder(args: argparse.Namespace) -> str:
    from sur_adapter.adapter.conversion import read_checkpoint
    from sur_adapter.cli.output import check_writable
    from sur_adapter.io.atomic import atomic_write

    source, target = args.source, args.target
    if target.suffix in CHECKPOINT_SUFFIXES:
        raise ValueError(f"{source} is a checkpoint, so {target} must be a folder: name one without {target.suffix}")
    if args.text_encoder_hash and not FINGERPRINT.fullmatch(args.text_encoder_hash):
        raise ValueError(f"--text-encoder-hash is {args.text_encoder_hash!r}: give the output of `sur-adapter fingerprint MODEL`")
    about = {"base_model": args.base_model, "text_encoder": args.text_encoder_hash}
    adapter = read_checkpoint(
        source,
        published_attention=not args.token_attention,
        strength=args.scale,
        about={key: value for key, value in about.items() if value},
    )
    check_writable(target.parent)
    with atomic_write(target) as part:
        adapter.save_pretrained(part)
    return f"{target}: width of the text features {adapter.config.width}, scale {adapter.config.strength}"


def _to_checkpoint(args: argparse.Namespace) -> str:
    from sur_adapter.adapter.adapter import SURAdapter
    from sur_adapter.adapter.conversion import write_checkpoint
    from sur_adapter.cli.output import check_writable

    source, target = args.source, args.target
    if target.suffix not in CHECKPOINT_SUFFIXES:
        raise ValueError(f"{source} is a folder, so {target} must be a checkpoint: let its name end in .pt or .safetensors")
    for name in ("base_model", "text_encoder_hash", "scale", "token_attention"):
        if getattr(args, name) is not None and getattr(args, name) is not False:
            raise ValueError(f"--{name.replace('_', '-')} cannot be stored in a checkpoint, which holds only tensors: leave it out")
    adapter = SURAdapter.from_pretrained(source)
    check_writable(target.parent)
    write_checkpoint(adapter, target)
    warning = "" if adapter.config.published_attention else " It was trained with attention over tokens; the published code differs."
    return f"{target}: 48 tensors, without scale {adapter.config.strength}, base model and projection of the teacher.{warning}"
