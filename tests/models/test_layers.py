"""Blocks of a layer against the model's own parameter and FLOP counts, and an executed reference."""

import pytest

from commlens.hardware import load_device
from commlens.models.blocks import Tokens
from commlens.models.flops import matrix_parameters, model_flops
from commlens.models.gradients import flattened
from commlens.models.kernels import Kernels
from commlens.models.layers import Layers
from commlens.models.library import load_model
from commlens.models.plan import Workload
from commlens.models.software import load_software

MODELS = [
    "llama-3.1-70b",
    "gpt-3-175b",
    "mixtral-8x7b",
    "deepseek-v3",
    "gpt-oss-120b",
    "qwen3-235b-a22b",
    "palm-540b",
]


def layers(model, tp=1, device="h100-sxm", software="megatron-core"):
    return Layers(load_model(model), Kernels(load_device(device), load_software(software), "bf16"), tp)


@pytest.mark.parametrize("model", MODELS)
def test_gemm_flops_are_two_per_active_matrix_parameter_and_token(model):
    made, tokens = layers(model), Tokens(1, 4096, 4096)
    shape = made.model
    flops = sum(
        kernel.flops
        for layer in range(shape.layers)
        for block in made.forward(layer, tokens)
        for kernel in flattened(block.kernels)
        if kernel.shape
    ) + sum(kernel.flops for kernel in made.head(tokens, True) if kernel.shape)
    # norms, biases and sinks are no matrix products: below 0.2 % of the parameters
    assert flops == pytest.approx(2.0 * 4096 * matrix_parameters(shape), rel=2e-3)


@pytest.mark.parametrize("model", MODELS)
def test_tensor_parallel_ranks_share_the_matrix_work(model):
    tokens = Tokens(2, 512, 512)

    def work(tp):
        made = layers(model, tp)
        return sum(k.flops for b in made.forward(made.model.layers - 1, tokens) for k in flattened(b.kernels))

    one, two = work(1), work(2)
    # replicated: latent projections and routers only
    assert one / 2 <= two * (1 + 1e-9) <= one / 2 * 1.25


def test_only_divided_blocks_are_reduced():
    tokens = Tokens(1, 16, 16)
    assert all(block.output_bytes == 0 for block in layers("llama-3.1-70b", 1).forward(0, tokens))
    assert [b.output_bytes for b in layers("llama-3.1-70b", 8).forward(0, tokens)] == [16 * 8192 * 2] * 2


def test_key_value_heads_are_replicated_beyond_their_number():
    wide = layers("llama-3.1-70b", 16)
    assert (wide.heads, wide.kv_heads) == (4, 1)


def test_side_by_side_keeps_the_work_and_drops_a_norm_and_a_launch():
    made, tokens = layers("llama-3.1-70b", 8), Tokens(4, 128, 128)
    attention, mlp = made.forward(0, tokens)
    merged = made.side_by_side(attention, mlp)
    assert sum(k.flops for k in merged.kernels) == pytest.approx(
        sum(k.flops for b in (attention, mlp) for k in b.kernels)
    )
    assert len(merged.kernels) == len(attention.kernels) + len(mlp.kernels) - 1  # norm and a GEMM less, an add more
    assert merged.output_bytes == attention.output_bytes


@pytest.mark.parametrize("model", ["llama-3.1-70b", "mixtral-8x7b"])
def test_backward_is_twice_the_gemm_work(model):
    made, tokens = layers(model, 4), Tokens(1, 2048, 2048)
    for block in made.forward(0, tokens):
        back = made.backward(block)
        forward = sum(k.flops for k in flattened(block.kernels) if k.shape)
        assert sum(k.flops for k in flattened((*back.kernels, *back.deferred)) if k.shape) == pytest.approx(2 * forward)
        assert back.kernels[-1].shape is not None
        again = made.backward(block, made.repeated(block))
        extra = [kernel for kernel in block.kernels if kernel.core]
        assert len(again.kernels) == len(back.kernels) + len(extra)


def test_windows_bound_the_context_attention_sees():
    made = layers("gpt-oss-120b")
    sliding, full = (made.forward(layer, Tokens(1, 1, 8192))[0] for layer in (0, 1))
    assert sum(k.memory_bytes for k in sliding.kernels) < sum(k.memory_bytes for k in full.kernels)


