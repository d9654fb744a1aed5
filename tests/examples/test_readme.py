"""The snippets of README run as they stand there, in an empty directory, and on a laptop's memory."""

import os
import re
import sys
from pathlib import Path

import polars as pl
import pytest
from command import patchrec
from processes import run_process


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
MAX_GIB = 12
# A process that needs far more is ended by Python, and not by the system, which might end another one.
GUARD = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, ({MAX_GIB + 6} * 2**30,) * 2)
"""
PEAK = """
print("peak GiB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
needs_smollm2 = pytest.mark.skipif(
    "PATCHREC_SMOLLM2_DIR" not in os.environ, reason="PATCHREC_SMOLLM2_DIR does not name a real backbone"
)


def run(script, directory):
    """Runs a script in a directory, and returns what it prints and its peak of resident memory, in GiB."""
    (directory / "script.py").write_text(GUARD + script + PEAK, encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = run_process([sys.executable, "script.py"], cwd=directory, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-3000:]
    *printed, peak = done.stdout.splitlines()
    return "\n".join(printed), float(peak.removeprefix("peak GiB: "))


def replaced(script, old, new):
    assert old in script, f"README does not hold {old!r} any more"
    return script.replace(old, new)


@pytest.mark.slow
def test_the_script_runs(tmp_path):
    """From the sample to recommendations, and then the shell's command on the checkpoint that the script wrote."""
    (clicks,) = (script for script in SCRIPTS if "recommender.start(" in script)
    printed, peak = run(SCRIPTS[0] + clicks, tmp_path)
    assert "Training needs about " in printed
    assert "eval_hr@20" in printed
    assert printed.count("Recommendation(") == 10
    assert (tmp_path / "states" / "ada.safetensors").is_file()
    assert peak < MAX_GIB

    (command,) = re.findall(r"^patchrec (evaluate outputs/final .*)$", README, flags=re.MULTILINE)
    done = patchrec(*command.split(), "--max_rows", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "outputs" / "evaluation" / "report.json").is_file()


@pytest.mark.slow
def test_other_data_and_prompts(tmp_path):
    """The snippets that follow the script: they take its backbone and catalog, and a log of the user's own."""
    log = [(f"c{user}", f"B-{item:02}", 100 * item + user) for user in range(20) for item in range(9)]
    pl.DataFrame(log, schema=["customer", "sku", "timestamp"], orient="row").write_csv(tmp_path / "clicks.csv")
    products = [(f"B-{item:02}", f"Book {item}") for item in range(9)]
    pl.DataFrame(products, schema=["sku", "name"], orient="row").write_csv(tmp_path / "products.csv")
    prompt, own_data = SCRIPTS[1:3]
    own_data = "\n".join(line for line in own_data.splitlines() if '"ml-1m"' not in line)  # a download
    before_training, _ = SCRIPTS[0].split("args = ")
    _, peak = run(before_training + prompt + own_data, tmp_path)
    assert peak < MAX_GIB


@needs_smollm2
@pytest.mark.slow
def test_the_first_steps_with_a_real_backbone(tmp_path):
    script, _ = SCRIPTS[0].split("print(trainer.evaluate())")
    tiny = re.search(r"for part in build_tiny_backbone.*?\n    part\.save_pretrained.*?\n", script, flags=re.DOTALL)
    script = replaced(script, tiny.group(), "")
    script = replaced(script, 'backbone = "outputs/backbone"', f"backbone = {os.environ['PATCHREC_SMOLLM2_DIR']!r}")
    script = replaced(script, "**preset.training)", '**preset.training, max_steps=2, save_strategy="no")')
    printed, peak = run(script, tmp_path)
    assert "Training needs about " in printed
    assert peak < MAX_GIB


@needs_smollm2
@pytest.mark.slow
def test_the_first_step_of_both_stages_with_a_real_backbone(tmp_path):
    """The paper's stages with the default number of rows in a forward, and two forwards instead of 8 or 16."""
    script = f"""
from patchrec_hf import *
splits, catalog = load_recommendation_data("sample")
backbone = {os.environ.get("PATCHREC_SMOLLM2_DIR")!r}
processor = PatchRecProcessor.from_backbone(backbone, catalog, BOOK_PROMPT)
for trainer, config in ((PatchPretrainTrainer, PatchPretrainConfig), (PatchFinetuneTrainer, PatchFinetuneConfig)):
    args = config("outputs", max_steps=1, gradient_accumulation_steps=2, save_strategy="no", report_to="none")
    trainer(backbone, args, train_dataset=splits["train"], processing_class=processor).train()
"""
    printed, peak = run(script, tmp_path)
    assert printed.count("Training needs about ") == 2
    assert peak < MAX_GIB
