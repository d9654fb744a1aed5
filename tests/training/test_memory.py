"""The estimate of a training step's memory, computed by hand."""

from patchrec_hf.training.memory import GIB, MemoryEstimate, estimate_memory
from patchrec_hf.training.memory_sizes import BatchShape, ModelSize, WeightMemory


MODEL = ModelSize(hidden=8, intermediate=20, vocabulary=50, layers=3, heads=4, query=8, key=4)
WEIGHTS = WeightMemory(1000, 2000, 3000)
ON_GPU = {"device": "cuda"}  # without what a CPU's heap holds back


def test_what_a_layer_keeps_without_a_mask():
    # 10 positions: norms 4·8, linear layers 2·8, attention 2·8 for queries and 2·4 for keys, 4·20 for the MLP.
    layer = 4 * 10 * (4 * 8 + 2 * 8 + 2 * 8 + 2 * 4 + 4 * 20)
    estimate = estimate_memory(MODEL, WEIGHTS, BatchShape(2, 5, labels=7), **ON_GPU)
    assert estimate.activations == (3 + 1) * layer + 5 * 4 * 10 * 8
    assert estimate.scores == 3 * 4 * 7 * 50
    assert estimate.total == 6000 + estimate.activations + estimate.scores


def test_a_mask_is_kept_by_each_layer_and_repeats_the_keys():
    plain, masked = (
        estimate_memory(MODEL, WEIGHTS, BatchShape(2, 5, is_padded=is_padded), **ON_GPU).activations
        for is_padded in (False, True)
    )
    assert masked - plain == (3 + 1) * 4 * (2 * (8 - 4) * 10 + 2 * 5 * 5)
    eager = estimate_memory(MODEL, WEIGHTS, BatchShape(2, 5), attention="eager", **ON_GPU).activations
    assert eager - masked == (3 + 1) * 4 * (4 * 2 * 5 * 5)  # the weights of 4 heads


def test_chunks_of_a_packed_batch_have_keys_of_their_own():
    packed = BatchShape(1, 10, chunks=2, ancestors=3)  # 2 chunks of 5 positions, each with 8 keys
    chunks = estimate_memory(MODEL, WEIGHTS, packed, attention="patchrec_chunks", **ON_GPU).activations
    flex = estimate_memory(MODEL, WEIGHTS, packed, attention="flex_attention", **ON_GPU).activations
    assert chunks - flex == (3 + 1) * 4 * (2 * 8 * 16 - 2 * 4 * 10 + 16 * 5)


def test_layers_that_are_computed_again_keep_their_input():
    batch = BatchShape(2, 5)
    plain = estimate_memory(MODEL, WEIGHTS, batch, **ON_GPU).activations
    outside = 5 * 4 * 10 * 8
    layer = (plain - outside) // 4
    checkpointed = estimate_memory(MODEL, WEIGHTS, batch, checkpoints_layers=True, **ON_GPU).activations
    assert checkpointed == 3 * 4 * 10 * 8 + outside + 2 * layer
    on_cpu = estimate_memory(MODEL, WEIGHTS, batch).activations
    assert on_cpu == plain + 2 * layer


def test_half_precision():
    batch, half = BatchShape(2, 5), {"element_size": 2, **ON_GPU}
    layer = 10 * (4 * 8 * 4 + 2 * (2 * 8 + 2 * 8 + 2 * 4 + 4 * 20))
    assert estimate_memory(MODEL, WEIGHTS, batch, **half).activations == (3 + 1) * layer + 5 * 4 * 10 * 8
    layer += 10 * 2 * 3 * 8  # each linear layer has a copy of its input
    copied = WeightMemory(1000, 2000, 3000, half_copies=500)
    autocast = estimate_memory(MODEL, copied, batch, uses_autocast=True, **half).activations
    assert autocast == (3 + 1) * layer + 5 * 4 * 10 * 8 + 500


def test_items_are_scored_block_by_block():
    few, many = (
        estimate_memory(MODEL, WEIGHTS, BatchShape(1, 10, item_targets=4, candidates=candidates)).scores
        for candidates in (100, 200)
    )
    assert many - few == 8 * 4 * 8 * 100


def test_an_estimate_is_readable():
    estimate = MemoryEstimate(GIB, GIB, 2 * GIB, 3 * GIB, GIB // 2, BatchShape(4, 300), available=7 * GIB)
    assert str(estimate) == (
        "Training needs about 7.5 GiB of 7.0 GiB on cpu: weights 1.00, gradients 1.00, optimizer 2.00, activations "
        "3.00, scores 0.50. The largest forward reads 1,200 positions in 4 sequences."
    )
    assert not estimate.fits
    unknown = MemoryEstimate(GIB, 0, 0, 0, 0, BatchShape(1, 300), device="mps")
    assert str(unknown).startswith("Training needs about 1.0 GiB: weights 1.00")
    assert str(unknown).endswith("300 positions in one sequence.")
    assert unknown.fits
