import platform

import pytest
import torch

from nmg.lab.bench import meter

CPU = torch.device("cpu")


def test_the_peak_is_of_the_block_alone():
    with meter.metered(CPU) as large:
        torch.ones(64 * 2**20).sum()
    with meter.metered(CPU) as small:
        torch.ones(2**10).sum()
    if large.peak_mib is None:
        pytest.skip("this system doesn't tell a process's peak memory")
    assert large.peak_mib > small.peak_mib + 200 and large.seconds > small.seconds > 0


def test_what_an_earlier_block_freed_is_not_the_next_one_s_peak():
    """Small pieces, which the C library keeps when they are freed; the last ones stay and hold the heap's end."""
    with meter.metered(CPU) as large:
        pieces = [torch.ones(512) for _ in range(100_000)]
        del pieces[:-10]
    with meter.metered(CPU) as small:
        torch.ones(2**10).sum()
    if large.peak_mib is None or platform.libc_ver()[0] != "glibc":
        pytest.skip("this system doesn't tell a process's peak memory, or keeps it")
    assert len(pieces) == 10 and large.peak_mib > small.peak_mib + 100


def test_a_peak_that_can_not_be_reset_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(meter, "PROCESS", tmp_path / "none")
    with meter.metered(CPU) as cost:
        pass
    assert cost.peak_mib is None and meter.peak_mib(CPU) is None


def test_a_processor_is_named_with_its_threads():
    assert meter.described(CPU).endswith(f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}")
