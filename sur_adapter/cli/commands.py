"""What each command of the command line does: takes what was given, returns what is to be said. cli.py says what may be given.

Bad input is a ValueError or FileNotFoundError of one sentence, and nothing is written then.
"""

import argparse
import json
import os
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

MARK = re.compile(r"([0-9a-f]{16})?(\.[0-9a-f]{16}){2}|[0-9a-f]{16}")


def generate(given: argparse.Namespace) -> str:
    """A picture of a prompt with the adapter, or beside it, on the same noise, one without."""
    target = _picture(given.out)
    _quiet()
    from sur_adapter.generation import comparison_png as compare
    from sur_adapter.generation.session import load

    studio, prompt = load(given.adapter, given.model, revision=given.revision), given.prompt
    studio.pipe.set_progress_bar_config(disable=None, leave=False)  # None: off where no terminal looks on
    strength = studio.strength if given.strength is None else given.strength
    guidance = studio.guidance if given.guidance is None else given.guidance
    how = {"negative": given.negative, "seed": given.seed, "steps": given.steps, "guidance": guidance, "size": given.size}
    pictures = {}
    for eta in (0.0, strength) if given.compare else (strength,):
        label = f"with the adapter, strength {eta:g}" if pictures or not given.compare else "without the adapter"
        pictures[label] = studio.picture(prompt, strength=eta, **how)
    picture = compare.side_by_side(pictures, prompt) if given.compare else pictures[label]
    names = {"model": studio.model, "adapter": given.adapter}
    told = {key: Path(name).name if Path(name).is_absolute() else str(name) for key, name in names.items()}  # no folders of anyone's
    drawn = list(next(iter(pictures.values())).size)
    compare.save(picture, target, {"prompt": prompt} | how | {"size": drawn, "strength": strength, "compare": given.compare} | told)
    said = f"{target}: {' | '.join(pictures)}; seed {given.seed}, {given.steps} steps, guidance {guidance:g}, {drawn[0]}x{drawn[1]}"
    return "\n".join([said, *studio.unread(prompt, given.negative)])


def info(given: argparse.Namespace) -> str:
    """What an adapter is, as an aligned table or as JSON."""
    from dataclasses import asdict

    from sur_adapter.model_card import facts

    adapter = _adapter(given)
    size = sum(p.numel() for p in adapter.parameters())
    if given.json:
        return json.dumps(asdict(adapter.config) | {"parameters": size}, indent=2, sort_keys=True)
    rows = facts(adapter.config) | {"parameters": f"{size:,}"}
    wide = max(map(len, rows))
    return "\n".join(f"{key:<{wide}}  {value}" for key, value in rows.items())


def card(given: argparse.Namespace) -> str:
    """The model card of an adapter."""
    from sur_adapter.hub import figures
    from sur_adapter.model_card import card

    words = card(
        _adapter(given).config,
        figures(given.metrics) if given.metrics else None,
        name=str(given.adapter),
        licence=given.licence,
        datasets=given.dataset,
    )
    return words.rstrip("\n")


def convert(given: argparse.Namespace) -> str:
    """A checkpoint of the published code to a folder, or a folder to a checkpoint."""
    source, target = given.source, given.target
    if target.exists():
        raise ValueError(f"{target} is there already: name another place, or remove it first")
    if not source.exists():
        raise FileNotFoundError(f"{source} is neither a checkpoint nor a folder: name one that is there")
    if source.is_dir():
        return _to_checkpoint(source, target, given)
    from sur_adapter.adapter.conversion import read_checkpoint
    from sur_adapter.io.atomic import atomic_write

    if target.suffix in (".pt", ".safetensors"):
        raise ValueError(f"{source} is a checkpoint, so {target} must be a folder: name one without {target.suffix}")
    if given.text_encoder_hash and not MARK.fullmatch(given.text_encoder_hash):
        raise ValueError(f"--text-encoder-hash is {given.text_encoder_hash!r}: give what `sur-adapter fingerprint MODEL` prints")
    about = {"base_model": given.base_model, "text_encoder": given.text_encoder_hash}
    adapter = read_checkpoint(
        source,
        published_attention=not given.token_attention,
        strength=given.strength,
        about={key: value for key, value in about.items() if value},
    )
    _writable(target.parent)
    with atomic_write(target) as part:
        adapter.save_pretrained(part)
    return f"{target}: text features {adapter.config.width} wide, strength {adapter.config.strength}"


def fingerprint(given: argparse.Namespace) -> str:
    """The mark of a diffusion model's text encoder."""
    _quiet()
    from transformers import CLIPTextModel

    from sur_adapter.models.fingerprint import fingerprint

    try:
        return fingerprint(CLIPTextModel.from_pretrained(given.model, subfolder="text_encoder", use_safetensors=True))
    except OSError as error:
        raise FileNotFoundError(
            f"{given.model} has no text_encoder that can be loaded: name a folder that holds one, or a model of the hub"
        ) from error


def serve(given: argparse.Namespace) -> str:
    """The web page, until it is stopped."""
    from sur_adapter.cli.demo import MISSING, serve

    if find_spec("gradio") is None:
        raise ValueError(MISSING)
    _quiet()
    serve(given.adapter, given.model, host=given.host, port=given.port)
    return ""


def _adapter(given: argparse.Namespace):
    from sur_adapter.adapter.adapter import SURAdapter

    return SURAdapter.from_pretrained(given.adapter, revision=given.revision)


def _picture(out: Path | None) -> Path:
    """Where the picture goes. A name that was not asked for is a free one."""
    if out is None:
        from sur_adapter.generation.comparison_png import free

        out = free(Path("picture.png"))
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out is {out}, but pictures are written as PNG: let its name end in .png")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out is {out}, but there is no folder {out.parent}: make it, or name another")
    if out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder: name a file")
    _writable(out.parent)
    return out


def _writable(folder: Path) -> None:
    """ValueError where nothing can be written: before the work, so that none is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"nothing can be written in {folder} ({error.strerror}): name another place") from error


def _quiet() -> None:
    """The libraries' bars are for those who look on; what they warn each other of is for nobody here."""
    warnings.simplefilter("ignore")
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")  # before they are imported, which read it: what of a prompt is cut we say ourselves
    if sys.stderr.isatty():
        return
    import diffusers
    import transformers
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def _to_checkpoint(source: Path, target: Path, given: argparse.Namespace) -> str:
    from sur_adapter.adapter.adapter import SURAdapter
    from sur_adapter.adapter.conversion import write_checkpoint

    if target.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{source} is a folder, so {target} must be a checkpoint: let its name end in .pt or .safetensors")
    for name in ("base_model", "text_encoder_hash", "strength", "token_attention"):
        if getattr(given, name) is not None and getattr(given, name) is not False:
            raise ValueError(f"--{name.replace('_', '-')} has no place in a checkpoint, which holds tensors alone: leave it out")
    adapter = SURAdapter.from_pretrained(source)
    _writable(target.parent)
    write_checkpoint(adapter, target)
    lost = "" if adapter.config.published_attention else " Trained with attention over tokens: it draws otherwise in the published code."
    return f"{target}: 48 tensors; strength {adapter.config.strength}, base model and the teacher's projection are not among them.{lost}"
