"""Settings of a service are checked when they are made."""

import dataclasses

import pytest

from patchrec_hf.serving.service_settings import ServiceSettings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_k", 0, "`max_k` must be at least 1, got 0"),
        ("max_queue", 1.5, "`max_queue` must be a whole number, got 1.5"),
        ("max_items", True, "`max_items` must be a whole number, got True"),
        ("cache_bytes", -1, "`cache_bytes` must be at least 0, got -1"),
        ("max_wait_ms", float("nan"), "`max_wait_ms` must be a number of milliseconds of at least 0, got nan"),
        ("timeout_seconds", 0, "`timeout_seconds` must be a number of seconds above 0, got 0"),
        ("method", "diverse", "'fusion', 'item', 'exact', 'beam', got 'diverse'"),
    ],
)
def test_wrong_settings(name, value, message):
    with pytest.raises((ValueError, TypeError), match=message.replace("(", r"\(")):
        ServiceSettings(**{name: value})


def test_settings_may_be_zero_or_missing():
    settings = ServiceSettings(cache_bytes=0, max_wait_ms=0, method="item", block_size=0)
    assert dataclasses.replace(settings, max_k=5).max_k == 5
