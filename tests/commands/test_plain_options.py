import re

import pytest

from patchrec_hf.commands.plain_options import PlainParser


@pytest.fixture
def parser() -> PlainParser:
    parser = PlainParser("test", description="A test.")
    parser.add_argument("place")
    parser.add_argument("--max_size", type=int, default=1)
    return parser


def test_arguments(parser):
    args = parser.parse(["here", "--max_size", "3"])
    assert (args.place, args.max_size) == ("here", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["here", "--max_sise", "4"], "There is no option --max_sise; did you mean '--max_size'?"),
        (["here", "--max-sise=4"], "There is no option --max-sise; did you mean '--max_size'?"),
        (["here", "--max", "4"], "There is no option --max; did you mean '--max_size'?"),
        (["here", "--zzzzzz"], "There is no option --zzzzzz; see `patchrec test --help`."),
        (["here", "there"], "'there' belongs to no option. See `patchrec test --help`."),
        (["here", "--max_size", "x"], "--max_size: invalid int value: 'x'. See `patchrec test --help`."),
        ([], "the following arguments are required: place. See `patchrec test --help`."),
    ],
)
def test_wrong_arguments(parser, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parser.parse(arguments)
