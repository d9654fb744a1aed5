"""The memory that is free is what no limit of a container or of the process forbids."""

import sys

import psutil
import pytest

from patchrec_hf.training.free_memory import _free_in_container
from patchrec_hf.training.memory import GIB


def write(directory, **files):
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / f"memory.{name}").write_text(f"{content}\n")


def test_the_limit_of_a_container(tmp_path):
    """A container shows its own group as the root."""
    assert _free_in_container(tmp_path, "0::/\n") == float("inf")
    write(tmp_path, current=300, max="max")
    assert _free_in_container(tmp_path, "0::/\n") == float("inf")
    write(tmp_path, max=1000)
    assert _free_in_container(tmp_path, "0::/\n") == 700
    # The system can drop cached files that were not read lately.
    write(tmp_path, stat="anon 100\nfile 200\ninactive_file 150\nactive_file 50")
    assert _free_in_container(tmp_path, "0::/\n") == 850
    assert _free_in_container(tmp_path, "") == float("inf")


def test_the_limits_of_all_groups_above_a_process(tmp_path):
    """The group of a job or of a user's session may be far below the root. The tightest limit counts."""
    write(tmp_path / "job" / "step", current=300, max="max")
    write(tmp_path / "job", current=400, max=1000)
    write(tmp_path / "other", current=0, max=1)
    assert _free_in_container(tmp_path, "0::/job/step\n") == 600
    write(tmp_path / "job" / "step", max=500)
    assert _free_in_container(tmp_path, "0::/job/step\n") == 200
    # A container may see the path of its group, but not the directory.
    write(tmp_path, current=10, max=100)
    assert _free_in_container(tmp_path, "0::/docker/abc\n") == 90


def test_the_limits_of_the_first_version_of_groups(tmp_path):
    groups = "9:name=systemd:/\n5:memory:/job\n1:cpu,cpuacct:/\n0::/\n"
    write(tmp_path / "memory", usage_in_bytes=500, limit_in_bytes=2**63 - 4096)
    assert _free_in_container(tmp_path, groups) > 2**62
    write(tmp_path / "memory" / "job", usage_in_bytes=300, limit_in_bytes=1000, stat="total_inactive_file 100")
    assert _free_in_container(tmp_path, groups) == 800
    assert _free_in_container(tmp_path, "5:memory:/\n") > 2**62


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no address space")
def test_the_limit_of_the_address_space(make_trainer, monkeypatch):
    trainer = make_trainer("finetune", max_steps=1)
    limit = psutil.Process().memory_info().vms + GIB
    monkeypatch.setattr("resource.getrlimit", lambda kind: (limit, limit))
    assert GIB / 2 < trainer.estimate_memory().available < 1.5 * GIB
