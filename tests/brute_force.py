"""What every ranking is checked against."""

import numpy as np
import torch


@torch.no_grad()
def brute_force(model, titles, end_of_turn_id, prompt):
    """The score of every title, each by a forward of its own over prompt and title."""
    scores = []
    for index in range(len(titles)):
        ids = torch.tensor([[*prompt.input_ids[: prompt.prompt_length], *titles[index], end_of_turn_id]])
        patches = {
            name: torch.from_numpy(getattr(prompt, name))[None]
            for name in ("patch_token_ids", "patch_positions", "patch_divisors")
        }
        log_probs = model(input_ids=ids, **patches).logits[0].log_softmax(dim=-1)
        places = torch.arange(prompt.prompt_length, ids.shape[1])
        scores.append(log_probs[places - 1, ids[0, places]].sum().item())
    return np.array(scores)
