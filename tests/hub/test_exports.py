"""Exports: other engines get what this library computes."""

import json
import os
import sys

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ITEM_IDS, TITLES
from datasets import Dataset
from item_parts import item_model, item_processor, scores_by_hand, table_of
from processes import run_process
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from patchrec_hf import (
    BOOK_PROMPT,
    BudgetLayout,
    Catalog,
    ItemPatchLayout,
    PatchDataCollator,
    PatchFinetuneConfig,
    PatchFinetuneTrainer,
    PatchRecForCausalLM,
    PatchRecommender,
    PatchRecProcessor,
    PyramidLayout,
    SessionPatchLayout,
    TextLayout,
    TimeWindowLayout,
    export_backbone,
    export_checkpoint,
)
from patchrec_hf.runtime.fusion import Fusion
from patchrec_hf.runtime.fusion_parts import ItemHeadPart, NeighborPart, SeenPart, SimilarTitlesPart, TitlePart
from patchrec_hf.runtime.prompts import PATCH_TOKEN
from patchrec_hf.tiny import build_tiny_backbone


HISTORY = ITEM_IDS[:8]


def embed_prompt(backbone, item_vectors, example, units):
    """A prompt as another engine would make it: tokens from the table, patches from the items' vectors."""
    ids = torch.from_numpy(example.input_ids)
    embeds = backbone.get_input_embeddings()(ids)
    places = np.unique(example.patch_positions)
    assert len(places) == len(units)
    for place, items in zip(places, units, strict=True):
        embeds[place] = item_vectors[items].mean(dim=0)
    return embeds[None]


@pytest.mark.parametrize(
    ("layout", "units"),
    [
        (ItemPatchLayout(3), [[0], [1], [2], [3], [4]]),
        (SessionPatchLayout(group_size=3), [[0, 1], [2], [3], [4]]),
    ],
)
def test_item_vectors_make_the_prompts_of_the_model(model, processor, tmp_path, layout, units):
    export_backbone(model, processor, tmp_path)
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(backbone) is LlamaForCausalLM
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(processor.tokenizer)
    vectors = load_file(tmp_path / "item_vectors.safetensors")["item_vectors"]
    catalog = pl.read_parquet(tmp_path / "catalog.parquet")
    assert vectors.shape == (len(catalog), 32)
    index = {item_id: place for place, item_id in enumerate(catalog["item_id"])}
    example = processor.encode(processor.catalog.indices_of(HISTORY), layout=layout, max_history=8)
    row = {"user_id": 0, "item_ids": [*HISTORY, ITEM_IDS[9]], "target_positions": [8]}
    batch = PatchDataCollator(processor, layout)([row])
    length = example.prompt_length
    with torch.no_grad():
        embeds = embed_prompt(backbone, vectors, example, [[index[HISTORY[i]] for i in items] for items in units])
        found = backbone(inputs_embeds=embeds).logits[:, -1]
        batch.pop("labels"), batch.pop("shift_labels"), batch.pop("supervised_positions")
        expected = model(**batch).logits[:, length - 1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_sessions_that_are_no_means(model, processor, tmp_path):
    """An attention patcher weighs the tokens of a whole session, which vectors of items cannot express."""
    model.add_patcher("attention")
    export_backbone(model, processor.with_layout(ItemPatchLayout(3)), tmp_path)
    assert json.loads((tmp_path / "patchrec_prompt.json").read_text())["patcher"] == "attention"
    for layout in (SessionPatchLayout(2), TimeWindowLayout(60), PyramidLayout(width=2), BudgetLayout(9)):
        with pytest.raises(ValueError, match="joins items to sessions, and `patcher='attention'` weighs"):
            export_backbone(model, processor.with_layout(layout), tmp_path)


def test_the_model_goes_on_as_before(model, processor, rows, tmp_path):
    batch = PatchDataCollator(processor)(list(rows))
    before = model(**batch).loss.item()
    export_backbone(model, processor, tmp_path)
    assert model(**batch).loss.item() == before
    again = PatchRecForCausalLM.from_backbone(tmp_path, processor.tokenizer).eval()
    assert again(**batch).loss.item() == pytest.approx(before, rel=1e-6)


def test_a_processor_of_another_model(model, processor, tmp_path):
    model.config.patch_token_id = 5
    for export in (export_backbone, export_checkpoint):
        with pytest.raises(ValueError, match="not made for each other"):
            export(model, processor, tmp_path)


def test_the_authors_checkpoints_load(catalog, tokenizer, rows, tmp_path):
    """Theirs are plain causal language models of Llama 3's form, whose tokenizer has three special tokens."""
    tokenizer.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        values = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(_without_patch_token(values)))
    size = len(AutoTokenizer.from_pretrained(tmp_path))
    assert size == len(tokenizer) - 1
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=131072,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    )  # fmt: skip
    released = LlamaForCausalLM(config).eval()
    released.save_pretrained(tmp_path)

    processor = PatchRecProcessor.from_backbone(tmp_path, catalog, BOOK_PROMPT, TextLayout(), max_history=8)
    model = PatchRecForCausalLM.from_backbone(tmp_path, processor.tokenizer).eval()
    model.check_prompt(processor.prompt)
    table, before = model.get_input_embeddings().weight, released.get_input_embeddings().weight
    assert len(table) == size + 1
    assert torch.equal(table[:size], before)  # what they trained stays, the three tokens with it
    torch.testing.assert_close(table[size], before.mean(dim=0))
    batch = PatchDataCollator(processor)(list(rows))
    plain = released(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    found = model(**{name: batch[name] for name in batch if "shift" not in name and name != "supervised_positions"})
    torch.testing.assert_close(found.logits[..., :size], plain, rtol=1e-4, atol=1e-5)


BANG_TITLES = {1: "Hello, Dolly!", 2: "Airplane!", 3: "!", 4: "Oh!! God", 5: "Emma", 6: "! Again !"}


@pytest.fixture(params=["saved once", "saved by a second stage"])
def released(request, tmp_path):
    """A folder as the authors' code saves it: without the patch token, and with the word `!` as padding token."""
    config = {"vocab_size": 400, "hidden_size": 32}
    backbone, tokenizer = build_tiny_backbone(Catalog.from_titles(BANG_TITLES), **config)
    assert tokenizer.get_vocab()["!"] == 0
    tokenizer.save_pretrained(tmp_path / "released")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        values = json.loads((tmp_path / "released" / name).read_text())
        (tmp_path / "released" / name).write_text(json.dumps(_without_patch_token(values)))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "released")
    tokenizer.pad_token_id = 0
    tokenizer.save_pretrained(tmp_path / "released")
    if request.param == "saved by a second stage":  # loading has made `!` an added token, which is saved too
        AutoTokenizer.from_pretrained(tmp_path / "released").save_pretrained(tmp_path / "released")
        assert '"content": "!"' in (tmp_path / "released" / "tokenizer.json").read_text()
    backbone.config.pad_token_id = backbone.generation_config.pad_token_id = 0
    backbone.resize_token_embeddings(len(tokenizer))
    backbone.save_pretrained(tmp_path / "released")
    return tmp_path / "released"


