"""Arguments of `patchrec evaluate`: numbers out of range, and arguments that do not go together."""

import pytest

from patchrec_hf.commands.evaluate_arguments import EvaluateArguments, make_parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length_penalty": float("nan")}, "--length_penalty must be a finite number, got nan"),
        ({"length_penalty": float("-inf")}, "--length_penalty must be a finite number, got -inf"),
        ({"ks": []}, r"--ks takes cut-offs of at least 1, got \[\]"),
        ({"ks": [10, 0]}, r"--ks takes cut-offs of at least 1, got \[10, 0\]"),
        ({"max_history": 0}, "--max_history must be at least 1, got 0"),
        ({"max_rows": -1}, "--max_rows must be at least 1, got -1"),
        ({"batch_size": 0}, "--batch_size must be at least 1, got 0"),
        ({"num_beams": 0}, "--num_beams must be at least 1, got 0"),
        ({"max_title_tokens": -1}, "--max_title_tokens must be at least 0, got -1"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ],
)
def test_wrong_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvaluateArguments("outputs", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of --model and --baseline"),
        ({"model": "a", "baseline": "popularity"}, "exactly one of --model and --baseline"),
        ({"baseline": "popularity", "num_beams": 4}, "scores every item: leave out --num_beams"),
        ({"baseline": "popularity", "protocol": "effects"}, "scores every item: leave out --protocol"),
        ({"model": "a", "protocol": "release", "method": "exact"}, "decodes titles by the method diverse"),
        ({"model": "a", "protocol": "release", "length_penalty": 1.0}, "diverse does not use --length_penalty"),
        ({"model": "a", "protocol": "release", "num_beams": 4}, "diverse does not use --num_beams"),
        ({"model": "a", "protocol": "release-matching", "method": "diverse"}, "choose `--protocol release`"),
        ({"model": "a", "method": "item", "protocol": "effects"}, "needs `--protocol strict`, got effects"),
        ({"model": "a", "method": "item", "length_penalty": 1.0}, "item does not use --length_penalty"),
        ({"model": "a", "method": "all", "max_title_tokens": 9}, "all does not use --max_title_tokens"),
        ({"model": "a", "num_beams": 4}, "exact does not use --num_beams"),
    ],
)
def test_arguments_that_contradict_each_other(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvaluateArguments("outputs", **arguments).check_combination()


def test_the_model_decides_whether_a_penalty_has_an_effect():
    arguments = EvaluateArguments("outputs", model="a", length_penalty=1.0)
    for default in (None, "exact"):
        arguments.check_combination(default)
    with pytest.raises(ValueError, match="The method item does not use --length_penalty"):
        arguments.check_combination("item")
    EvaluateArguments("outputs", model="a", length_penalty=1.0, protocol="release-matching").check_combination("item")


def test_the_parser_reads_both_kinds():
    args, data = make_parser("Evaluate.").parse(["--model", "a", "--output_dir", "b", "--ks", "5", "--k_core"])
    assert (args.model, args.output_dir, args.ks, data.k_core) == ("a", "b", [5], True)
    with pytest.raises(ValueError, match="There is no option --protocl; did you mean '--protocol'"):
        make_parser("Evaluate.").parse(["--model", "a", "--output_dir", "b", "--protocl", "strict"])