def test_model_flops_of_generate_are_those_of_one_pass_over_all_tokens():
    model = load_model("llama-3.1-8b")
    generate = model_flops(model, Workload("generate", 1000, 24, 3, 3))
    assert generate == model_flops(model, Workload("prefill", 1023, 0, 3, 3))
    assert model_flops(model, Workload("training", 1000, 0, 3, 1)) == 3 * model_flops(
        model, Workload("prefill", 1000, 0, 3, 3)
    )


def test_decode_steps_add_up_to_the_prefill_of_the_same_tokens():
    model = load_model("gpt-oss-120b")  # has windows, which must be counted token by token
    steps = sum(model_flops(model, Workload("decode", length, 0, 1, 1)) for length in range(300))
    attention_to_self = 300 * model.layers * 2 * model.heads * 2 * model.head_dim
    whole = model_flops(model, Workload("prefill", 300, 0, 1, 1))
    assert steps == pytest.approx(whole, abs=attention_to_self)


def test_a_tensor_parallel_mlp_moves_and_computes_what_its_block_says():
    """Executed reference: row- and column-parallel slices whose partial sums equal the whole layer."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    hidden, ffn, tp, rows = 64, 160, 4, 10
    up, gate, down = (torch.randn(ffn, hidden), torch.randn(ffn, hidden), torch.randn(hidden, ffn))
    x = torch.randn(rows, hidden)

    def mlp(u, g, d):
        return (torch.nn.functional.silu(x @ g.T) * (x @ u.T)) @ d.T

    partial = [mlp(u, g, d) for u, g, d in zip(up.chunk(tp), gate.chunk(tp), down.chunk(tp, dim=1), strict=True)]
    torch.testing.assert_close(sum(partial), mlp(up, gate, down), rtol=1e-4, atol=1e-3)
    from dataclasses import replace

    model = replace(load_model("llama-3.1-8b"), hidden=hidden, ffn=ffn, layers=1)
    made = Layers(model, Kernels(load_device("h100-sxm"), load_software("ideal"), "bf16"), tp)
    block = made.forward(0, Tokens(1, rows, rows))[1]
    assert block.output_bytes == partial[0].numel() * 2
    assert [k.shape for k in block.kernels if k.shape] == [
        (rows, 2 * ffn / tp, hidden),
        (rows, hidden, ffn / tp),
    ]


def test_gradients_of_products_with_rows_out_of_step_are_out_of_step_too():
    from dataclasses import replace

    model = replace(load_model("gpt-3-175b"), head_dim=150, v_head_dim=150)
    made = Layers(
        model, Kernels(load_device("a100-80-sxm"), load_software("megatron-deepspeed"), "bf16", True), 8, True
    )
    attention = made.forward(0, Tokens(1, 2048, 2048))[0]
    for found in (attention.kernels, made.backward(attention).kernels):
        core = [kernel for kernel in found if kernel.core and kernel.shape]
        assert len(core) >= 2
        assert not any(kernel.aligned for kernel in core)
        assert all(kernel.aligned for kernel in found if kernel.shape and not kernel.core)


def test_a_sequence_that_is_not_outermost_is_copied_around_its_exchanges():
    from commlens.models.plan import Division

    device, tokens = load_device("h100-sxm"), Tokens(2, 1024, 1024)

    def traffic(copies, sequence_parallel):
        software = load_software({"preset": "torchtitan-2025", "gather_copies": copies})
        kernels = Kernels(device, software, "bf16", training=True)
        made = Layers(
            load_model("llama-3.1-8b"), kernels, Division(4, etp=4, sequence_parallel=sequence_parallel), training=True
        )
        block = made.forward(0, tokens)[1]
        return [
            sum(k.memory_bytes for k in found.kernels if k.shape is None and hasattr(k, "memory_bytes"))
            for found in (block, made.backward(block))
        ]

    copied = 4 * tokens.rows * 4096 * 2  # gathered and scattered, each read and written
    plain, more = traffic(False, True), traffic(True, True)
    assert [b - a for a, b in zip(plain, more, strict=True)] == pytest.approx([copied, copied])
    assert traffic(True, False) == traffic(False, False)
