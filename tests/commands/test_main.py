"""The table of commands: what a module must have to be one, and what is passed to it."""

import importlib
import sys
from importlib.metadata import version

import pytest

from patchrec_hf.commands import main as module
from patchrec_hf.commands.main import COMMANDS, main


WITH_HELP_ALL = ["prepare", "train", "evaluate"]
"""Commands whose parser is a `CommandParser`."""


@pytest.mark.parametrize("name", COMMANDS)
def test_each_module_keeps_the_contract(name, capsys):
    command = importlib.import_module(COMMANDS[name])
    first = command.__doc__.strip().splitlines()[0]
    assert first.endswith(".")
    assert len(first) <= 100
    with pytest.raises(SystemExit) as ended:
        command.main(["--no_such_option"])
    assert ended.value.code not in (None, 0)
    assert "Traceback" not in f"{ended.value.code}{capsys.readouterr().err}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_one_screen(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: patchrec {name} ")
    assert len(lines) <= 45
    options = [line for line in lines if line.lstrip().startswith("--")]
    assert options
    assert max(map(len, options)) <= 100


@pytest.mark.parametrize("name", WITH_HELP_ALL)
def test_help_all_shows_what_help_shows_and_more(name, capsys):
    printed = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            main([name, option])
        assert ended.value.code == 0
        printed[option] = capsys.readouterr().out
    shown = [line.split()[0] for line in printed["--help"].splitlines() if line.startswith("  --")]
    assert [option for option in shown if option not in printed["--help-all"]] == []
    assert printed["--help"].endswith(f"\nAll options, with their whole help: patchrec {name} --help-all\n")
    assert ("--num_train_epochs" in printed["--help-all"]) == (name == "train")
    assert ("--adam_beta1" in printed["--help-all"]) == (name == "train")
    assert "--adam_beta1" not in printed["--help"]


def test_arguments_reach_the_command(monkeypatch):
    received = []
    command = importlib.import_module(COMMANDS["info"])
    monkeypatch.setattr(command, "main", received.append)
    main(["info", "a", "--json"])
    monkeypatch.setattr(sys, "argv", ["patchrec", "info", "b"])
    main()
    assert received == [["a", "--json"], ["b"]]


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"patchrec-hf {version('patchrec-hf')}\n"


def test_an_unknown_command_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["zzz"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"patchrec has no command 'zzz'; it must be among {list(COMMANDS)}.\n"
    with pytest.raises(SystemExit):
        main(["trian"])
    assert capsys.readouterr().err == "patchrec has no command 'trian'; did you mean 'train'?\n"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_help_lists_all_commands(arguments, capsys):
    main(arguments)
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert lines == list(COMMANDS)


def test_the_summary_is_read_and_not_imported():
    """The table lists a module of this room, whose first line is its summary."""
    assert module._summary("info").startswith("Show what a checkpoint is")
