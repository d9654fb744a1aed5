"""Rankings of titles that need not be a processor's."""

from patchrec_hf import CatalogRanker, RankingConfig


def rank(model, trie, prompts, pad_id, candidates=None, excluded=None, **settings):
    ranker = CatalogRanker.from_trie(model, trie, pad_id, RankingConfig(**settings))
    return ranker.rank(prompts, candidates, excluded)


def score(model, trie, prompts, pad_id, **settings):
    return CatalogRanker.from_trie(model, trie, pad_id, RankingConfig(k=1, **settings)).score(prompts)
