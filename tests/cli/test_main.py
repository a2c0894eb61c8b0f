"""The command line: images from the same noise, facts about an adapter, and exit codes and messages for bad input."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers import single_file
from helpers.bare_python import HIDE_PACKAGES
from helpers.loopback_hub import free_port
from helpers.miniature_adapter import MINIATURE, random_adapter
from helpers.repository import ROOT
from helpers.small_models import digest
from PIL import Image
from ruamel.yaml import YAML

import sur_adapter
from miniature.scenes import ACTORS, COLORS
from miniature.silhouettes import POSES, SHAPES
from miniature.words import NUMBERS, PLURALS
from sur_adapter import SURAdapter, attach
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.adapter.conversion import write_checkpoint
from sur_adapter.cli.base_model import resolve_device
from sur_adapter.cli.known_models import known_model
from sur_adapter.cli.loading import default_adapter, load_session
from sur_adapter.cli.main import build_parser, main, run
from sur_adapter.cli.output import SETTINGS_CHUNK
from sur_adapter.generation.image_grid import side_by_side
from sur_adapter.models.torch_utils import DTYPES

PROMPT = "there are three red circles in the picture"
NUMBERS_OF_THE_MINIATURE = {word for words in NUMBERS.values() for word in words}


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("mine"), llm="some/llm", data="e3d4577aba9e1588", loss={"prompt": "kl", "w_llm": 0.01})


def generate(adapter_folder, out: Path, *options: str) -> Image.Image:
    main(["generate", PROMPT, "--adapter", str(adapter_folder), "--steps", "2", "-o", str(out), *options])
    return Image.open(out)


@pytest.fixture(scope="module")
def plain_and_adapted(adapter_folder) -> list[Image.Image]:
    """The images of a script that uses diffusers, without and with the adapter."""
    pipe = StableDiffusionPipeline.from_pretrained(MINIATURE, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    handle, images = attach(pipe, SURAdapter.from_pretrained(adapter_folder)), []
    for eta in (0.0, 1.0):
        handle.scale = eta
        images += pipe(PROMPT, num_inference_steps=2, guidance_scale=3.0, generator=torch.Generator().manual_seed(3)).images
    return images


def test_generate_writes_the_image_of_the_pipeline_with_the_same_seed(adapter_folder, tmp_path, plain_and_adapted):
    plain, adapted = map(np.asarray, plain_and_adapted)
    assert np.array_equal(generate(adapter_folder, tmp_path / "adapted.png", "--seed", "3"), adapted)
    assert np.array_equal(generate(adapter_folder, tmp_path / "plain.png", "--seed", "3", "--scale", "0"), plain)
    assert not np.array_equal(adapted, plain)


def test_compare_writes_both_images_side_by_side_enlarged_without_smoothing(adapter_folder, tmp_path, plain_and_adapted):
    page = np.asarray(generate(adapter_folder, tmp_path / "both.png", "--seed", "3", "--compare"))
    big = [np.asarray(image).repeat(4, 0).repeat(4, 1) for image in plain_and_adapted]
    places = [
        (x, y) for x in range(page.shape[1] - 255) for y in range(page.shape[0] - 255) for one in big if (page[y, x] == one[0, 0]).all()
        and np.array_equal(page[y : y + 256, x : x + 256], one)
    ]  # fmt: skip
    (left, top), (right, same) = places
    assert left + 256 < right and top == same
    assert np.array_equal(page[top : top + 256, left : left + 256], big[0])


def test_equal_calls_write_equal_bytes_and_the_png_holds_its_settings(adapter_folder, tmp_path):
    options = ("--seed", "7", "--negative", "naïve, 8k", "--guidance", "2.5", "--size", "64x32", "--strength", "0.5")
    image = generate(adapter_folder, tmp_path / "one.png", *options)
    generate(adapter_folder, tmp_path / "two.png", *options)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes() and image.size == (64, 32)
    stored = json.loads(image.text[SETTINGS_CHUNK])
    expected = {"prompt": PROMPT, "negative": "naïve, 8k", "seed": 7, "steps": 2, "guidance": 2.5, "size": [64, 32], "strength": 0.5}
    assert stored == expected | {"compare": False, "model": "stable-diffusion", "adapter": adapter_folder.name}  # no local path
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_without_a_file_name_no_image_is_overwritten(adapter_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "1"):
        assert "picture" in main(["generate", PROMPT, "--adapter", str(adapter_folder), "--steps", "1", "--seed", seed])
    assert len(set(digest(tmp_path).values())) == 2 and sorted(digest(tmp_path)) == ["picture-1.png", "picture.png"]


def test_long_prompts_with_non_latin_characters_fit_the_image_grid():
    page = side_by_side({"a": Image.new("RGB", (512, 300)), "b": Image.new("RGB", (512, 300))}, "ein 猫 " * 200)
    short = side_by_side({"a": Image.new("RGB", (512, 300)), "b": Image.new("RGB", (512, 300))}, "")
    assert page.width == short.width > 1024 and 300 < short.height < page.height < 500


def test_info_is_an_aligned_table_or_the_whole_config(adapter_folder):
    rows = main(["info", str(adapter_folder)]).splitlines()
    width = max(len(row.split("  ")[0]) for row in rows)
    assert all(row[width : width + 2] == "  " and row[width + 2] != " " for row in rows)
    table = {row[:width].strip(): row[width + 2 :] for row in rows}
    expected = {"base model": MINIATURE, "width": "128", "variant": "sur", "LLM": "some/llm", "data": "e3d4577aba9e1588"}
    assert expected.items() <= table.items() and table["losses"] == "prompt loss kl, llm × 0.01"
    config = json.loads(main(["info", str(adapter_folder), "--json"]))
    weights = sum(p.numel() for p in SURAdapter.from_pretrained(adapter_folder).parameters())
    assert config["about"]["loss"]["w_llm"] == 0.01 and config["parameters"] == weights and table["parameters"] == f"{weights:,}"


def test_card_prints_the_model_card_with_the_results(adapter_folder):
    card = main(
        ["card", str(adapter_folder), "--metrics", str(ROOT / "reports/metrics.json"), "--licence", "mit", "--dataset", "owner/pairs"]
    )
    assert card.startswith("---\n") and "license: mit" in card and "- owner/pairs" in card and "Share of the gap" in card
    assert f"SURAdapter.from_pretrained({str(adapter_folder)!r})" in card


def test_the_fingerprint_of_the_miniature_is_that_in_its_adapters():
    assert main(["fingerprint", MINIATURE]) == "b5ec9c8f81a7a120.c3f659cb32f223e8.c3f659cb32f223e8"


@pytest.fixture(scope="module")
def invalid_inputs(adapter_folder, tmp_path_factory) -> Path:
    """A folder with invalid adapters and files, and one valid adapter, `mine`."""
    home = tmp_path_factory.mktemp("invalid_inputs")
    (home / "mine").symlink_to(adapter_folder)
    random_adapter(home / "no-base", base_model=None)
    random_adapter(home / "other-base", base_model="some/base", text_encoder="0123456789abcdef." * 2 + "fedcba9876543210")
    SURAdapter(AdapterConfig(64, about={"base_model": "some/base"})).save_pretrained(home / "narrow")
    random_adapter(home / "cut")
    (home / "cut/model.safetensors").write_bytes((adapter_folder / "model.safetensors").read_bytes()[:1000])
    (home / "file").write_text("{")
    (home / "folder.png").mkdir()
    write_checkpoint(SURAdapter(AdapterConfig(16, variant="official", heads=8)), home / "official.pt")
    return home


INVALID_CALLS = {
    "generate x": "models/adapter holds no config.json: train an adapter",
    "generate x --adapter nowhere": "nowhere is neither a folder nor a name on the hub (owner/name): train an adapter",
    "generate x --adapter some/adapter": "some/adapter is not a folder, and the hub cannot be reached: name a folder that holds an adapter",
    "info models/adapter": "models/adapter is not a folder, and the hub cannot be reached: name a folder that holds an adapter",
    "generate x --adapter mine --device warp:9": "the device 'warp:9' cannot be used on this machine: give cpu, cuda, cuda:1, … or mps",
    "generate x --adapter mine --model file": "file does not end in .safetensors: weights are read from safetensors alone",
    "generate x --adapter mine --model cut/model.safetensors": "cut/model.safetensors cannot be read as safetensors (",
    f"generate x --adapter mine --model {MINIATURE}/unet/diffusion_pytorch_model.safetensors": "cannot be loaded as StableDiffusion",
    "generate x --adapter file": "file is not a folder: convert a checkpoint with `python -m sur_adapter convert file FOLDER`",
    "generate x --adapter cut": "cut/model.safetensors does not hold the weights that its config.json describes",
    "generate x --adapter no-base": "no-base does not say which diffusion model it was trained for: name one with --model",
    "generate x --adapter mine --model nowhere": "the model is 'nowhere', where no diffusion model can be loaded: give --model",
    "generate x --adapter narrow": "the base model of narrow is 'some/base', where no diffusion model can be loaded: give --model",
    f"generate x --adapter narrow --model {MINIATURE}": "was trained for some/base with text features of width 64, but those of",
    f"generate x --adapter other-base --model {MINIATURE}": "was trained for the text encoder of some/base, but",
    "generate x --adapter mine --size 65": "the size is 65x65: give multiples of 8 for this model",
    "generate x --adapter mine --revision v1": "mine is a folder, and only adapters on the hub have revisions",
    "generate x --adapter mine -o out.jpg": "--out is out.jpg, but images are written as PNG: let its name end in .png",
    "generate x --adapter mine -o nowhere/out.png": "there is no folder nowhere: create it, or name another",
    "generate x --adapter mine -o folder.png": "--out is folder.png, which is a folder: name a file",
    "generate x --adapter nowhere -o /proc/out.png": "nothing can be written in /proc (",
    "convert official.pt file/folder": "nothing can be written in file (",
    "convert official.pt mine": "mine exists already: name another place, or remove it first",
    "convert file folder": "file cannot be read as a file of tensors only",
    "convert nowhere folder": "nowhere does not exist: name a checkpoint or an adapter's folder",
    "card mine --metrics nowhere": "nowhere cannot be read: name the metrics.json that `evaluate` wrote",
    "fingerprint nowhere": "nowhere is neither a folder nor a file, and no name on the hub (owner/name)",
    "fingerprint cut/model.safetensors": "cut/model.safetensors is a file: name the folder of the model, or its name on the hub",
    "fingerprint some/model": "some/model is not a folder, and the hub does not provide its text_encoder/config.json now: check the name",
    "fingerprint folder.png": "folder.png has no text_encoder that can be loaded: name a folder that holds one",
    "demo --port FREE": "models/adapter holds no config.json: train an adapter",
    "serve --port FREE": "models/adapter holds no config.json: train an adapter",
    "serve --host 203.0.113.7": "nothing can listen on 203.0.113.7, port 7860 (",
}


@pytest.mark.parametrize("call", INVALID_CALLS)
def test_bad_input_is_reported_in_one_sentence_with_exit_code_1_and_nothing_is_written(invalid_inputs, monkeypatch, capsys, call):
    if call.startswith(("serve", "demo")):
        pytest.importorskip("gradio", reason="the page needs the package gradio")
    monkeypatch.chdir(invalid_inputs)
    before = digest(invalid_inputs)
    monkeypatch.setattr(sys, "argv", ["sur-adapter", *call.replace("FREE", str(free_port())).split()])
    with pytest.raises(SystemExit) as end:
        run()
    message = end.value.code  # Python prints it to stderr and exits with 1
    assert message.startswith("error: ") and INVALID_CALLS[call] in message and "\n" not in message and "[Errno" not in message
    assert capsys.readouterr().out == "" and digest(invalid_inputs) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", "one"), "argument --seed: 'one': give a whole number from 0 to"),
        (("--steps", "0"), "argument --steps: '0': give a whole number from 1 to 1000"),
        (("--seed", "-1"), "argument --seed: '-1': give a whole number from 0 to"),
        (("--guidance", "nan"), "argument --guidance-scale/--guidance: 'nan': give a number"),
        (("--scale", "much"), "argument --scale/--strength: 'much': give a number"),
        (("--size", "64x64x64"), "argument --size: '64x64x64': give pixels as 512 or 768x512"),
        ((" ",), "argument PROMPT: it is empty: write what the image should show"),
        ((), "the following arguments are required: PROMPT"),
        ((PROMPT, "--colour", "red"), "unrecognized arguments: --colour red"),
    ],
)
def test_wrong_arguments_end_with_exit_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["generate", *arguments])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_a_process_ends_with_0_or_1_without_traceback_or_progress_bar(adapter_folder, tmp_path):
    cut = r"\nThe last 22 tokens of the prompt were not read: it is too long for the text encoder."
    for arguments, code, out, err in (
        (
            ("red " * 60, "--adapter", adapter_folder, "--steps", "1", "-o", "out.png"),
            0,
            f"out.png: with the adapter, strength 1;.*{cut}\n",
            "",
        ),
        ((PROMPT, "--adapter", "."), 1, "", "error: . holds no config.json: train an adapter .*\n"),
    ):
        command = [sys.executable, "-m", "sur_adapter", "generate", *map(str, arguments)]
        environment = {key: value for key, value in os.environ.items() if "VERBOSITY" not in key} | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code and re.fullmatch(out, done.stdout) and re.fullmatch(err, done.stderr), done


def test_an_interrupt_shows_no_traceback(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sur_adapter.cli.commands.info", interrupt)
    monkeypatch.setattr(sys, "argv", ["sur-adapter", "info", "x"])
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 130


@pytest.mark.parametrize("command", ["", "generate", "info", "card", "convert", "fingerprint", "demo", "serve"])
def test_the_examples_of_every_help_are_valid(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*([command] if command else []), "--help"])
    examples = capsys.readouterr().out.split("\nexamples:\n")[1].split("\n\n")[0].splitlines()
    assert end.value.code == 0 and examples
    for line in examples:
        words = shlex.split(line.partition(">")[0], comments=True)
        args = build_parser().parse_args(words[1:])
        assert words[0] == "sur-adapter" and args.command in (command or words[1], "demo")
        if args.command == "generate" and not args.model:
            assert set(args.prompt.split()) & {*NUMBERS_OF_THE_MINIATURE, *ACTORS}, "the miniature can draw it"


def test_help_says_what_the_miniature_draws_in_its_own_words(capsys):
    for command in ([], ["generate"], ["demo"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "The miniature, the small model that comes with the project, draws only one to five circles" in text
        words = {*COLORS, *POSES, *ACTORS, *(PLURALS.get(shape, f"{shape}s") for shape in SHAPES)}
        assert {word for word in words if not re.search(rf"\b{word}\b", text)} == set()


def test_the_guidance_scale_of_the_miniature_is_that_of_params_yaml():
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    assert known_model(params["models"]["diffusion"]).guidance_scale == params["generate"]["guidance_scale"] == 3.0
    assert known_model("SG161222/Realistic_Vision_V2.0").guidance_scale is None


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"sur-adapter {sur_adapter.__version__}\n"


def test_the_adapter_in_models_is_used_and_without_one_that_of_the_miniature(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_adapter() == Path("models/adapter"), "the error names the place where training writes it"
    for folder, scale in (("models/miniature/adapter", 0.25), ("models/adapter", 0.75)):
        random_adapter(tmp_path / folder)
        config = json.loads((tmp_path / folder / "config.json").read_text())
        (tmp_path / folder / "config.json").write_text(json.dumps(config | {"strength": scale}))
        assert default_adapter() == Path(folder)
        main(["generate", PROMPT, "--steps", "1", "-o", "out.png"])
        stored = json.loads(Image.open("out.png").text[SETTINGS_CHUNK])
        assert (stored["adapter"], stored["strength"], stored["guidance"]) == (folder, scale, 3.0)


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, str]:
    """The miniature in the forms that people have: fp16 variants, stored in half precision, and one file."""
    pipe, home = StableDiffusionPipeline.from_pretrained(MINIATURE, safety_checker=None), tmp_path_factory.mktemp("forms")
    single_file.write(pipe, home / "miniature.safetensors")
    pipe.to(torch.float16)
    pipe.save_pretrained(home / "variant", variant="fp16")
    pipe.save_pretrained(home / "half")
    return {name: str(home / name) for name in ("miniature.safetensors", "variant", "half")}


@pytest.mark.parametrize("form", ["miniature.safetensors", "variant", "half"])
def test_every_form_of_a_model_gives_its_image(adapter_folder, tmp_path, forms, form):
    expected = np.asarray(generate(adapter_folder, tmp_path / "folder.png"))
    image = np.asarray(generate(adapter_folder, tmp_path / "form.png", "--model", forms[form], "--guidance", "3"))
    assert np.array_equal(image, expected), "the weights of the miniature are fp16 already"
    if form != "miniature.safetensors":
        assert main(["fingerprint", MINIATURE]) == main(["fingerprint", forms[form]])


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("form", ["miniature.safetensors", "variant"])
def test_all_parts_of_a_model_have_one_dtype(adapter_folder, forms, form, dtype):
    session = load_session(adapter_folder, forms[form], dtype=dtype, device="cpu")
    kinds = {part.dtype for part in (session.pipe.unet, session.pipe.vae, session.pipe.text_encoder)}
    assert kinds == {DTYPES[dtype]} and session.generate(PROMPT, scale=1.0, num_inference_steps=1).size == (64, 64)


def test_the_apple_gpu_is_used_if_there_is_no_other(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == ("mps" if torch.backends.mps.is_available() else "cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device() == "mps" and resolve_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device() == "cuda"


def test_a_model_that_does_not_exist_is_reported_at_once_without_a_network(tmp_path):
    """An address that refuses connections stands for a machine without a network."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE" and "proxy" not in key.lower()}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for arguments in (["fingerprint", "some/model"], ["info", "some/adapter"]):
        code = f"""
import sys, time, torch, transformers, huggingface_hub
from sur_adapter.cli.main import main
started = time.perf_counter()
try:
    main({arguments!r})
except FileNotFoundError as error:
    print(time.perf_counter() - started, str(error).count("\\n"), error)"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
        seconds, newlines, message = done.stdout.strip().split(" ", 2)
        # imports take seconds on a busy machine; asking the hub again and again took 42
        assert float(seconds) < 25 and newlines == "0" and message.startswith(f"{arguments[1]} is not a folder, and the hub"), done
        assert "login" not in message


def test_without_gradio_demo_says_how_to_install_it():
    code = f"""{HIDE_PACKAGES.format(absent=["gradio"])}
sys.argv = ["sur-adapter", "demo"]
from sur_adapter.cli.main import run
run()"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1, "error: the page needs Gradio, which is not installed: pip install 'sur-adapter[demo]'\n"
    )  # fmt: skip