def rank_all(recommender):
    return [item.item_id for item in recommender.recommend([5], k=len(BANG_TITLES), exclude_seen=False)]


@pytest.mark.slow
def test_the_authors_checkpoints_rank_titles_with_their_padding_token(released, tmp_path):
    catalog = Catalog.from_titles(BANG_TITLES)
    assert AutoTokenizer.from_pretrained(released).pad_token == "!"
    processor = PatchRecProcessor.from_backbone(released, catalog, BOOK_PROMPT, TextLayout(), max_history=8)
    assert processor.tokenizer.pad_token == "<|pad|>"  # as Llama's `<|finetune_right_pad_id|>`
    assert processor.prompt.pad_id == processor.tokenizer.pad_token_id
    model = PatchRecForCausalLM.from_backbone(released, processor.tokenizer)
    assert model.config.text_config.pad_token_id == processor.tokenizer.pad_token_id
    assert model.get_input_embeddings().padding_idx is None  # so that the word is trained
    titles = [processor.tokenizer.decode(processor.title_tokens[index]) for index in range(len(catalog))]
    assert titles == list(BANG_TITLES.values())
    before = model.get_input_embeddings().weight.detach().clone()
    rows = Dataset.from_list(
        [
            {"user_id": 0, "item_ids": [5, 2], "target_positions": [1]},
            {"user_id": 1, "item_ids": [3, 1, 4, 6], "target_positions": [3]},
        ]
    )
    args = PatchFinetuneConfig(
        str(tmp_path / "run"), use_cpu=True, max_steps=1, per_device_train_batch_size=2, learning_rate=1e-2,
        warmup_steps=0, report_to="none", disable_tqdm=True, eval_ks=[], save_strategy="no",
    )  # fmt: skip
    trainer = PatchFinetuneTrainer(model, args, train_dataset=rows, processing_class=processor)
    trainer.train()
    assert not torch.equal(trainer.model.get_input_embeddings().weight[0], before[0])
    found = rank_all(PatchRecommender(trainer.model.eval(), processor))
    assert sorted(found) == list(BANG_TITLES)

    trainer.save_model(str(tmp_path / "saved"))
    export_checkpoint(trainer.model, processor, tmp_path / "exported")
    export_backbone(trainer.model, processor, tmp_path / "backbone")
    for name in ("saved", "exported"):
        assert rank_all(PatchRecommender.from_pretrained(tmp_path / name)) == found
    for name in ("saved", "exported", "backbone"):
        assert AutoTokenizer.from_pretrained(tmp_path / name).pad_token == "<|pad|>"
    again = PatchRecForCausalLM.from_backbone(tmp_path / "backbone")
    assert again.config.text_config.pad_token_id == processor.tokenizer.pad_token_id


