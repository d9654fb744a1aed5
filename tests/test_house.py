"""The house: which room a module may import from, and what stands at the top."""

import ast
import sys
import warnings
from functools import cache, cached_property
from pathlib import Path

import house
import pytest
from accelerate.state import AcceleratorState
from peft import PeftModel
from processes import run_process
from transformers import GenerationMixin, PreTrainedModel, Trainer, TrainerCallback
from trl import SFTTrainer

import patchrec_hf
from patchrec_hf.runtime.base_model import PatchRecModel
from patchrec_hf.runtime.modeling import PatchRecForCausalLM
from patchrec_hf.training.patch_trainer import PatchTrainer


PACKAGE = Path(patchrec_hf.__file__).parent
# Each room may import from the rooms before it. `runs` and `tiny` stand at the top of the package.
ROOMS = ("runs", house.ROOMS[0], "tiny", *house.ROOMS[1:])


def module_name(path, package=PACKAGE):
    return ".".join(path.relative_to(package).with_suffix("").parts)


@cache  # all but one module are the same from test to test
def imports_of(source, module, modules):
    """The modules of the package that a module imports, also within functions and for type checkers."""
    room = module.split(".")[:-1]
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = room[: len(room) - node.level + 1]
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from ..data import rows` imports a module of a room; `from .rows import Row` a name of a module.
            inner = {".".join(filter(None, [name, alias.name])) for alias in node.names}
            imported |= (inner & modules) or {name}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("patchrec_hf"):
            imported.add(node.module.removeprefix("patchrec_hf").removeprefix(".") or "the package itself")
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "patchrec_hf"]
            imported |= {name.removeprefix("patchrec_hf").removeprefix(".") or "the package itself" for name in names}
    return imported


def faults(sources):
    """Returns the faults in the imports of modules, which are given as a dict of name and source."""
    modules = frozenset(sources)
    graph = {module: imports_of(source, module, modules) for module, source in sources.items()}
    found = []
    for module, imported in graph.items():
        room = module.split(".")[0]
        for other in imported:
            other_room = other.split(".")[0]
            if room == "runtime" and other_room != "runtime":
                found.append(f"{module} imports {other}, but runtime/ imports nothing of the package outside itself")
            elif other_room not in ROOMS:
                found.append(f"{module} imports {other}, which has no room")
            elif ROOMS.index(other_room) > ROOMS.index(room):
                found.append(f"{module} imports {other}, which lies above it")
    done: set[str] = set()

    def visit(module, way):
        if module in way:
            found.append("circle: " + " → ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*way, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


@pytest.fixture(scope="module")
def sources():
    paths = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in ("runs", "tiny")]
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


def test_imports_point_downwards(sources):
    assert faults(sources) == []


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("runtime.catalog", "from ..data.rows import check_rows", "runtime/ imports nothing of the package outside"),
        ("runtime.catalog", "from ..runs import write_json", "runtime/ imports nothing of the package outside"),
        ("runtime.catalog", "import patchrec_hf.runs", "runtime/ imports nothing of the package outside"),
        (
            "data.rows",
            "def f():\n    from ..training import trainers",
            "data.rows imports training",
        ),
        ("evaluation.metrics", "from .report import EvaluationReport", "circle: "),
        ("evaluation.metrics", "from . import report", "circle: "),
        ("data.rows", "from ..data import examples", "circle: "),
        ("data.rows", "import patchrec_hf", "data.rows imports the package itself"),
        ("hub.__init__", "from ..training import trainers", "hub.__init__ imports training"),
    ],
)
def test_a_wrong_import_is_found(sources, module, line, fault):
    changed = {**sources, module: f"{sources[module]}\n{line}\n"}
    assert any(fault in text for text in faults(changed))


def test_the_top_of_the_package_is_small():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    files = ["__init__.py", "__main__.py", "py.typed", "runs.py", "tiny.py"]
    assert sorted(path.name for path in entries if path.is_file()) == files
    assert len([path for path in entries if path.is_dir()]) <= 11


def test_each_module_has_its_test_file(sources):
    tests = Path(__file__).parent
    parts = [module.split(".") for module in sources]
    expected = {tests / Path(*room, f"test_{name}.py") for *room, name in parts if name != "__init__"}
    assert sorted(str(path.relative_to(tests)) for path in expected if not path.is_file()) == []


def test_each_module_has_a_fast_test(sources):
    """Who breaks a module sees it in the fast tier. Only the page of the demo is tested in a browser alone."""
    slow = {module for module in sources if module.partition(".")[2] != "__init__" and not has_fast_test(module)}
    assert slow == {"demo.page"}


def has_fast_test(module):
    *room, name = module.split(".")
    body = ast.parse(Path(__file__).parent.joinpath(*room, f"test_{name}.py").read_text(encoding="utf-8")).body
    marks = [ast.unparse(node.value) for node in body if isinstance(node, ast.Assign) and is_named(node, "pytestmark")]
    tests = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return "pytest.mark.slow" not in "".join(marks) and any(
        "pytest.mark.slow" not in map(ast.unparse, test.decorator_list) for test in tests
    )


def is_named(assignment, name):
    return [ast.unparse(target) for target in assignment.targets] == [name]


def test_the_table_of_public_names_is_what_type_checkers_see():
    tree = ast.parse(Path(patchrec_hf.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    seen = {alias.asname or alias.name: node.module for node in imports for alias in node.names}
    assert seen == patchrec_hf._MODULES
    assert set(patchrec_hf.__all__) <= set(dir(patchrec_hf))
    for name, module in patchrec_hf._MODULES.items():
        value = getattr(patchrec_hf, name)
        assert getattr(sys.modules[f"patchrec_hf.{module}"], name) is value


@pytest.mark.slow
def test_importing_the_package_is_light():
    code = "import sys, patchrec_hf; print([name for name in ('trl', 'peft', 'datasets') if name in sys.modules])"
    done = run_process([sys.executable, "-c", code], check=True)
    assert done.stdout.strip() == "[]"


def test_former_names_work_and_warn():
    with pytest.warns(FutureWarning, match="`STRICT` is now called `STRICT_PROTOCOL`"):
        assert patchrec_hf.STRICT is patchrec_hf.STRICT_PROTOCOL
    for former in ("AUTHORS", "RELEASE_PROTOCOL"):
        with pytest.warns(FutureWarning, match=f"`{former}` is now called `RELEASE_MATCHING`"):
            assert getattr(patchrec_hf, former) is patchrec_hf.RELEASE_MATCHING
    with pytest.warns(FutureWarning, match="make_rows"):
        assert patchrec_hf.make_examples is patchrec_hf.make_rows
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = patchrec_hf.nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("rank_catalog", "rank_targets", "score_catalog", "score_targets"):
            assert callable(getattr(patchrec_hf, name))


def private_overrides(cls):
    """Private methods and properties of the package that replace those of a class of another library."""
    ours = [part for part in cls.__mro__ if part.__module__.startswith("patchrec_hf")]
    theirs = [part for part in cls.__mro__ if part not in ours]
    members = [member for part in ours for member in vars(part).items()]
    kinds = property | cached_property | classmethod | staticmethod
    names = {name for name, value in members if callable(value) or isinstance(value, kinds)}
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    return {name for name in private if any(name in vars(part) for part in theirs)}


@pytest.mark.parametrize(
    "cls", [patchrec_hf.PatchFinetuneTrainer, patchrec_hf.PatchPretrainTrainer, PatchRecForCausalLM, PatchRecModel]
)
def test_no_private_method_is_overridden(cls):
    assert private_overrides(cls) == set()


def test_private_overrides_are_found():
    class Trains(PatchTrainer):
        __module__ = "patchrec_hf.somewhere"

        def _save_checkpoint(self, model, trial):
            """Overrides a private method."""

        @cached_property
        def _signature_columns(self):
            """The checker does not see attributes that the base class sets in `__init__`."""

    class Generates(PatchRecForCausalLM):
        __module__ = "patchrec_hf.somewhere"

        def _sample(self):
            """Overrides a private method."""

        @classmethod
        def _from_config(cls, config):
            """Overrides a private class method."""

    assert private_overrides(Trains) == {"_save_checkpoint"}
    assert private_overrides(Generates) == {"_sample", "_from_config"}


@pytest.mark.parametrize(
    ("base", "names"),
    [
        (Trainer, ["get_train_dataloader", "get_eval_dataloader", "get_test_dataloader", "compute_loss", "log"]),
        (Trainer, ["evaluation_loop", "save_model", "init_hf_repo", "create_model_card", "train"]),
        (Trainer, ["create_accelerator_and_postprocess", "get_total_train_batch_size"]),
        (TrainerCallback, ["on_step_end", "on_epoch_begin", "on_epoch_end", "on_evaluate", "on_save"]),
        (TrainerCallback, ["on_push_begin", "on_train_begin", "on_train_end"]),
        (GenerationMixin, ["prepare_inputs_for_generation"]),
        (PreTrainedModel, ["get_input_embeddings", "set_input_embeddings", "get_output_embeddings"]),
        (PeftModel, ["get_base_model"]),
    ],
)
def test_the_hooks_exist(base, names):
    """If a library renames a hook, it is no longer called, and no error appears."""
    assert [name for name in names if not callable(getattr(base, name, None))] == []


def test_private_attributes_exist():
    """docs/design.md names these attributes. If a library renames one, ours is a new one, and no error appears."""
    tree = ast.parse(Path(sys.modules[SFTTrainer.__module__].__file__).read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {"_total_train_tokens", "aux_loss_enabled"} <= names
    assert callable(AcceleratorState._reset_state)
    assert {"_save_checkpoint", "_determine_best_metric"} <= set(dir(Trainer))
    assert {"_is_stateful", "_supports_sdpa", "_supports_flex_attn"} <= set(dir(PreTrainedModel))
    assert "_supports_attention_backend" in dir(PreTrainedModel)


def test_the_tree_in_the_docs_is_the_package(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["house.py", "--check"])
    house.main()
