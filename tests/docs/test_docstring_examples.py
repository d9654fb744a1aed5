"""The examples of docstrings run, on the embedded sample with a tiny model, in an empty directory."""

import ast
import copy
import doctest
import inspect
import os
import re
import sqlite3
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas
import polars as pl
import pytest
from datasets import Dataset
from hf_docstrings import split_sections
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import patchrec_hf
from patchrec_hf import (
    ALL_PATCH_PRESET,
    BOOK_PROMPT_INSTRUCTION_FIRST,
    Catalog,
    CatalogRanker,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecommender,
    PatchRecProcessor,
    RankingConfig,
    build_tiny_backbone,
    evaluate_model,
    evaluate_scorer,
    load_recommendation_data,
)
from patchrec_hf import baselines as baselines_of_package
from patchrec_hf.data.sample import generate_sample_interactions, load_sample_items


PACKAGE = Path(patchrec_hf.__file__).parent
# Examples that cannot run here, and why.
SKIPPED = {
    "hub.exports.export_to_hub": "pushes to the Hub",
    "training.trainers.PatchFinetuneTrainer": "loads a model of the Hub",
}
# Examples whose output depends on the data: they run, and their output is not compared.
ILLUSTRATED = {
    "baselines.transitions.Transitions",
    "baselines.co_visitation.CoVisitation",
    "training.fusion_fit.fit_fusion",
}
# Examples for any trainer: they train a plain language model.
PLAIN = {"training.checkpoint_callback.CheckpointCallback"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented(tree, name=""):
    """Yields the docstrings in a module, with the names of what they document, and the docstrings of constants."""
    docstring = ast.get_docstring(tree) if isinstance(tree, ast.Module | ast.ClassDef | ast.FunctionDef) else None
    if docstring is not None:
        yield name, docstring
    for before, node in zip([None, *tree.body], tree.body, strict=False):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from documented(node, f"{name}.{node.name}".lstrip("."))
            continue
        text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
        if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(text, str):
            target = before.targets[0] if isinstance(before, ast.Assign) else before.target
            yield f"{name}.{ast.unparse(target)}".lstrip("."), inspect.cleandoc(text)


def find_examples():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for name, docstring in documented(ast.parse(path.read_text(encoding="utf-8"))):
            texts = ["\n".join(part.lines) for part in split_sections(docstring) if part.name == "Example"]
            code = "".join(part for text in texts for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL))
            if code:
                found[f"{module}.{name}"] = module, code
    return found


EXAMPLES = find_examples()
TAKE_LONG = {
    "baselines.recommender_fusion.Fusion",
    "baselines.sasrec.SASRec",
    "data.loading.load_recommendation_data",
    "evaluation.plots.plot_calibration",
    "training.checkpoint_callback.CheckpointCallback",
    "training.checkpoints.last_checkpoint",
    "training.fusion_fit.fit_fusion",
    "training.recipes.RECIPES",
}


class Checker(doctest.OutputChecker):
    """Compares an output where the example states one."""

    def check_output(self, want, got, optionflags):
        return want == "" or super().check_output(want, got, optionflags)


