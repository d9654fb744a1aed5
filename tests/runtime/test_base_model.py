"""The base model folds title tokens into patches, and asks for the tensors of patches where it meets a placeholder."""

import pytest
import torch
from families import ONE_TOKEN_TITLES, histories, make_processor, shared_backbone, shared_model
from transformers import PreTrainedModel

from patchrec_hf import ItemPatchLayout, PatchRecForCausalLM, PatchRecProcessor, SessionPatchLayout, TextLayout


@pytest.fixture(scope="module")
def processor() -> PatchRecProcessor:
    return make_processor()


@pytest.fixture
def backbone(family: str) -> PreTrainedModel:
    """The bare backbone, with the same weights as `model`. It is shared, and tests must not change it."""
    return shared_backbone(family)


@pytest.fixture
def model(family: str) -> PatchRecForCausalLM:
    """The model is shared, and tests must not change it."""
    return shared_model(family)


@torch.no_grad()
def test_patch_of_a_one_token_title_reads_as_its_token(
    model: PatchRecForCausalLM, backbone: PreTrainedModel, processor: PatchRecProcessor
) -> None:
    history = processor.catalog.item_ids[: len(ONE_TOKEN_TITLES)].tolist()
    assert (processor.title_tokens.lengths[: len(history)] == 1).all()
    text = processor([history], layout=TextLayout())
    patched = processor([history], layout=ItemPatchLayout(0))
    is_patch = patched["input_ids"] == processor.prompt.patch_id
    assert is_patch.sum() == len(history)
    assert text["input_ids"].shape == patched["input_ids"].shape

    patch_tensors = {key: patched[key] for key in ("patch_token_ids", "patch_positions", "patch_divisors")}
    embeds = model.prepare_inputs_embeds(patched["input_ids"], **patch_tensors)
    hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
    expected = backbone(input_ids=text["input_ids"]).logits
    torch.testing.assert_close(model.compute_logits(hidden), expected, atol=1e-5, rtol=1e-5)
    tokens = torch.tensor([7, 3, 7])
    torch.testing.assert_close(
        model.compute_token_logits(hidden[0], tokens), expected[0][:, tokens], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(model(**patched).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_patches_are_means_of_what_the_embedding_module_returns(
    model: PatchRecForCausalLM, processor: PatchRecProcessor
) -> None:
    history = processor.catalog.item_ids[[9, 30, 35]].tolist()
    title_means = [
        model.get_input_embeddings()(torch.from_numpy(processor.title_tokens[index])).mean(dim=0)
        for index in (9, 30, 35)
    ]
    for layout, expected in (
        (ItemPatchLayout(0), torch.stack(title_means)),
        (SessionPatchLayout(1), torch.stack(title_means[:2])),  # one item each: a session is its item
    ):
        batch = processor([history], layout=layout)
        is_patch = batch["input_ids"] == processor.prompt.patch_id
        del batch["attention_mask"]
        embeds = model.prepare_inputs_embeds(**batch)
        torch.testing.assert_close(embeds[is_patch], expected, atol=1e-5, rtol=1e-5)


def test_placeholders_without_patches_are_refused(llama: PatchRecForCausalLM, processor: PatchRecProcessor) -> None:
    batch = processor(histories())
    with pytest.raises(ValueError, match="no patch tensors"):
        llama(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    with pytest.raises(ValueError, match="no patch tensors"):
        llama.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=1)


def test_exactly_one_of_ids_and_embeddings(llama: PatchRecForCausalLM) -> None:
    ids = torch.tensor([[5, 6, 7]])
    embeds = llama.get_input_embeddings()(ids)
    torch.testing.assert_close(llama(inputs_embeds=embeds).logits, llama(input_ids=ids).logits)
    for inputs in ({"input_ids": ids, "inputs_embeds": embeds}, {}):
        with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
            llama(**inputs)


@torch.no_grad()
def test_patch_of_one_token_thrice_is_that_token_in_bf16(llama: PatchRecForCausalLM) -> None:
    llama.to(torch.bfloat16)
    tokens = torch.arange(5, 400)
    embeds = llama.prepare_inputs_embeds(
        torch.full((len(tokens), 1), llama.config.patch_token_id),
        tokens[:, None].expand(-1, 3),
        torch.zeros((len(tokens), 3), dtype=torch.long),
        torch.full((len(tokens), 3), 3),
    )
    assert embeds.dtype == torch.bfloat16
    assert torch.equal(embeds[:, 0], llama.get_input_embeddings()(tokens))
