"""Linear attention: kernels count what the blockwise algorithm does, and models may have it in some layers or all."""

import numpy as np
import pytest

import commlens as cl
from commlens import InputError
from commlens.hardware import load_cluster
from commlens.models.architecture import STATE_BYTES
from commlens.models.blocks import Attend
from commlens.models.flops import matrix_parameters, model_flops
from commlens.models.kernels import Kernels
from commlens.models.library import load_model
from commlens.models.linear_attention import BLOCK, parts, state_bytes, whole
from commlens.models.software import load_software
from commlens.models.training.stages import kinds

A100 = load_cluster("dgx-a100").device
HEADS, GROUPS, WIDTH, VALUES = 4, 2, 8, 16


def kernels(dtype="bf16"):
    return Kernels(A100, load_software("ideal"), dtype, training=True)


def core(tokens, direction="forward", batch=1, **shape):
    wide = {"heads": HEADS, "kv_heads": GROUPS, "head_dim": WIDTH, "value_dim": VALUES} | shape
    return Attend(batch, tokens, 4 * tokens, **wide, linear=True, direction=direction)


class Counted:
    """Matrix products with their arithmetic added up by name."""

    def __init__(self):
        self.flops = {}

    def __call__(self, part, a, b):
        self.flops[part] = self.flops.get(part, 0) + 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return a @ b


def blockwise(times, q, k, v, before):
    """Outputs of one chunk, blocks of tokens and their running states, and its own state."""
    blocks = range(0, q.shape[1], BLOCK)
    own = {g: [times("state", k[g, i : i + BLOCK].T, v[g, i : i + BLOCK]) for i in blocks] for g in range(GROUPS)}
    out = np.zeros((HEADS, q.shape[1], VALUES))
    for head in range(HEADS):
        group = head // (HEADS // GROUPS)
        running = np.zeros((WIDTH, VALUES))
        for index, i in enumerate(blocks):
            rows = slice(i, i + BLOCK)
            scores = np.tril(times("intra", q[head, rows], k[group, rows].T))
            out[head, rows] = times("intra", scores, v[group, rows]) + times("intra", q[head, rows], running)
            running = running + own[group][index]
        out[head] += times("inter", q[head], before[group])
    return out, np.stack([sum(own[g]) for g in range(GROUPS)])


