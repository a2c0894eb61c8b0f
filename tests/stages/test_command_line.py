"""The command line of the pipeline: help of every stage and tool, and wrong names."""

import pytest

from stages.__main__ import COMMANDS, STAGES, main


@pytest.mark.parametrize("command", COMMANDS)
def test_each_stage_and_tool_has_help_on_its_options(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and f"usage: python -m stages {command}" in text
    assert COMMANDS[command][1:] in text, "what it does"
    assert text.count(" --") > 1, "its options, beside --help"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_stage_the_help_lists_all(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} {description}" in text for name, description in COMMANDS.items())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], r"there is no stage 'trian' \(did you mean 'train'\?\): see `python -m stages --help`"),
        (["verfy"], r"there is no stage 'verfy' \(did you mean 'verify'\?\)"),
        (["x"], "there is no stage 'x': see"),
    ],
)
def test_an_unknown_stage_is_reported_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        main(arguments)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_a_missing_and_an_unknown_option(stage, capsys):
    with pytest.raises(SystemExit) as end:
        main([stage])
    assert end.value.code == 2 and "the following arguments are required: --" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([stage, "data/raw"])
    assert capsys.readouterr().err.startswith(f"usage: python -m stages {stage}")
