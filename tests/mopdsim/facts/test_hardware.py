"""The GPU table: every row complete and sourced, names resolve, peaks agree with the vendors' ratios."""

from __future__ import annotations

import pytest

from mopdsim.base.errors import NotFoundError, UsageError
from mopdsim.facts.hardware import gpu, gpus

NAMES = sorted(gpus())


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_complete_sourced_and_dated(name: str) -> None:
    row = gpu(name)
    assert row.source and row.price_source
    assert row.price_grade in ("published", "assumed")
    year, month, day = map(int, row.price_date.split("-"))
    assert 2020 <= year <= 2030 and 1 <= month <= 12 and 1 <= day <= 31
    amounts = (
        row.bf16_flops_per_s,
        row.memory_bytes,
        row.memory_bytes_per_s,
        row.scale_up_bytes_per_s,
        row.scale_out_bytes_per_s,
        row.usd_per_gpu_hour,
    )
    assert all(amount > 0 for amount in amounts)
    assert row.gpus_per_node <= row.scale_up_gpus
    assert row.scale_out_bytes_per_s <= row.scale_up_bytes_per_s


@pytest.mark.parametrize("name", NAMES)
def test_narrower_formats_are_never_slower(name: str) -> None:
    row = gpu(name)
    assert row.flops_per_s("bf16") <= row.flops_per_s("fp8") <= row.flops_per_s("fp4")


def test_the_table_holds_what_the_recipes_and_tables_name() -> None:
    systems = ["h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "DGX-GB200", "DGX-GB300", "DGX-B200"]
    systems += ["DGX-B300", "DGX-H100", "h100_80gb", "a100_80gb", "a100_40gb"]
    cards = [
        "A100-40GB",
        "A100-80GB",
        "A800",
        "H100",
        "H800",
        "H20",
        "H200",
        "B200",
        "B300",
        "GB200",
        "GB300",
    ]
    wanted = systems + cards + ["MI300X", "TPU-v5p", "CPU-2-cores"]
    assert {gpu(name).name for name in wanted} == set(NAMES)


def test_vendor_ratios() -> None:
    assert gpu("H100").flops_per_s("fp8") == pytest.approx(2 * gpu("H100").flops_per_s(), rel=1e-3)
    assert gpu("H800").flops_per_s() == gpu("H100").flops_per_s()
    assert gpu("H800").scale_up_bytes_per_s * 9 == gpu("H100").scale_up_bytes_per_s * 4
    assert gpu("A100").flops_per_s("fp8") == gpu("A100").flops_per_s("bf16")


def test_unknown_names_say_what_was_meant() -> None:
    with pytest.raises(NotFoundError, match=r"'H10'.*did you mean 'H100'"):
        gpu("H10")
    with pytest.raises(UsageError, match=r"'int3'.*bf16"):
        gpu("H100").flops_per_s("int3")
