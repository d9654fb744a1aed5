"""Sharded weights; what several processes do is tested in tests/distributed."""

import torch
from torch import nn

from patchrec_hf.runtime.sharding import gathered, gathered_root, is_plain_linear, is_sharded


def test_one_process_holds_all_weights(model):
    assert not is_sharded(model)
    with gathered_root(model), gathered(model.lm_head.weight):
        assert model.lm_head.weight.shape[0] == model.config.decoder_config.vocab_size


def test_a_plain_linear_layer_has_its_weight_and_nothing_around_it(monkeypatch):
    class Adapted(nn.Linear):
        """Stands for a layer that an adapter or a quantizer has changed."""

    class Shard(nn.Parameter):
        """Stands for a parameter that FSDP2 has sharded."""

    layer = nn.Linear(2, 3)
    assert is_plain_linear(layer)
    assert not is_plain_linear(Adapted(2, 3))
    assert not is_plain_linear(nn.Linear(2, 3, device="meta"))
    monkeypatch.setattr("patchrec_hf.runtime.sharding.DTensor", Shard)
    layer.weight = Shard(torch.zeros(3, 2))
    assert not is_plain_linear(layer)


def test_a_distributed_tensor_is_a_shard(model, monkeypatch):
    class Shard(nn.Parameter):
        """Stands for a parameter that FSDP2 has sharded."""

    monkeypatch.setattr("patchrec_hf.runtime.sharding.DTensor", Shard)
    assert not is_sharded(model)
    model.model.extra = Shard(torch.zeros(1))
    assert is_sharded(model)


def test_the_root_is_gathered_and_sharded_again(model, monkeypatch):
    calls = []

    class Sharded(type(model)):
        def unshard(self):
            calls.append("unshard")

        def reshard(self):
            calls.append("reshard")

    monkeypatch.setattr("patchrec_hf.runtime.sharding.FSDPModule", Sharded)
    model.__class__ = Sharded
    with gathered_root(model):
        calls.append("inside")
    assert calls == ["unshard", "inside", "reshard"]
