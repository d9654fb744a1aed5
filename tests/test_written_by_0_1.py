"""Version 0.1 wrote these files before the package got its rooms. They load, rank and resume as they did then."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ITEM_IDS
from datasets import Dataset
from processes import run_process

from patchrec_hf import (
    EvaluationReport,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
)
from patchrec_hf.baselines import SASRec


WRITTEN = Path(__file__).parent / "written_by_0_1"
HISTORY = ITEM_IDS[:4]

# Runs where the package cannot be imported, so what ranks is the code that the export carries.
LOAD_WITHOUT_PACKAGE = """
import json, sys
sys.modules["patchrec_hf"] = None
from transformers import AutoModelForCausalLM, AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module
directory, history = sys.argv[1], json.loads(sys.argv[2])
AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
AutoProcessor.from_pretrained(directory, trust_remote_code=True)
recommender = get_class_from_dynamic_module("recommender.PatchRecommender", directory, trust_remote_code=True)
items = recommender.from_pretrained(directory).recommend(history, k=5)
print(json.dumps([[item.item_id, item.title, item.score] for item in items]))
"""


@pytest.fixture(scope="module")
def expected():
    return json.loads((WRITTEN / "expected.json").read_text())


def check_ranking(items, expected):
    assert [(item.item_id, item.title) for item in items] == [(item["item_id"], item["title"]) for item in expected]
    assert [item.score for item in items] == pytest.approx([item["score"] for item in expected], rel=1e-4)


def test_a_checkpoint_ranks_as_before(expected):
    check_ranking(PatchRecommender.from_pretrained(WRITTEN / "model").recommend(HISTORY, k=5), expected["model"])


def test_an_adapter_ranks_as_before(expected):
    recommender = PatchRecommender.from_pretrained(WRITTEN / "adapter", base_model=str(WRITTEN / "model"))
    check_ranking(recommender.recommend(HISTORY, k=5), expected["adapter"])


@pytest.fixture
def exported(tmp_path):
    with zipfile.ZipFile(WRITTEN / "exported.zip") as archive:
        archive.extractall(tmp_path / "exported")
    return tmp_path / "exported"


def test_an_export_with_code_ranks_with_the_package(exported, expected):
    check_ranking(PatchRecommender.from_pretrained(exported).recommend(HISTORY, k=5), expected["exported"])


@pytest.mark.slow
def test_an_export_with_code_ranks_without_the_package(exported, expected, tmp_path):
    """The code comes with the export. This test fails only if transformers can no longer run it."""
    done = run_process([sys.executable, "-c", LOAD_WITHOUT_PACKAGE, exported, json.dumps(HISTORY)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    items = json.loads(done.stdout.splitlines()[-1])
    assert [item[0] for item in items] == [item["item_id"] for item in expected["exported"]]
    assert [item[2] for item in items] == pytest.approx([item["score"] for item in expected["exported"]], rel=1e-4)


def test_a_report_reads_as_before(expected):
    """Version 0.1 had another name for the share of exact rankings, and divided tokens after by before compression."""
    metrics = EvaluationReport.load(WRITTEN / "report").metrics()
    ratios = {
        "compression_titles": metrics.pop("compression_ratio"),
        "compression_history": metrics.pop("compression_ratio_history"),
        "compression_prompt": metrics.pop("compression_ratio_prompt"),
    }
    former = {
        **{{"exact_share": "certified_share"}.get(name, name): value for name, value in metrics.items()},
        **{name: 1 / ratio for name, ratio in ratios.items()},
    }
    assert former == pytest.approx(expected["metrics"])


def test_a_baseline_scores_as_before(expected):
    scores = SASRec.from_pretrained(WRITTEN / "sasrec").score([[10, 11]])[0].tolist()
    assert scores == pytest.approx(expected["sasrec"], rel=1e-5)


def test_a_run_resumes_to_the_same_losses(expected, tmp_path):
    shutil.copytree(WRITTEN / "run", tmp_path / "run")
    processor = PatchRecProcessor.from_pretrained(WRITTEN / "model")
    rows = []
    for user in range(14):
        items = [ITEM_IDS[(user + 5 * place) % 12] for place in range(4 + user % 7)]
        rows.append({"user_id": user, "item_ids": items, "target_positions": [len(items) - 1]})
    args = PatchFinetuneConfig(
        str(tmp_path / "run"), use_cpu=True, max_steps=4, per_device_train_batch_size=4, learning_rate=1e-2,
        warmup_steps=0, logging_steps=1, report_to="none", disable_tqdm=True, eval_ks=[], save_strategy="no",
    )  # fmt: skip
    model = PatchRecForCausalLM.from_pretrained(WRITTEN / "model")  # its weights are replaced by the checkpoint's
    trainer = PatchFinetuneTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=processor)
    trainer.train(resume_from_checkpoint=True)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx(expected["losses"], rel=1e-4)
