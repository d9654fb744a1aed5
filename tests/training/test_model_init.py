"""`model_init`: every run begins with a new model, so that a hyperparameter search compares like with like."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiers import first_fast
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS, HyperParamSearchBackendBase
from transformers.trainer_utils import BestRun, HPSearchBackend

from patchrec_hf import PatchFinetuneConfig, PatchFinetuneTrainer, PatchRecForCausalLM
from patchrec_hf.tiny import build_tiny_backbone


RATES = [1e-2, 1e-9, 1e-2]


class Trial:
    """A backend passes such an object to `hp_space`. It remembers the values that it has suggested."""

    def __init__(self, number):
        self.number, self.params = number, {}

    def suggest_float(self, name, low, high, **kwargs):
        return self.params.setdefault(name, RATES[self.number])


class Grid(HyperParamSearchBackendBase):
    """A search offline, in the form in which transformers runs optuna."""

    name = "optuna"

    @staticmethod
    def is_available():
        return True

    def run(self, trainer, n_trials, direction, **kwargs):
        runs = []
        for number in range(n_trials):
            trial = Trial(number)
            trainer.objective = None
            trainer.train(trial=trial)
            if trainer.objective is None:
                trainer.objective = trainer.compute_objective(trainer.evaluate())
            trainer.model = trainer.model_wrapped = None  # as transformers does to free memory
            runs.append(BestRun(str(number), trainer.objective, trial.params))
        trainer.runs = runs
        return (min if direction == "minimize" else max)(runs, key=lambda run: run.objective)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, Grid)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)


@pytest.fixture
def make_model(unchanged_model):
    return lambda: copy.deepcopy(unchanged_model).train()


@pytest.fixture
def make_searcher(make_model, processor, rows, tmp_path):
    def make(model_init=make_model, **changes):
        kwargs = {name: changes.pop(name) for name in ("model", "peft_config", "optimizers") if name in changes}
        args = PatchFinetuneConfig(
            str(tmp_path), use_cpu=True, max_steps=4, per_device_train_batch_size=4, logging_steps=1, report_to="none",
            disable_tqdm=True, eval_ks=[5], **{"save_strategy": "no", **changes},
        )  # fmt: skip
        return PatchFinetuneTrainer(
            args=args,
            model_init=model_init,
            train_dataset=rows,
            processing_class=processor,
            eval_dataset=rows,
            **kwargs,
        )

    return make


def space(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-9, 1e-2, log=True)}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["title", "item"])
def test_search_of_the_learning_rate(make_searcher, offline, objective):
    trainer = make_searcher(objective=objective)
    best = trainer.hyperparameter_search(hp_space=space, n_trials=3, backend="optuna")
    first, second, third = (run.objective for run in trainer.runs)
    assert first == third  # the trials do not learn from each other
    assert first != second
    assert best.objective == min(first, second)
    assert best.hyperparameters == {"learning_rate": RATES[int(best.run_id)]}


@pytest.mark.slow
def test_each_run_begins_anew(make_searcher):
    trainer = make_searcher(learning_rate=1e-2)
    first = trainer.train().training_loss
    tokens = trainer.state.log_history[0]["num_tokens"]
    assert trainer.train().training_loss == first
    assert trainer.state.log_history[0]["num_tokens"] == tokens


@pytest.mark.slow
def test_a_resumed_run_counts_its_tokens_on(make_searcher, tmp_path):
    trainer = make_searcher(save_strategy="steps", save_steps=2)
    trainer.train()
    expected = [entry["num_tokens"] for entry in trainer.state.log_history if "loss" in entry]
    resumed = make_searcher(save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [entry["num_tokens"] for entry in resumed.state.log_history if "loss" in entry] == expected


@pytest.mark.slow
def test_an_adapter_begins_anew(make_model, make_searcher):
    def make():
        torch.manual_seed(0)
        return get_peft_model(make_model(), LoraConfig(r=2, target_modules=["q_proj"]))

    trainer = make_searcher(make, learning_rate=1e-2)
    assert trainer.train().training_loss == trainer.train().training_loss


@pytest.mark.slow
def test_ranking_metrics_as_the_goal(make_searcher, offline):
    trainer = make_searcher()
    best = trainer.hyperparameter_search(
        hp_space=space, compute_objective=lambda metrics: metrics["eval_ndcg@5"], n_trials=2, direction="maximize",
        backend="optuna",
    )  # fmt: skip
    assert best.objective == max(run.objective for run in trainer.runs)
    assert 0 <= best.objective <= 1


def test_a_sum_of_all_metrics_is_no_goal(make_searcher, offline):
    """Trainer's default would add up shares, counts of tokens and compression ratios."""
    with pytest.raises(ValueError, match=r"compute_objective=lambda metrics: metrics\['eval_ndcg@20'\]"):
        make_searcher().hyperparameter_search(hp_space=space, n_trials=1, direction="maximize", backend="optuna")


@pytest.mark.parametrize(
    "name",
    first_fast(
        [
            "item_dropout",
            "objective",
            "tree_packing",
            "seed",
            "layout",
            "eval_method",
            "train_sampling_strategy",
            "learnig_rate",
        ]
    ),
)
def test_settings_that_the_model_was_made_with_are_refused(make_searcher, offline, name):
    with pytest.raises(ValueError, match=f"`{name}`.*may try.*learning_rate.*a new trainer for each trial"):
        make_searcher().hyperparameter_search(hp_space=lambda trial: {name: 1}, n_trials=1, backend="optuna")


def test_checkpoints_within_a_search_are_refused(make_searcher, offline):
    with pytest.raises(ValueError, match="save_strategy='no'"):
        make_searcher(save_strategy="steps").hyperparameter_search(hp_space=space, n_trials=1, backend="optuna")


def test_mistakes_are_named(make_searcher, make_model, offline):
    with pytest.raises(TypeError, match="either `model` or `model_init`"):
        make_searcher(model=make_model())
    with pytest.raises(TypeError, match="either `model` or `model_init`"):
        make_searcher(None)
    with pytest.raises(ValueError, match="get_peft_model"):
        make_searcher(peft_config=LoraConfig(r=2))
    with pytest.raises(ValueError, match="`optimizers`"):
        make_searcher(optimizers=(torch.optim.SGD([torch.zeros(1)]), None))
    with pytest.raises(RuntimeError, match="model_init"):
        make_searcher(None, model=make_model()).hyperparameter_search(hp_space=space, backend="optuna")


def test_another_model_in_a_later_run_is_named(make_searcher, make_model, catalog, tokenizer):
    sizes = [32, 16]

    def make():
        backbone, _ = build_tiny_backbone(catalog, vocab_size=400, hidden_size=sizes.pop(0))
        return PatchRecForCausalLM.from_backbone(backbone, tokenizer)

    with pytest.raises(ValueError, match="other shapes than the first"):
        make_searcher(make).train()


def test_sharded_weights_are_refused(make_searcher, monkeypatch):
    trainer = make_searcher()
    monkeypatch.setattr("patchrec_hf.training.model_init.is_sharded", lambda model: True)
    with pytest.raises(ValueError, match="sharded weights"):
        trainer.train()


def test_search_with_optuna(make_searcher):
    pytest.importorskip("optuna", reason="a search needs optuna or another backend of transformers")
    best = make_searcher().hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        n_trials=2, backend="optuna",
    )  # fmt: skip
    assert 1e-4 <= best.hyperparameters["learning_rate"] <= 1e-2
