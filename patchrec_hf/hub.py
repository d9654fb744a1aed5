"""The model card that a checkpoint carries to the Hub."""

from __future__ import annotations

from collections.abc import Mapping

from huggingface_hub import ModelCard, ModelCardData


_TEMPLATE = """---
{{ card_data }}
---

# {{ model_name }}

A recommender that reads long histories as patches: [PatchRec](https://arxiv.org/abs/2501.15087) (SIGIR'25), trained
with `patchrec-hf`.

| | |
|---|---|
{% for name, value in facts.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
## Use

```python
from patchrec_hf import PatchRecommender

recommender = PatchRecommender.from_pretrained("{{ repo_id }}")
for item in recommender.recommend({{ example_history }}, k=5):
    print(item.title, item.score)
```
{% if metrics %}
## Last evaluation during training

| metric | value |
|---|---|
{% for name, value in metrics.items() -%}
| {{ name }} | {{ "%.4f"|format(value) }} |
{% endfor %}
{%- endif %}
"""


def make_model_card(
    model_name: str,
    repo_id: str,
    facts: Mapping[str, object],
    metrics: Mapping[str, float],
    example_history: list[int],
    base_model: str | None = None,
    tags: list[str] | None = None,
) -> ModelCard:
    """
    Makes the README of a checkpoint.

    Args:
        model_name (`str`):
            Heading of the card.
        repo_id (`str`):
            Where the checkpoint can be loaded from.
        facts (`Mapping[str, object]`):
            Rows of the table of settings.
        metrics (`Mapping[str, float]`):
            Measured values; the section is left out if there are none.
        example_history (`list[int]`):
            Item ids for the example of use.
        base_model (`str`, *optional*):
            The backbone on the Hub.
        tags (`list[str]`, *optional*):
            Tags of the repository.

    Returns:
        [`~huggingface_hub.ModelCard`]
    """
    card_data = ModelCardData(
        base_model=base_model, library_name="patchrec-hf", tags=tags, pipeline_tag="text-generation"
    )
    return ModelCard.from_template(
        card_data,
        template_str=_TEMPLATE,
        model_name=model_name,
        repo_id=repo_id,
        facts=facts,
        metrics=metrics,
        example_history=example_history,
    )
