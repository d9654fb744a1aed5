"""Tests of the prompts: every chat template's text, once, as ids."""

import copy
import json
from datetime import datetime

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from patchrec_hf import Catalog, PatchRecForCausalLM, PatchRecProcessor, build_tiny_backbone
from patchrec_hf.runtime.prompts import (
    BOOK_PROMPT,
    MOVIE_PROMPT,
    SPECIAL_TOKENS,
    Prompt,
    PromptTemplate,
    add_special_tokens,
    render_prompt,
    special_token_ids,
    tokenizer_fingerprint,
)


TEMPLATE = PromptTemplate(system="You know books.", instruction="I read {history}. What next?")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Gemma's way: no system role, and the assistant is called model.
REFUSES_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}<|im_start|>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
IGNORES_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Llama 3's way.
WRITES_DATE = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token }}<|im_start|>system\nToday Date: {{ date_string }}\n\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}<|im_end|>"
    "{% for message in messages if message['role'] != 'system' %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(chat_template=None, adds_bos=False, bos_token="<s>", eos_token="</s>", patchrec=True, **kwargs):
    """Reads bytes; `adds_bos` opens every text with BOS, as Llama's tokenizer does."""
    core = Tokenizer(models.BPE({char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<s>", "</s>"])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos_token,
        eos_token=eos_token,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=chat_template,
        **kwargs,
    )
    if patchrec:
        add_special_tokens(tokenizer)
    return tokenizer


def texts_of(prompt, tokenizer):
    return tokenizer.decode(prompt.prefix_ids), tokenizer.decode(prompt.suffix_ids)


@pytest.mark.parametrize("instruction", ["", "What next?", "{history} and {history}", "{ history }"])
def test_template_holds_the_history_exactly_once(instruction):
    with pytest.raises(ValueError, match=r"must hold \{history\} exactly once"):
        PromptTemplate(instruction=instruction)


def test_add_special_tokens_is_idempotent_and_keeps_the_earlier_ones():
    tokenizer = build_tokenizer(patchrec=False)
    size, before = len(tokenizer), set(tokenizer.all_special_tokens)
    assert {"<|im_start|>", "<|im_end|>"} <= before
    assert add_special_tokens(tokenizer) == 4
    ids = special_token_ids(tokenizer)
    assert sorted(ids.values()) == [size, size + 1, size + 2, size + 3]
    assert set(tokenizer.all_special_tokens) == before | set(SPECIAL_TOKENS)
    assert add_special_tokens(tokenizer) == 0
    assert special_token_ids(tokenizer) == ids
    assert set(tokenizer.all_special_tokens) == before | set(SPECIAL_TOKENS)
    assert [tokenizer(token, add_special_tokens=False)["input_ids"] for token in ids] == [[i] for i in ids.values()]


def test_add_special_tokens_completes_a_released_checkpoint():
    """The authors' tokenizers hold three of the four."""
    tokenizer = build_tokenizer(patchrec=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[:3])})
    released = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS[:3]}
    assert add_special_tokens(tokenizer) == 1
    assert special_token_ids(tokenizer) == {**released, "<|patch|>": len(tokenizer) - 1}


def test_special_token_ids_names_the_missing_ones():
    tokenizer = build_tokenizer(patchrec=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[:2])})
    message = r"lacks the special tokens \['<\|item_sep_id\|>', '<\|patch\|>'\]"
    with pytest.raises(ValueError, match=message):
        special_token_ids(tokenizer)
    with pytest.raises(ValueError, match=message):
        render_prompt(TEMPLATE, tokenizer)


def test_ids_of_the_special_tokens():
    tokenizer = build_tokenizer(CHATML)
    prompt = render_prompt(TEMPLATE, tokenizer)
    ids = (prompt.start_id, prompt.end_id, prompt.separator_id, prompt.patch_id)
    assert tokenizer.convert_ids_to_tokens(list(ids)) == [
        "<|start_seq_id|>",
        "<|end_seq_id|>",
        "<|item_sep_id|>",
        "<|patch|>",
    ]


