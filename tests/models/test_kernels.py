"""GEMM, attention and cache formulas against closed forms and their own limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import load_device
from commlens.models.cache import staged_reads
from commlens.models.kernels import Kernels, gemm_time, tiles
from commlens.models.software import load_software

SIDES = st.integers(1, 20_000)


@pytest.fixture(scope="module")
def h100():
    return load_device("h100-sxm")


@pytest.fixture(scope="module")
def t3_gpu():
    return load_device("t3-gpu")


@given(SIDES, SIDES, SIDES)
def test_gemm_is_never_faster_than_its_roofline(m, n, k):
    device = load_device("h100-sxm")
    time = gemm_time(m, n, k, device, "bf16")
    assert time >= 2.0 * m * n * k / (device.flops("bf16") * device.gemm_efficiency) * (1 - 1e-12)
    assert time >= 2 * (m * k + k * n + m * n) / device.memory_bandwidth


@given(SIDES, SIDES, SIDES, st.integers(2, 4))
def test_gemm_never_gets_cheaper_with_more_rows(m, n, k, factor):
    device = load_device("h100-sxm")
    assert gemm_time(factor * m, n, k, device) >= gemm_time(m, n, k, device)


def test_gemm_takes_arrays_and_scalars_alike(h100):
    m = np.array([1.0, 64.0, 1000.0, 16384.0])
    assert gemm_time(m, 8192, 1024, h100) == pytest.approx(
        [float(gemm_time(x, 8192, 1024, h100)) for x in m], rel=1e-15
    )


def test_whole_waves_on_a_machine_without_losses(t3_gpu):
    # 40 x 24 tiles of 128 x 128 on 80 units: 12 full waves, compute-bound
    assert tiles(t3_gpu)[0] == (128, 128)
    time = gemm_time(40 * 128, 24 * 128, 4096, t3_gpu, "fp16")
    assert time == pytest.approx(2.0 * 40 * 128 * 24 * 128 * 4096 / t3_gpu.flops("fp16"), rel=1e-12)
    # one tile more costs a wave more, unless smaller tiles or a split of k fill it
    more = gemm_time(40 * 128 + 1, 24 * 128, 4096, t3_gpu, "fp16")
    assert 1.0 < more / time <= 13 / 12 + 1e-12


def test_matrix_vector_product_streams_the_weights(h100):
    time = gemm_time(1, 28672, 8192, h100)
    assert time == pytest.approx(2 * (8192 * 28672 + 8192 + 28672) / (h100.memory_bandwidth * h100.memory_efficiency))


@given(SIDES, SIDES, st.integers(1, 4096), st.booleans())
def test_reads_lie_between_each_operand_once_and_once_per_tile(m, n, k, cached):
    read = staged_reads(m, n, k, (128, 128), 80, 16 * 2**20, 2, cached)
    once = 2 * (m * k + k * n)
    rows, columns = -(-m // 128), -(-n // 128)
    assert once * (1 - 1e-9) <= read <= 2 * (m * k * columns + k * n * rows) * (1 + 1e-9)


def test_writing_past_the_cache_saves_reads_and_never_costs_any():
    saved = 0
    for m, n, k in [
        (8192, 4256, 1596),
        (16384, 3072, 1536),
        (4096, 12288, 1536),
        (8192, 4256, 2128),
    ]:
        cached = staged_reads(m, n, k, (128, 128), 80, 16 * 2**20, 2, True)
        past = staged_reads(m, n, k, (128, 128), 80, 16 * 2**20, 2, False)
        assert past <= cached
        saved += past < cached
    assert saved >= 2


def test_a_larger_cache_reads_no_more():
    reads = [staged_reads(8192, 8192, 4096, (128, 128), 80, size * 2**20, 2) for size in (4, 8, 16, 32, 64, 256)]
    assert reads == sorted(reads, reverse=True)
    assert reads[-1] == 2 * (8192 * 4096 * 2)


@pytest.mark.parametrize("profile", ["megatron-core", "torch-compile"])
def test_decode_attention_reads_the_cache(h100, profile):
    software = load_software(profile)
    made = Kernels(h100, software, "bf16").attention(16, 1, 4096, 8, 1, 128, 128, True)
    cache = 16 * 4096 * 2 * 128 * 2
    expected = cache * (8 * software.expanded_kv_share if software.attention == "math" else 1)
    assert sum(k.memory_bytes for k in made) == pytest.approx(expected, rel=0.01)


def test_causal_attention_counts_half_the_flops(h100):
    kernels = Kernels(h100, load_software("megatron-core"), "bf16")
    pairs = [kernels.attention(1, 1024, window, 1, 1, 128, 128, True)[0].flops / 512 for window in (1024, 256)]
    assert pairs == pytest.approx([1024**2 / 2, 256**2 / 2 + 768 * 256])
    causal = kernels.attention(2, 1024, 1024, 8, 8, 128, 128, True)[0].flops
    full = kernels.attention(2, 1024, 1024, 8, 8, 128, 128, False)[0].flops
    assert full == 4.0 * 2 * 8 * 1024 * 1024 * 128
    assert causal == full / 2


def test_elementwise_kernels_vanish_for_a_single_row_only_where_the_stack_fuses(h100):
    fusing = Kernels(h100, load_software("torch-compile"), "bf16")
    plain = Kernels(h100, load_software("megatron-core"), "bf16")
    assert fusing.elementwise("norm", 8192, 1, 4) == ()
    assert len(fusing.elementwise("norm", 2 * 8192, 2, 4)) == 1
    (kernel,) = plain.elementwise("norm", 8192, 1, 4)
    assert kernel.memory_bytes == 4 * 8192 * 2


def test_rows_that_matrix_units_cannot_load_run_on_the_ordinary_ones():
    a100 = load_device("a100-80-sxm")
    kernels = Kernels(a100, load_software("megatron-deepspeed"), "bf16", training=True)

    def products(width):
        found = kernels.attention(2, 2048, 2048, 12, 12, width, width, True)
        return [kernel for kernel in found if kernel.shape]

    assert all(kernel.aligned for kernel in products(144))
    for kernel in products(150):  # 300 bytes a row: not whole vectors of 16
        assert not kernel.aligned
        assert kernel.time >= kernel.flops / a100.flops("fp32")
    slower = sum(k.time for k in products(150)) / sum(k.time for k in products(152))
    assert 5 < slower < a100.flops("bf16") / a100.flops("fp32") * 1.1


def test_a_stack_adds_passes_to_what_it_does_not_fuse_and_to_nothing_counted_as_it_runs(h100):
    software = load_software({"preset": "megatron-core", "passes": 3.0})
    kernels = Kernels(h100, software, "bf16", training=True)
    (norm,), (add,) = kernels.elementwise("norm", 1e6, 2, 2), kernels.elementwise("add", 1e6, 2, 3, exact=True)
    assert norm.memory_bytes == 3 * 2 * 2e6
    assert add.memory_bytes == 3 * 2e6
    assert kernels.streamed("copy", 5e6)[0].memory_bytes == 5e6
    (inference,) = Kernels(h100, software, "bf16").elementwise("norm", 1e6, 2, 2)
    assert inference.memory_bytes == 2 * 2e6