def test_chunks_and_their_states_are_causal_linear_attention_and_counted_exactly():
    rng, tokens, chunks = np.random.default_rng(0), 2 * BLOCK, 3
    length = tokens * chunks
    q, k, v = (rng.normal(size=(n, length, w)) for n, w in ((HEADS, WIDTH), (GROUPS, WIDTH), (GROUPS, VALUES)))
    before, found = np.zeros((GROUPS, WIDTH, VALUES)), []
    for rank in range(chunks):
        mine, times = slice(rank * tokens, (rank + 1) * tokens), Counted()
        out, state = blockwise(times, q[:, mine], k[:, mine], v[:, mine], before)
        found.append(out)
        before = before + state
        assert state.nbytes / 8 * STATE_BYTES == state_bytes(core(tokens))
        made = parts(core(tokens), kernels())
        for name in ("state", "intra", "inter"):
            assert sum(kernel.flops for kernel in getattr(made, name)) == times.flops[name]
    direct = [np.tril(q[h] @ k[h // 2].T) @ v[h // 2] for h in range(HEADS)]
    np.testing.assert_allclose(np.concatenate(found, axis=1), direct, atol=1e-9)


def test_backward_products():
    """By head: five products within blocks, three with the states of blocks around, three with those of chunks."""
    tokens = 2 * BLOCK
    made = parts(core(tokens, "backward"), kernels())
    state = 2 * tokens * WIDTH * VALUES
    assert sum(kernel.flops for kernel in made.state) == (GROUPS + HEADS) * state
    within = 2 * tokens * BLOCK * HEADS * (3 * WIDTH + 2 * VALUES) + (HEADS + 2 * GROUPS) * state
    assert [kernel.flops for kernel in made.intra] == [within, HEADS * state]
    assert sum(kernel.flops for kernel in made.inter) == 2 * GROUPS * state


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_time_grows_with_tokens_not_with_their_square(direction):
    short, long = (sum(k.time for k in whole(core(n, direction), kernels())) for n in (4096, 65_536))
    assert long == pytest.approx(16 * short, rel=1e-9)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_arrays_give_what_scalars_give(direction):
    lengths = np.array([48.0, 128.0, 1000.0, 65_536.0])
    many = parts(core(lengths, direction), kernels())
    for index, tokens in enumerate(lengths):
        one = parts(core(float(tokens), direction), kernels())
        for name in ("state", "intra", "inter"):
            for ours, theirs in zip(getattr(many, name), getattr(one, name), strict=True):
                for field in ("flops", "memory_bytes", "time"):
                    value = np.broadcast_to(getattr(ours, field), lengths.shape)[index]
                    assert value == pytest.approx(getattr(theirs, field), rel=1e-12)


def test_a_token_updates_and_reads_the_state():
    (step,) = whole(core(1, batch=3), kernels())
    assert step.memory_bytes == 2 * state_bytes(core(1, batch=3))
    assert step.flops == 2 * 3 * (HEADS + GROUPS) * WIDTH * VALUES


# -- models -------------------------------------------------------------------------------------------------


def test_presets():
    pure, hybrid = load_model("linear-llama3-1b"), load_model("linear-llama3-1b-hybrid")
    assert pure.parameters() == hybrid.parameters() == pytest.approx(1.236e9, rel=1e-3)
    assert load_model("linear-llama3-8b").parameters() == load_model("llama-3.1-8b").parameters()
    assert pure.linear_layers == (True,) * 16
    assert hybrid.linear_layers == (True, True, True, False) * 4
    assert [int(kind.members.sum()) for kind in kinds(hybrid)] == [12, 4]


def test_layers_by_name_and_by_pattern_are_the_same():
    names = ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 8
    by_name, by_pattern = (load_model({"preset": "llama-3.1-8b", "layer_types": t}) for t in (names, "LLLN"))
    assert by_name == by_pattern
    assert load_model({"preset": "llama-3.1-8b", "layer_types": "N"}).linear_layers == ()


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ("LLLNN", "does not repeat to num_hidden_layers 32 (legal: a length that divides 32)"),
        ("LXN", "legal: L for linear and N for softmax"),
        ("", "legal: L for linear and N for softmax"),
        (["linear_attention"] * 31, "31 entries for num_hidden_layers 32 (legal: 32 entries)"),
        (["linear"] * 32, "layer_types"),
        (3, "layer_types"),
    ],
)
def test_bad_layer_types_are_one_line(types, said):
    with pytest.raises(InputError) as error:
        load_model({"preset": "llama-3.1-8b", "layer_types": types})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_cache_is_a_state_however_long():
    pure, hybrid = load_model("linear-llama3-1b"), load_model("linear-llama3-1b-hybrid")
    state = 8 * 64 * 64 * STATE_BYTES
    assert pure.kv_cache_bytes(10) == pure.kv_cache_bytes(10_000) == 16 * state
    assert hybrid.kv_cache_bytes(1000) == 12 * state + 4 * 1000 * 2 * 8 * 64 * 2


def scenario(model, phase="training", length=8192, **more):
    return cl.Scenario.from_dict(
        {
            "model": model,
            "cluster": "dgx-a100",
            "workload": {"phase": phase, "sequence_length": length, "global_batch": more.pop("batch", 1)},
            **more,
        }
    )


def test_model_flops_by_hand():
    case = scenario("linear-llama3-1b", "prefill", 5000)
    attention = 2 * 16 * (32 + 8) * 64 * 64
    assert model_flops(case.model, case.workload) == 5000 * (2 * matrix_parameters(case.model) + attention)


def test_a_decode_step_does_not_feel_the_context():
    near, far = (cl.estimate(scenario("linear-llama3-1b", "decode", n)) for n in (1000, 1_000_000))
    assert far.time_s == near.time_s
    assert far.memory_bytes["kv_cache"] == near.memory_bytes["kv_cache"] == 16 * 8 * 64 * 64 * STATE_BYTES


def test_hybrids_lie_between():
    times = {}
    for pattern in ("L", "LLLN", "N"):
        model = {"preset": "linear-llama3-1b", "layer_types": pattern}
        software = {"preset": "torch-compile", "attention": "flash"}
        times[pattern] = {
            phase: cl.estimate(scenario(model, phase, 65_536, **({"software": software} if extra else {}))).time_s
            for phase, extra in (("training", False), ("prefill", True))
        }
    for phase in ("training", "prefill"):
        pure, hybrid, softmax = (times[pattern][phase] for pattern in ("L", "LLLN", "N"))
        assert hybrid == pytest.approx(0.75 * pure + 0.25 * softmax, rel=1e-6)
        assert pure < hybrid


def test_search_says_what_an_estimate_says():
    case = scenario("linear-llama3-1b-hybrid", length=32_768, batch=8)
    table = cl.search(case, devices=8)
    assert set(table["cp"]) > {1, 2}
    keys = ("tp", "pp", "dp", "cp", "vp", "zero", "recompute", "offload", "schedule", "sequence_parallel", "placement")
    for _, row in table.iloc[:: max(1, len(table) // 6)].iterrows():
        plan = {f"plan.{key}": getattr(row[key], "item", lambda value=row[key]: value)() for key in keys}
        plan |= {"workload.micro_batch": int(row["micro_batch"])}
        # Of many plans at once products count each operand once, of one plan what the cache cannot hold twice.
        assert cl.estimate(case.replace(plan)).time_s == pytest.approx(row["time_s"], rel=1e-3)
