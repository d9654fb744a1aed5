"""Examples that share prefixes, for packed batches."""

import numpy as np

from patchrec_hf import DropLayout, ItemPatchLayout, RandomPatchLayout, SessionPatchLayout, TextLayout
from patchrec_hf.runtime.encoding import EncodedHistory, TokenCounts


LAYOUTS = {
    "text": TextLayout(),
    "item": ItemPatchLayout(2),
    "session": SessionPatchLayout(2),
    "session_oldest": SessionPatchLayout(2, align="oldest"),
    "random": RandomPatchLayout(0.5),
    "drop": DropLayout(0.3),
}
ITEM_IDS = list(range(10, 22))


def plain(tokens, prompt_length, patches=()):
    """An example without a history: `patches` are `(position, tokens, divisor)`."""
    sizes = [len(ids) for _, ids, _ in patches]
    return EncodedHistory(
        input_ids=np.array(tokens),
        prompt_length=prompt_length,
        patch_token_ids=np.array([token for _, ids, _ in patches for token in ids], dtype=np.int64),
        patch_positions=np.repeat(np.array([position for position, _, _ in patches], dtype=np.int64), sizes),
        patch_divisors=np.repeat(np.array([divisor for _, _, divisor in patches], dtype=np.int64), sizes),
        patch_title_starts=np.array([int(i == 0) for size in sizes for i in range(size)], dtype=np.int64),
        counts=TokenCounts(0, 0, 0),
        text_counts=TokenCounts(0, 0, 0),
    )


ROW = {"user_id": 1, "item_ids": [*ITEM_IDS, *ITEM_IDS[:4]], "target_positions": [8, 9, 10, 12, 14]}
