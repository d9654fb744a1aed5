"""From a backbone to a model: what is refused, and where the rows of new tokens start."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from families import (
    TITLES,
    UNTIED,
    make_backbone,
    make_config,
    make_processor,
    shared_backbone,
)
from tiers import first_fast
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaModel,
    MambaConfig,
    OpenAIGPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RwkvConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from patchrec_hf import PatchRecForCausalLM, PatchRecProcessor, add_special_tokens
from patchrec_hf.runtime.prompts import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def processor() -> PatchRecProcessor:
    return make_processor()


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2),
        RwkvConfig(hidden_size=32, attention_hidden_size=32, num_hidden_layers=2),
        OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=2, n_positions=256),
    ],
    ids=lambda config: config.model_type,
)
def test_backbone_without_a_common_cache_is_refused_clearly(
    config: PreTrainedConfig, processor: PatchRecProcessor
) -> None:
    config = copy.deepcopy(config)
    config.vocab_size = len(processor.tokenizer)
    backbone = make_backbone(config)
    with pytest.raises(ValueError, match=type(backbone).__name__):
        PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)


def test_encoder_decoder_is_refused(processor: PatchRecProcessor) -> None:
    config = T5Config(vocab_size=len(processor.tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="not a decoder-only causal language model"):
        PatchRecForCausalLM.from_backbone(T5ForConditionalGeneration(config), processor.tokenizer)


def test_headless_model_is_refused(processor: PatchRecProcessor) -> None:
    config = make_config("llama_tied", processor.tokenizer)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        PatchRecForCausalLM.from_backbone(LlamaModel(config), processor.tokenizer)


def test_model_without_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its tokenizer"):
        PatchRecForCausalLM.from_backbone(copy.deepcopy(shared_backbone("llama_tied")))


def test_unknown_logits_are_refused(processor: PatchRecProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = copy.deepcopy(shared_backbone("llama_tied"))
    plain_forward = type(backbone).forward

    def doubled(self: PreTrainedModel, *args, **kwargs):
        outputs = plain_forward(self, *args, **kwargs)
        outputs.logits = 2 * outputs.logits
        return outputs

    monkeypatch.setattr(type(backbone), "forward", doubled)
    with pytest.raises(ValueError, match="computes its logits in a way that this library does not reproduce"):
        PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that has never seen PatchRec's special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TITLES, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>")


def special_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))


@pytest.mark.parametrize("prepared", first_fast([False, True]), ids=["plain", "prepared"])
@pytest.mark.parametrize("family", first_fast(["llama_tied", "llama_untied", "gpt2", "phi"]))
def test_tokens_beyond_the_table_start_as_the_mean(family: str, prepared: bool, tmp_path: Path) -> None:
    """Also where the tokenizer was prepared, as for a processor, before the model was made."""
    tokenizer = plain_tokenizer()
    backbone = make_backbone(make_config(family, tokenizer))
    num_rows = len(tokenizer)
    if prepared:
        add_special_tokens(tokenizer)
    tables = [backbone.get_input_embeddings().weight, backbone.get_output_embeddings().weight]
    before = [table.detach().clone() for table in tables]

    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    assert special_ids(tokenizer) == list(range(num_rows, num_rows + 4))
    assert model.config.text_config.vocab_size == len(tokenizer) == num_rows + 4
    assert model.config.patch_token_id == num_rows + 3
    for module, rows in zip((model.get_input_embeddings(), model.lm_head), before, strict=True):
        assert torch.equal(module.weight[:num_rows], rows)
        torch.testing.assert_close(module.weight[num_rows:], rows.mean(dim=0).expand(4, -1))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (family not in UNTIED)

    model.save_pretrained(tmp_path)
    loaded = PatchRecForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, num_rows, num_rows + 1, num_rows + 2]])
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


def test_head_bias_of_new_tokens_starts_as_the_mean() -> None:
    """At zero it would make new tokens likely where trained biases are low."""
    tokenizer = plain_tokenizer()
    backbone = make_backbone(make_config("phi", tokenizer))
    backbone.lm_head.bias.data -= 5
    mean = backbone.lm_head.bias.mean().item()
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    assert model.lm_head.bias[special_ids(tokenizer)].tolist() == pytest.approx([mean] * 4)


@pytest.mark.parametrize("family", ["llama_tied", "llama_untied"])
@pytest.mark.parametrize("source", ["directory", "model"])
def test_tokens_in_spare_rows_start_as_the_mean(family: str, source: str, tmp_path: Path) -> None:
    tokenizer = plain_tokenizer()
    config = make_config(family, tokenizer)
    config.vocab_size = len(tokenizer) + 64
    backbone = make_backbone(config)
    backbone.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    bare = copy.deepcopy(backbone)

    if source == "directory":
        model = PatchRecForCausalLM.from_backbone(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        add_special_tokens(tokenizer)
    else:
        model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    new_ids = special_ids(tokenizer)
    assert max(new_ids) < config.vocab_size == model.config.text_config.vocab_size
    others = np.setdiff1d(np.arange(config.vocab_size), new_ids)
    for module, old in (
        (model.get_input_embeddings(), bare.get_input_embeddings()),
        (model.lm_head, bare.get_output_embeddings()),
    ):
        assert torch.equal(module.weight[others], old.weight[others])
        # Rows that no token uses were never trained, so they do not count.
        mean = old.weight[: len(plain_tokenizer())].mean(dim=0)
        torch.testing.assert_close(module.weight[new_ids], mean.expand(4, -1))


@pytest.mark.parametrize("as_type", [str, Path], ids=["str", "Path"])
def test_from_a_directory(as_type: type, tmp_path: Path) -> None:
    backbone = make_backbone(make_config("llama_tied", plain_tokenizer()))
    backbone.save_pretrained(tmp_path)
    plain_tokenizer().save_pretrained(tmp_path)

    model = PatchRecForCausalLM.from_backbone(as_type(tmp_path))
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight.shape[0] == len(plain_tokenizer()) + 4
    assert model.config.patch_token_id == len(plain_tokenizer()) + 3
    assert not model.training


def test_tokens_that_the_directory_knows_stay_as_trained(processor: PatchRecProcessor, tmp_path: Path) -> None:
    backbone = shared_backbone("llama_untied")
    backbone.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    model = PatchRecForCausalLM.from_backbone(tmp_path)
    assert torch.equal(model.get_input_embeddings().weight, backbone.get_input_embeddings().weight)
    assert torch.equal(model.lm_head.weight, backbone.get_output_embeddings().weight)


def test_tokens_new_to_the_directory_start_as_the_mean_with_a_prepared_tokenizer(tmp_path: Path) -> None:
    """A processor is often made first, so the tokenizer that is given may hold tokens that were never trained."""
    config = make_config("llama_tied", plain_tokenizer())
    config.vocab_size += 64
    backbone = make_backbone(config)
    backbone.save_pretrained(tmp_path)
    plain_tokenizer().save_pretrained(tmp_path)
    prepared = plain_tokenizer()
    add_special_tokens(prepared)
    model = PatchRecForCausalLM.from_backbone(tmp_path, prepared)
    rows = model.get_input_embeddings().weight[special_ids(prepared)]
    mean = backbone.get_input_embeddings().weight[: len(plain_tokenizer())].mean(dim=0)
    torch.testing.assert_close(rows, mean.expand(4, -1))


def test_a_loaded_model_with_the_tokenizer_of_another_backbone(processor: PatchRecProcessor, tmp_path: Path) -> None:
    """A model remembers the directory that it came from, and the tokenizer there is its own."""
    make_backbone(make_config("llama_tied", processor.tokenizer)).save_pretrained(tmp_path)
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path)
    plain_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"The tokenizer is not .*'s: .*have other ids in it"):
        PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)
    processor.tokenizer.save_pretrained(tmp_path)
    model = PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)
    assert model.config.tokenizer_fingerprint == processor.tokenizer_fingerprint


def test_a_directory_without_a_tokenizer_tells_nothing(processor: PatchRecProcessor, tmp_path: Path) -> None:
    make_backbone(make_config("llama_tied", processor.tokenizer)).save_pretrained(tmp_path)
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path)
    PatchRecForCausalLM.from_backbone(backbone, processor.tokenizer)
