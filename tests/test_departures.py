"""Claims of docs/departures.md about this library that no other test makes."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from patchrec_hf import ItemPatchLayout, PatchDataCollator, PatchFinetuneConfig, TextLayout
from patchrec_hf.batches.sampling import ScheduledRow
from patchrec_hf.runtime.encoding import pad_histories


def test_the_loss_of_twins_is_their_mean_and_halved_settings_train_on_their_sum(make_trainer, model, processor, rows):
    trainer, four_rows = make_trainer("pretrain"), list(rows)[:4]
    twins = trainer.data_collator([ScheduledRow(row, 1, 1.0) for row in four_rows])
    batches, num_labels = trainer.get_batch_samples(iter([twins]), 1, trainer.args.device)
    loss = trainer.compute_loss(trainer.model, batches[0], num_items_in_batch=num_labels)
    alone = [
        trainer.model(**PatchDataCollator(processor, layout)(four_rows)).loss
        for layout in (TextLayout(), ItemPatchLayout(0))
    ]
    assert loss.item() == pytest.approx(sum(alone).item() / 2, rel=1e-5)

    def train(factor, max_grad_norm, eps):
        trained = deepcopy(model)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2, weight_decay=0.1, eps=eps)
        for _ in range(3):
            (factor * trained(**twins).loss).backward()
            norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), max_grad_norm)
            assert norm > max_grad_norm
            optimizer.step()
            optimizer.zero_grad()
        return trained.state_dict()

    defaults = PatchFinetuneConfig("unused", use_cpu=True)
    on_sum = train(2, defaults.max_grad_norm, defaults.adam_epsilon)
    for name, weights in train(1, 0.15, 5e-9).items():
        torch.testing.assert_close(weights, on_sum[name], rtol=1e-4, atol=1e-5)


def test_a_pad_token_within_a_title_is_a_label(processor):
    """As "!" would be, where it is the pad token: only padding is left out of the labels, not tokens of titles."""
    short, long = (processor.encode(np.arange(num_items), target=11) for num_items in (1, 5))
    pad_id = int(processor.title_tokens[11][0])
    assert pad_id not in short.input_ids[: short.prompt_length]
    batch = pad_histories([short, long], pad_id)
    is_label = batch["labels"] != -100
    assert is_label.sum(dim=1).tolist() == [len(processor.title_tokens[11]) + 1] * 2
    assert batch["labels"][0, is_label[0]].tolist() == [
        *processor.title_tokens[11].tolist(),
        processor.prompt.end_of_turn_id,
    ]
