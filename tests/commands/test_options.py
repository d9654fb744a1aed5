"""The parser of a command: recipes below the command line, and errors that name what was meant."""

from dataclasses import dataclass, field

import pytest

from patchrec_hf.commands.options import CommandParser


@dataclass
class Settings:
    size: int = field(default=3, metadata={"help": "Size of the thing, in items."})
    rate: float = field(default=0.5, metadata={"help": "Rate."})
    kind: str = field(default="small", metadata={"help": "Kind.", "choices": ["small", "large"]})
    names: list[str] | None = field(default=None, metadata={"help": "Names."})
    switch: bool = field(default=True, metadata={"help": "Switch."})
    source: str = field(default="here", metadata={"help": "Source.", "aliases": ["--source_dir"]})
    limit: int | None = field(default=7, metadata={"help": "Limit."})


@pytest.fixture
def parser():
    shown = {"Sizes": ["config", "size", "names"], "Others": ["kind", "switch"]}
    return CommandParser("test", [Settings], description="Test it.\n", shown=shown, takes_recipe=True)


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "recipe.yaml")

    return write


def test_the_command_line_overrides_the_recipe(parser, recipe):
    path = recipe("size: 4\nrate: 1e-3\nkind: large\nnames: [a, b]\nswitch: false\nsource_dir: there\nlimit: null\n")
    (read,) = parser.parse(["--config", path])
    assert read == Settings(4, 0.001, "large", ["a", "b"], False, "there", None)
    (read,) = parser.parse(["--size", "5", f"--config={path}", "--names", "c", "--switch"])
    assert read == Settings(5, 0.001, "large", ["c"], True, "there", None)
    (read,) = CommandParser("test", [Settings], description="").parse([])
    assert read == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sizes: 4\n", "recipe.yaml has the unknown key 'sizes'; did you mean 'size'"),
        ("size: four\n", "recipe.yaml: --size: invalid .*value: 'four'"),
        ("size: 4.5\n", "recipe.yaml: --size: invalid .*value: '4.5'"),
        ("kind: medium\n", r"recipe.yaml: --kind: invalid choice: 'medium' \(choose from"),
        (
            "kind: no\n",
            r'recipe.yaml: --kind: invalid choice: \'false\' .* YAML reads no and off as false: write "no"',
        ),
        ("size: [4, 5]\n", r"recipe.yaml: `size` takes one value, got the list \[4, 5\]"),
        ("switch: maybe\n", "recipe.yaml: --switch: .*maybe"),
    ],
)
def test_wrong_values_of_a_recipe(parser, recipe, text, message):
    with pytest.raises(ValueError, match=message):
        parser.parse(["--config", recipe(text)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sise", "4"], "There is no option --sise; did you mean '--size'?"),
        (["--sise=4"], "There is no option --sise; did you mean '--size'?"),
        (["--no-swich"], "There is no option --no-swich; did you mean '--no_switch'?"),
        (["--zzzzzz"], "There is no option --zzzzzz; see `patchrec test --help-all`."),
        (["--size", "4", "5"], "'5' belongs to no option. See `patchrec test --help`."),
        (["--size", "x"], "--size: invalid"),
        (["--config"], "--config takes the path of a recipe."),
        (["--config", "missing.yaml"], "There is no recipe missing.yaml."),
    ],
)
def test_wrong_arguments(parser, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        parser.parse(arguments)
    assert message in str(error.value)


def test_only_a_command_with_recipes_takes_one():
    with pytest.raises(ValueError, match="There is no option --config"):
        CommandParser("test", [Settings], description="").parse(["--config", "x.yaml"])


def test_the_short_help(parser, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert parser.short_help().splitlines() == [
        "usage: patchrec test [OPTIONS]",
        "",
        "Test it.",
        "",
        "Sizes:",
        "  --config RECIPE                  A YAML file of options.",
        "  --size N                         Size of the thing, in items.",
        "  --names TEXT …                   Names.",
        "Others:",
        "  --kind NAME                      Kind. (small, large)",
        "  --switch                         Switch.",
        "",
        "All options, with their whole help: patchrec test --help-all",
    ]


def test_a_parser_without_a_choice_shows_all_options(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = CommandParser("test", description="Test it.")
    parser.add_argument(
        "place", help="Where to look, which is told in a sentence that is longer than one line has room."
    )
    parser.add_argument("--json", action="store_true", help="Print 100%% JSON.")
    assert parser.short_help().splitlines()[0] == "usage: patchrec test PLACE [OPTIONS]"
    shown = [line for line in parser.short_help().splitlines() if line.startswith("  ")]
    assert shown == [
        "  PLACE                            Where to look, which is told in a sentence …",
        "  --json                           Print 100% JSON.",
    ]
    (read,) = parser.parse(["there", "--json"])
    assert (read.place, read.json) == ("there", True)
    with pytest.raises(ValueError, match="the following arguments are required: place"):
        parser.parse([])
