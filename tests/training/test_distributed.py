"""Training under a launcher, on one machine or two, gives the adapter of a single process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.repository import ROOT
from helpers.small_models import digest
from helpers.stages import train
from helpers.training_setup import TEXT_ONLY, cached, stage_command, stage_params
from ruamel.yaml import YAML
from safetensors.torch import load_file

from sur_adapter.training.distributed import launch_command

TRAIN = {"eval_steps": 1, "steps": 6}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """started(folder, **config): trains in a folder and returns the paths of the stage; launched processes read the same params."""
    monkeypatch.chdir(ROOT)
    for name, value in (("OMP_NUM_THREADS", "1"), ("TQDM_DISABLE", "1"), ("SUR_PARAMS", str(tmp_path / "params.yaml"))):
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def start(folder: str, **config) -> list[Path]:
        paths, values = cached(tmp_path / folder), stage_params(TEXT_ONLY, TRAIN | config)
        with (tmp_path / "params.yaml").open("w") as file:
            YAML().dump(values, file)
        train(*paths, **values)
        return paths

    yield start
    torch.set_num_threads(threads)


def weights(adapter: Path) -> torch.Tensor:
    return torch.cat([p.flatten() for p in load_file(adapter / "model.safetensors").values()])


def test_two_machines_under_accelerate_and_torchrun_train_the_adapter_that_one_process_trains(started, tmp_path, capfd):
    *_, alone, log = started("alone")
    *_, untrained, _ = started("none", lr=1e-12)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    rendezvous = ["--nnodes=2", "--node-rank=1", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    module = stage_command(cached(tmp_path / "two"))[1:]
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, *module]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL) as other:
        first = "accelerate launch --multi_gpu --num_machines 2 --num_processes 2 --machine_rank 0"
        *_, both, second = started("two", launch=f"{first} --main_process_ip 127.0.0.1 --main_process_port {port}")
        assert other.wait(60) == 0
    assert capfd.readouterr().out.count("48 pairs, 2 processes") == 1, "only the first process prints"
    for one, two in zip(*(json.loads((folder / "history.json").read_text()) for folder in (log, second)), strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    one, two, none = map(weights, (alone, both, untrained))
    assert 0 < (one - two).norm() < 0.05 * (one - none).norm(), "Muon multiplies in bf16, so the sums differ"


def test_a_launcher_that_sets_no_world_size_is_started_once_and_does_not_change_the_adapter(started):
    *_, alone, _ = started("alone")
    *_, under, _ = started("under", launch="python")  # `python` as launcher sets no environment variable
    assert digest(under) == digest(alone)


@pytest.mark.parametrize(
    "launch, processes, sentence",
    [
        ("acelerate launch", 1, "train.launch is 'acelerate launch', which is not a command here: name a launcher such as torchrun"),
        ("torchrun 'one", 1, "which is not a command here"),
        ("", 1, "train.launch is '', which is not a command here"),
        ("torchrun --nproc-per-node=2", 2, "train.processes 2: only one of them may set the number"),
    ],
)
def test_a_wrong_launcher_is_refused_in_one_sentence(launch, processes, sentence):
    with pytest.raises(ValueError, match=sentence):
        launch_command(launch, processes, str(Path(sys.executable).parent))


def test_one_process_needs_no_launcher():
    assert launch_command(None, 1) == [] and launch_command(None, 3)[-1] == "--nproc-per-node=3"