def test_pad_id_is_the_padding_token_or_the_end_of_sequence():
    tokenizer = build_tokenizer(pad_token="<pad>")
    assert render_prompt(TEMPLATE, tokenizer).pad_id == tokenizer.convert_tokens_to_ids("<pad>")
    tokenizer = build_tokenizer()
    assert tokenizer.pad_token == "</s>"
    tokenizer = build_tokenizer(patchrec=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    assert tokenizer.pad_token is None
    assert render_prompt(TEMPLATE, tokenizer).pad_id == tokenizer.eos_token_id


def test_missing_end_of_sequence_is_refused():
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        render_prompt(TEMPLATE, build_tokenizer(eos_token=None))


def test_chat_template_with_a_system_role():
    tokenizer = build_tokenizer(CHATML)
    prompt = render_prompt(TEMPLATE, tokenizer)
    assert texts_of(prompt, tokenizer) == (
        "<|im_start|>system\nYou know books.<|im_end|>\n<|im_start|>user\nI read ",
        ". What next?<|im_end|>\n<|im_start|>assistant\n",
    )
    # The turns are the special tokens, not their letters.
    assert prompt.prefix_ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert prompt.suffix_ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def test_chat_template_that_refuses_the_system_role():
    tokenizer = build_tokenizer(REFUSES_SYSTEM)
    assert texts_of(render_prompt(TEMPLATE, tokenizer), tokenizer) == (
        "<s><|im_start|>user\nYou know books.\n\nI read ",
        ". What next?<|im_end|>\n<|im_start|>model\n",
    )


def test_chat_template_that_ignores_the_system_role():
    tokenizer = build_tokenizer(IGNORES_SYSTEM)
    assert texts_of(render_prompt(TEMPLATE, tokenizer), tokenizer) == (
        "[INST] You know books.\n\nI read ",
        ". What next? [/INST]",
    )


def test_no_chat_template():
    tokenizer = build_tokenizer()
    prompt = render_prompt(TEMPLATE, tokenizer)
    assert texts_of(prompt, tokenizer) == ("You know books.\n\nI read ", ". What next?\n")
    assert prompt.end_of_turn_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("chat_template", "expected"),
    [
        (None, "I read "),
        (CHATML, "<|im_start|>user\nI read "),
        (REFUSES_SYSTEM, "<s><|im_start|>user\nI read "),
        (IGNORES_SYSTEM, "[INST] I read "),
    ],
)
def test_no_system_turn(chat_template, expected):
    tokenizer = build_tokenizer(chat_template)
    template = PromptTemplate(instruction=TEMPLATE.instruction)
    assert texts_of(render_prompt(template, tokenizer), tokenizer)[0] == expected


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("{history}", ("", "\n")),
        ("Next after {history}", ("Next after ", "\n")),
        ("{history}: next?", ("", ": next?\n")),
    ],
)
def test_history_at_either_end(instruction, expected):
    tokenizer = build_tokenizer()
    assert texts_of(render_prompt(PromptTemplate(instruction), tokenizer), tokenizer) == expected


@pytest.mark.parametrize("template", [TEMPLATE, BOOK_PROMPT, MOVIE_PROMPT])
@pytest.mark.parametrize("chat_template", [CHATML, WRITES_DATE])
def test_prefix_history_suffix_is_the_text_of_the_chat_template(template, chat_template):
    tokenizer = build_tokenizer(chat_template)
    prefix, suffix = texts_of(render_prompt(template, tokenizer), tokenizer)
    messages = [
        {"role": "system", "content": template.system},
        {"role": "user", "content": template.instruction.format(history="Emma; Persuasion")},
    ]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
    )
    assert f"{prefix}Emma; Persuasion{suffix}" == text


def test_date_is_pinned(monkeypatch):
    tokenizer = build_tokenizer(WRITES_DATE)

    def on(year):
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(year, 1, 2, tzinfo=tz)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        unpinned = tokenizer.apply_chat_template([{"role": "user", "content": "I"}], tokenize=False)
        return unpinned, render_prompt(TEMPLATE, tokenizer)

    (text, prompt), (later_text, later_prompt) = on(2020), on(2031)
    assert "Today Date: 02 Jan 2020" in text
    assert "Today Date: 02 Jan 2031" in later_text
    assert later_prompt == prompt
    assert texts_of(prompt, tokenizer)[0] == (
        "<s><|im_start|>system\nToday Date: 26 Jul 2024\n\nYou know books.<|im_end|><|im_start|>user\nI read "
    )