class AnyOutput(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        return True


def sample_or(data, **settings):
    """Loads data as the examples do, with the sample in place of the data set that they download."""
    return load_recommendation_data("sample" if isinstance(data, str) and data == "ml-1m" else data, **settings)


def write_log():
    """
    Writes the files `clicks.csv`, `products.csv` and `users.parquet`, and a table `clicks`, that examples read, and
    returns the items.
    Some examples say that the ids are called `sku`, and others take the usual name, so the log has both.
    """
    items = load_sample_items().select("item_id", "title")
    items.rename({"item_id": "sku"}).write_csv("products.csv")
    clicks = generate_sample_interactions(num_users=30).join(items, on="item_id")
    clicks.with_columns(sku="item_id").write_csv("clicks.csv")
    pl.DataFrame({"user_id": ["ada", "ben"], "item_ids": [[3, 14], [7, 9, 15]]}).write_parquet("users.parquet")
    connection = sqlite3.connect(":memory:")
    clicks.drop("title").to_pandas().to_sql("clicks", connection, index=False)
    return connection, items


def make_trainer(names):
    """Makes a trainer. It is made for each example, because making another one ends what it shares with accelerate."""
    return names["PatchFinetuneTrainer"](
        names["backbone"], names["args"], train_dataset=names["splits"]["train"], processing_class=names["processor"]
    )


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The names that examples use, and a checkpoint where they load one."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("examples"))
    splits, catalog = load_recommendation_data("sample", max_history=20, targets_per_row=20)
    splits = {name: rows.select(range(24)) for name, rows in splits.items()}
    for part in build_tiny_backbone(catalog, hidden_size=32):
        part.save_pretrained("outputs/backbone")
    backbone = "outputs/backbone"
    processor = PatchRecProcessor.from_backbone(
        backbone, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, max_history=20, **ALL_PATCH_PRESET.processor
    )
    config = partial(PatchFinetuneConfig, max_steps=1, report_to="none")
    args = config("outputs/run", **ALL_PATCH_PRESET.training)
    names = {"backbone": backbone, "splits": splits, "catalog": catalog, "processor": processor, "args": args}
    model = make_trainer({"PatchFinetuneTrainer": PatchFinetuneTrainer, **names}).model
    for part in (model, processor):
        part.save_pretrained("outputs/final")
    recommender = PatchRecommender.from_pretrained("outputs/final")
    co_visitation = baselines_of_package.CoVisitation(catalog).fit(splits["train"], show_progress=False)
    sasrec = baselines_of_package.SASRec.from_catalog(catalog, hidden_size=8)
    connection, products = write_log()
    yield {
        **names,
        **{name: getattr(patchrec_hf, name) for name in patchrec_hf.__all__},
        **{name: getattr(baselines_of_package, name) for name in baselines_of_package.__all__},
        "load_recommendation_data": sample_or,
        "PatchFinetuneConfig": config,
        "Trainer": Trainer,
        "TrainingArguments": partial(TrainingArguments, max_steps=1, report_to="none"),
        "np": np,
        "polars": pl,
        "pandas": pandas,
        "connection": connection,
        "query": "select * from clicks",
        "products": products,
        "model": model,
        "recommender": recommender,
        "ranker": CatalogRanker(model, processor, RankingConfig(k=5, method="item")),
        "histories": [[3, 14], [7, 9, 15]],
        "co_visitation": co_visitation,
        "sasrec": sasrec,
        "report": evaluate_model(model, processor, splits["test"], show_progress=False),
        "baseline": evaluate_scorer(co_visitation, catalog, splits["test"], show_progress=False),
        "state_of_ada": recommender.start([3, 14]),
        "state_of_ben": recommender.start([7, 9]),
    }
    os.chdir(before)


def run_example(name, module, code, names, checker):
    """Runs an example, and returns how many of its lines failed, and a report."""
    globs = {**vars(import_module(f"patchrec_hf.{module}")), **names}
    if "model" in names:
        globs["model"] = copy.deepcopy(names["model"])  # an example may change it
    test = doctest.DocTestParser().get_doctest(code, globs, name, None, None)
    report = []
    runner = doctest.DocTestRunner(checker, optionflags=FLAGS)
    result = runner.run(test, out=report.append)
    assert result.attempted, f"The example of {name} holds no `>>>`"
    return result.failed, "".join(report)


def test_lists_name_examples():
    assert len(EXAMPLES) > 30
    assert EXAMPLES.keys() >= SKIPPED.keys() | ILLUSTRATED | TAKE_LONG


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in TAKE_LONG else name for name in EXAMPLES]
)
def test_examples_run(name, names):
    if name in SKIPPED:
        pytest.skip(SKIPPED[name])
    module, code = EXAMPLES[name]
    own = dict(names)
    if name in PLAIN:
        own["model"] = AutoModelForCausalLM.from_pretrained(names["backbone"])
        own["dataset"] = Dataset.from_dict({"input_ids": [[5, 6, 7]] * 8, "labels": [[5, 6, 7]] * 8})
    elif "trainer." in code:
        own["trainer"] = make_trainer(names)
    failed, report = run_example(name, module, code, own, AnyOutput() if name in ILLUSTRATED else Checker())
    assert failed == 0, report


def test_failures_are_found():
    wrong = {"a wrong output": ">>> 1 + 1\n3\n", "an error": ">>> Catalog.from_title({})\n"}
    for name, code in wrong.items():
        assert run_example(name, "runtime.catalog", code, {"Catalog": Catalog}, Checker())[0] == 1
    assert run_example("a right one", "runtime.catalog", ">>> 1 + 1\n2\n>>> 1 + 2\n", {}, Checker())[0] == 0
    assert run_example("an error", "runtime.catalog", ">>> 1 / 0\n", {}, AnyOutput())[0] == 1
