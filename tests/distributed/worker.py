"""Runs scenarios in every process of a launcher; `test_distributed.py` starts it and reads what it writes."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType


sys.path.insert(0, str(Path(__file__).parent.parent))

import scenarios


def main(directory: Path) -> None:
    # It would be compiled at run time.
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for scenario in scenarios.SCENARIOS:
        if scenario.engine == "fsdp2":
            _pretend_a_device()
        output_dir = directory / scenario.name
        try:
            results = scenarios.run(scenario, directory / "backbones", output_dir, world_size)
            _forget_engine()
            results["resumed"] = scenarios.resume(scenario, directory / "backbones", output_dir, world_size)
        except Exception:  # the others would wait for this process
            traceback.print_exc()
            print(f"FAILED {scenario.name}", file=sys.stderr, flush=True)
            os._exit(1)
        (directory / f"{scenario.name}-{rank}.json").write_text(json.dumps(results), encoding="utf-8")
        _forget_engine()
    # FSDP that would save shards only is refused.
    scenarios.FSDP2["state_dict_type"] = "SHARDED_STATE_DICT"
    with pytest.raises(ValueError, match=r"FSDP must save whole weights.*FULL_STATE_DICT"):
        scenarios.make_trainer(scenario, directory / "backbones", directory / "refused", world_size)
    torch.distributed.destroy_process_group()


def _forget_engine() -> None:
    """Lets the next trainer choose its own engine."""
    gc.collect()
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"):
        os.environ.pop(name, None)
    for name in [name for name in os.environ if name.startswith("FSDP_")]:
        del os.environ[name]
    AcceleratorState._reset_state()
    GradientState._reset_state()


def _pretend_a_device() -> None:
    """FSDP2 wants an accelerator; this makes the CPU one, for tests only."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

    def prepare(self, cpu=False, sagemaker_dp=False, backend=None):
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = prepare
    PartialState._reset_state()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