def test_thinking_is_switched_off():
    chat_template = CHATML.replace(
        "assistant\n", "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    )
    tokenizer = build_tokenizer(chat_template)
    suffix = texts_of(render_prompt(TEMPLATE, tokenizer), tokenizer)[1]
    assert suffix.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("chat_template", [None, CHATML, "{{ bos_token }}" + CHATML, WRITES_DATE])
def test_bos_opens_the_prompt_once(chat_template, adds_bos):
    tokenizer = build_tokenizer(chat_template, adds_bos=adds_bos)
    bos = tokenizer.bos_token_id
    assert (tokenizer("a")["input_ids"][0] == bos) == adds_bos
    writes_bos = chat_template is not None and "bos_token" in chat_template
    prompt = render_prompt(TEMPLATE, tokenizer)
    assert prompt.prefix_ids.count(bos) == int(adds_bos or writes_bos)
    assert (prompt.prefix_ids[0] == bos) == (adds_bos or writes_bos)
    assert bos not in prompt.suffix_ids


def test_bos_opens_an_empty_prefix():
    tokenizer = build_tokenizer(adds_bos=True)
    assert render_prompt(PromptTemplate("{history}"), tokenizer).prefix_ids == (tokenizer.bos_token_id,)


def test_tokenizer_without_bos():
    """Qwen's has none."""
    tokenizer = build_tokenizer(CHATML, bos_token=None)
    assert tokenizer.bos_token_id is None
    assert render_prompt(TEMPLATE, tokenizer).prefix_ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_text_that_opens_with_another_token_gets_no_bos():
    """BERT's way: what opens every text is no BOS, and what closes it must not come into the prompt either."""
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    assert tokenizer("")["input_ids"] == [tokenizer.eos_token_id]
    assert texts_of(render_prompt(TEMPLATE, tokenizer), tokenizer) == ("You know books.\n\nI read ", ". What next?\n")


@pytest.mark.parametrize(
    ("chat_template", "expected"),
    [
        (CHATML, "<|im_end|>"),
        (REFUSES_SYSTEM, "<|im_end|>"),
        (WRITES_DATE, "<|im_end|>"),
        (IGNORES_SYSTEM, "</s>"),
        # Closes the turn in plain letters.
        (CHATML.replace("<|im_end|>", "[end]"), "</s>"),
        # Text before the token, and the next turn's token after it.
        ("{% for message in messages %}{{ message['content'] }}\n<|im_end|><|im_start|>{% endfor %}", "<|im_end|>"),
    ],
)
def test_end_of_turn_is_the_chat_templates(chat_template, expected):
    tokenizer = build_tokenizer(chat_template)
    end_of_turn = render_prompt(TEMPLATE, tokenizer).end_of_turn_id
    assert tokenizer.convert_ids_to_tokens(end_of_turn) == expected


def test_end_of_turn_may_be_an_added_token_that_is_not_special():
    tokenizer = build_tokenizer(CHATML.replace("<|im_end|>", "<end_of_turn>"))
    tokenizer.add_tokens([AddedToken("<end_of_turn>", special=False)])
    assert "<end_of_turn>" not in tokenizer.all_special_tokens
    prompt = render_prompt(TEMPLATE, tokenizer)
    assert prompt.end_of_turn_id == tokenizer.convert_tokens_to_ids("<end_of_turn>")


@pytest.mark.parametrize(
    ("chat_template", "times"),
    [("Hello.", 0), ("{% for message in messages %}{{ message['content'] }}{{ message['content'] }}{% endfor %}", 2)],
)
def test_chat_template_that_drops_or_repeats_the_history_is_refused(chat_template, times):
    template = PromptTemplate(instruction=TEMPLATE.instruction)
    with pytest.raises(ValueError, match=f"renders the history {times} times"):
        render_prompt(template, build_tokenizer(chat_template))


def test_prompt_dict_round_trip():
    prompt = render_prompt(TEMPLATE, build_tokenizer(CHATML))
    again = Prompt.from_dict(json.loads(json.dumps(prompt.to_dict())))
    assert again == prompt
    assert isinstance(again.prefix_ids, tuple)
    assert isinstance(again.suffix_ids, tuple)


def test_system_words_that_the_instruction_holds_too():
    """A template that ignores the system role must not look as if it had rendered it."""
    template = PromptTemplate(system="What next?", instruction="I read {history}. What next?")
    tokenizer = build_tokenizer(IGNORES_SYSTEM)
    prompt = render_prompt(template, tokenizer)
    assert tokenizer.decode(prompt.prefix_ids).count("What next?") == 1


def test_template_that_drops_answers_ends_with_eos():
    tokenizer = build_tokenizer(
        "{{ bos_token }}{% for m in messages if m['role'] != 'assistant' %}"
        "<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    assert render_prompt(TEMPLATE, tokenizer).end_of_turn_id == tokenizer.eos_token_id


def test_added_whitespace_does_not_end_a_turn():
    tokenizer = build_tokenizer(
        "{% for m in messages %}{{ m['content'] }}\n<|im_end|>{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    tokenizer.add_tokens(["\n"])
    assert tokenizer.convert_ids_to_tokens(render_prompt(TEMPLATE, tokenizer).end_of_turn_id) == "<|im_end|>"


def test_history_does_not_belong_into_the_system_turn():
    with pytest.raises(ValueError, match="got it in `system`"):
        PromptTemplate(system="Read {history}.", instruction="I read {history}.")


def test_the_model_knows_its_tokenizer(model, catalog, tokenizer, processor, tmp_path):
    """Another tokenizer may have the same size and the same id of `<|patch|>`."""
    assert model.config.tokenizer_fingerprint == tokenizer_fingerprint(tokenizer) == processor.tokenizer_fingerprint
    model.save_pretrained(tmp_path)
    loaded = PatchRecForCausalLM.from_pretrained(tmp_path)
    loaded.check_processor(processor)

    titles = {number: f"zebra {number} quux" for number in range(40)}
    _, other = build_tiny_backbone(Catalog.from_titles(titles), vocab_size=400, hidden_size=32)
    add_special_tokens(other)
    assert len(other) == len(tokenizer)
    with pytest.raises(ValueError, match="tokenizer is not the model's"):
        loaded.check_processor(PatchRecProcessor(other, catalog, BOOK_PROMPT))
    loaded.config.tokenizer_fingerprint = None  # a checkpoint of an earlier version
    loaded.check_processor(PatchRecProcessor(other, catalog, BOOK_PROMPT))


def test_tokens_that_are_added_later_keep_the_fingerprint(tokenizer):
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens(["<|another|>"])
    assert tokenizer_fingerprint(longer) == tokenizer_fingerprint(tokenizer)