def test_a_saved_processor_that_pads_with_a_word(released, tmp_path):
    """Earlier versions kept the padding token, if no title held it."""
    catalog = Catalog.from_titles({5: "Emma", 7: "Persuasion"})
    PatchRecProcessor.from_backbone(released, catalog, BOOK_PROMPT).save_pretrained(tmp_path / "saved")
    for name, key in (("processor_config.json", "pad_id"), ("tokenizer_config.json", "pad_token")):
        values = json.loads((tmp_path / "saved" / name).read_text())
        (values["prompt"] if key == "pad_id" else values)[key] = {"pad_id": 0, "pad_token": "!"}[key]
        (tmp_path / "saved" / name).write_text(json.dumps(values))
    processor = PatchRecProcessor.from_pretrained(tmp_path / "saved")
    assert processor.tokenizer.pad_token == "<|pad|>"
    assert processor.prompt.pad_id == processor.tokenizer.pad_token_id
    assert len(processor.with_catalog(catalog.with_items(BANG_TITLES)).title_tokens) == 7


def test_pickled_weights_are_refused(model, tokenizer, tmp_path):
    """Pickled weights load only on request."""
    export_backbone(model, PatchRecProcessor(tokenizer, Catalog.from_titles(TITLES), BOOK_PROMPT), tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model.safetensors"):
        PatchRecForCausalLM.from_backbone(tmp_path)
    PatchRecForCausalLM.from_backbone(tmp_path, use_safetensors=False)


def _without_patch_token(values):
    if isinstance(values, dict):
        return {
            name: _without_patch_token(value)
            for name, value in values.items()
            if not (isinstance(value, dict) and value.get("content") == PATCH_TOKEN)
        }
    if isinstance(values, list):
        kept = [value for value in values if value != PATCH_TOKEN]
        return [_without_patch_token(v) for v in kept if not (isinstance(v, dict) and v.get("content") == PATCH_TOKEN)]
    return values


@pytest.mark.parametrize("similarity", ["cosine", "product"])
def test_an_index_of_item_vectors_gives_the_scores_of_the_head(processor, tmp_path, similarity):
    """An engine multiplies a state by the matrix, normalizes it if the similarity is a cosine, and searches."""
    model, writes = item_model(similarity=similarity, residual_size=6), item_processor(processor)
    export_backbone(model, writes, tmp_path)
    vectors = load_file(tmp_path / "item_vectors.safetensors")
    assert vectors["item_vectors"].shape == (12, 32)
    assert vectors["head_item_vectors"].shape == (12, 33)
    assert vectors["head_item_vectors"].dtype == torch.float32
    assert torch.equal(vectors["head_item_vectors"][:, -1], model.item_head.item_vectors.bias)
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = writes.encode(np.arange(8))
    with torch.no_grad():
        embeds = embed_prompt(backbone, vectors["item_vectors"], prompt, [[item] for item in range(8)])
        state = backbone.model(inputs_embeds=embeds).last_hidden_state[0, prompt.history_end]
    user = vectors["head_user_matrix"] @ state
    user = user / user.norm() if similarity == "cosine" else user / 32**0.5
    user = torch.cat([user * vectors["head_log_scale"].exp(), torch.ones(1)])
    scores = (vectors["head_item_vectors"] @ user).double().numpy()
    scores[:8] += model.item_head.feature_weights()[0].item()
    np.testing.assert_allclose(scores, scores_by_hand(model, writes, prompt), rtol=1e-4, atol=2e-4)


def test_a_model_without_a_head_exports_no_vectors_of_one(model, processor, tmp_path):
    export_backbone(model, processor, tmp_path)
    assert load_file(tmp_path / "item_vectors.safetensors").keys() == {"item_vectors"}


@pytest.mark.slow
@pytest.mark.parametrize("has_fusion", [False, True])
def test_an_export_with_code_recommends_by_items(processor, tmp_path, has_fusion):
    """In a new process that does not import the library."""
    model, writes = item_model(), item_processor(processor)
    if has_fusion:
        parts = {
            "titles": TitlePart(),
            "item": ItemHeadPart(),
            "co_visits": NeighborPart(table_of(np.eye(12)[::-1], processor.catalog.item_ids)),
            "similar_titles": SimilarTitlesPart(),
            "seen": SeenPart(),
        }
        writes = writes.with_fusion(Fusion(parts, dict.fromkeys(parts, 0.5)))
    export_checkpoint(model, writes, tmp_path / "export", include_code=True)
    code = (
        "import sys\n"
        "sys.modules['patchrec_hf'] = None  # importing it raises\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from transformers import AutoModelForCausalLM, AutoProcessor\n"
        "from transformers.dynamic_module_utils import get_class_from_dynamic_module\n"
        "folder = sys.argv[1]\n"
        "model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)\n"
        "processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        "recommender = get_class_from_dynamic_module('recommender.PatchRecommender', folder)(model, processor)\n"
        "for items in (recommender.recommend([10, 11, 'Four Poems'], k=4), recommender.similar_items(14, k=3)):\n"
        "    print([(item.item_id, round(item.score, 3)) for item in items])\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = run_process([sys.executable, "-c", code, tmp_path / "export"], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    recommender = PatchRecommender(model, writes)
    expected = [recommender.recommend([10, 11, "Four Poems"], k=4), recommender.similar_items(14, k=3)]
    assert done.stdout.split("\n")[:2] == [
        str([(item.item_id, round(item.score, 3)) for item in items]) for items in expected
    ]
