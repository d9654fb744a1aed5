"""Item scorers without a model, so that indexes are tested on hundreds of items, and brute force to compare with."""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from patchrec_hf.runtime import index_ranking
from patchrec_hf.runtime.best_products import ROWS_MULTIPLE, products_of
from patchrec_hf.runtime.item_index import ItemIndex
from patchrec_hf.runtime.item_scorer import ItemScorer
from patchrec_hf.runtime.title_tokens import TitleTokens
from patchrec_hf.runtime.trie import build_trie


class VectorScorer(ItemScorer):
    """An item scorer whose vectors are given. `titles[i]` is the number of item i's title."""

    def __init__(self, vectors, seen_weight=0.0, title_weight=0.0, neighbors=None, titles=None):
        vectors = torch.as_tensor(np.asarray(vectors, dtype=np.float32))
        titles = np.arange(len(vectors)) if titles is None else np.asarray(titles)
        trie = build_trie(TitleTokens(titles + 1, np.arange(len(titles) + 1)), end_of_turn_id=0)
        self.processor = SimpleNamespace(trie=trie, title_neighbors=neighbors, catalog=range(len(vectors)))
        weights = torch.tensor([seen_weight, title_weight])
        self.model = SimpleNamespace(
            item_head=SimpleNamespace(feature_weights=lambda: weights),
            config=SimpleNamespace(item_head_config=SimpleNamespace(title_similarity=neighbors is not None)),
        )
        self._item_vectors = F.pad(vectors, (0, 0, 0, -len(vectors) % ROWS_MULTIPLE))


def count_searches(monkeypatch):
    """Has small catalogs searched, which are scored as a whole otherwise. Returns a list that grows by searches."""
    monkeypatch.setattr(index_ranking, "_LARGEST_SHARE", 1.0)
    monkeypatch.setattr(index_ranking, "_LEAST_EXTRA", 0)
    search, searches = ItemIndex.search, []

    def counted(index, users, num):
        searches.append(index.kind)
        return search(index, users, num)

    monkeypatch.setattr(ItemIndex, "search", counted)
    return searches


def random_vectors(num_items, size=6, seed=0, num_distinct=None):
    """Item vectors whose last entry is a bias. Some are alike if there are fewer distinct ones."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_distinct or num_items, size)).astype(np.float32)
    vectors[:, :-1] /= np.linalg.norm(vectors[:, :-1], axis=1, keepdims=True)
    return vectors if num_distinct is None else vectors[rng.integers(num_distinct, size=num_items)]


def random_users(num_users, size=6, seed=1, scale=8.0):
    users = np.random.default_rng(seed).normal(size=(num_users, size)).astype(np.float32)
    users[:, :-1] *= scale / np.linalg.norm(users[:, :-1], axis=1, keepdims=True)
    users[:, -1] = 1
    return torch.from_numpy(users)


def all_scores(scorer, users, histories):
    """The scores of all items, of shape `(n, num_items)`."""
    scores = products_of(users, scorer.item_vectors)
    for addend in scorer.features(histories):
        addend.add_to(scores, np.arange(scores.shape[1]))
    return scores


def best_by_hand(scorer, users, histories, k, candidates=None, excluded=None, unique_titles=False):
    """The k best items of each user, by the scores of all items, one user at a time."""
    leaves = scorer.processor.trie.leaf_of_item
    lists = []
    for row, scores in enumerate(all_scores(scorer, users, histories)):
        left_out = set() if excluded is None else set(excluded[row].tolist())
        allowed = range(len(scores)) if candidates is None else set(candidates[row].tolist())
        found, titles = [], set()
        for item in sorted(set(allowed) - left_out, key=lambda item: (-scores[item], item)):
            if not (unique_titles and leaves[item] in titles):
                found.append(item)
                titles.add(leaves[item])
        lists.append((found[:k] + [-1] * k)[:k])
    return np.array(lists)
