"""Published plans stand among the best that fit, and the report says why better ones are better."""

import pytest

from commlens import InputError, Scenario, estimate, search
from commlens.models.search.report import CAUSES, explain

TRILLION = {
    "model_type": "gpt2",
    "n_embd": 25600,
    "n_layer": 128,
    "n_head": 160,
    "n_positions": 2048,
    "vocab_size": 51200,
    "tie_word_embeddings": True,
}
# What Megatron-LM of 2021 and of 2022 could run. Attention is not fused in either, and no optimizer was offloaded.
SCHEDULES = ["gpipe", "1f1b", "interleaved"]
IN_2021 = {"sequence_parallel": False, "zero": 0, "cp": 1, "schedule": SCHEDULES, "offload": "none"}
IN_2022 = {"zero": 0, "cp": 1, "schedule": SCHEDULES, "offload": "none"}
META = {"schedule": SCHEDULES, "offload": "none"}

SELECTIVE = {"recompute": "selective", "sequence_parallel": True}
# (model, cluster, nodes, length, batch, software, plan): the degrees as published; vp where it is known.
PUBLISHED = {
    # Korthikanti et al., arXiv 2205.05198, tables 3 and 5 (vp of the 175B row recalled).
    "175B 2022": ("gpt-3-175b", "dgx-a100", 8, 2048, 64, "megatron-2021", {"tp": 8, "pp": 8, "vp": 3, **SELECTIVE}),
    "1T 2022": (TRILLION, "dgx-a100", 64, 2048, 512, "megatron-2021", {"tp": 8, "pp": 64, **SELECTIVE}),
    # Narayanan et al., arXiv 2104.04473, table 1 (interleaving degree not given).
    "1T 2021": (TRILLION, "dgx-a100", 384, 2048, 3072, "megatron-2021",
                {"tp": 8, "pp": 64, "dp": 6, "vp": 2, "recompute": "full"}),
    # Narayanan et al., table 2 (recalled): 1536 sequences.
    "175B 2021, 384": ("gpt-3-175b", "dgx-a100", 48, 2048, 1536, "megatron-2021",
                       {"tp": 8, "pp": 12, "dp": 4, "vp": 4, "recompute": "full"}),
    "175B 2021, 768": ("gpt-3-175b", "dgx-a100", 96, 2048, 1536, "megatron-2021",
                       {"tp": 8, "pp": 12, "dp": 8, "vp": 4, "recompute": "full"}),
    # Llama 3, arXiv 2407.21783, table 4 and section 3.3.2: 16 million tokens, FSDP whose weights stay
    # (ZeRO-2 of gradients and optimizer), interleaved; vp 7 has one layer, or two, per chunk.
    "405B": ("llama-3.1-405b", "dgx-h100", 2048, 8192, 2048, "megatron-core",
             {"tp": 8, "pp": 16, "dp": 128, "vp": 7, "sequence_parallel": True, "zero": 2}),
}  # fmt: skip


def published(name):
    model, cluster, nodes, length, batch, software, plan = PUBLISHED[name]
    return Scenario.from_dict(
        {
            "model": model,
            "cluster": {"preset": cluster, "nodes": nodes},
            "workload": {"phase": "training", "sequence_length": length, "global_batch": batch, "micro_batch": 1},
            "plan": plan,
            "software": software,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "asked", "share"),
    [
        ("175B 2022", None, 0.05),
        ("175B 2022", IN_2022, 0.05),
        ("1T 2022", None, 0.05),
        ("1T 2022", IN_2022, 0.05),
        ("1T 2021", None, 0.05),
        ("1T 2021", {**IN_2021, "recompute": ["none", "full"]}, 0.05),
        ("405B", None, 0.05),
        ("405B", META, 0.05),
        # Every layer was recomputed then, with model parallelism of 96 held from 384 to 1536 GPUs. Where
        # that is open, plans rank before it that recompute nothing. They fit by Korthikanti's count, at 77 of
        # 80 GB; a bound that refused them for what an allocator holds beyond it would refuse published runs
        # too, 2022 and 1T of 2021. So 0.05 is not reached on 384, and the report names recomputation.
        ("175B 2021, 384", None, 0.15),
        ("175B 2021, 384", {**IN_2021, "recompute": ["none", "full"]}, 0.08),
        ("175B 2021, 384", {**IN_2021, "recompute": "full"}, 0.08),
        ("175B 2021, 768", None, 0.10),
        ("175B 2021, 768", {**IN_2021, "recompute": ["none", "full"]}, 0.05),
        ("175B 2021, 768", {**IN_2021, "recompute": "full"}, 0.05),
    ],
)
def test_published_plans_stand_among_the_best_that_fit(name, asked, share):
    found = explain(published(name), space=asked)
    print(found)
    assert found.share <= share
    if found.rank > 1:
        assert found.frame["gains_by"].iloc[1:].str.len().gt(0).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_plans_fit(name):
    assert estimate(published(name)).fits


def test_what_would_not_recompute_in_2021_fits_by_korthikanti():
    """Section 4: s b h (10 + 24 / t + 5 a s / (h t)) a layer, in as many micro-batches as there are stages."""
    plan = {"tp": 8, "pp": 24, "dp": 2, "vp": 1, "recompute": "none"}
    case = published("175B 2021, 384").replace({"plan": plan, "workload.global_batch": 1536})
    tensor, heads, hidden, length = 2048 * 12288, 96, 12288, 2048
    layer = tensor * (10 + 24 / 8 + 5 * heads * length / hidden / 8)
    found = estimate(case)
    assert found.memory_bytes["activations"] == pytest.approx(24 * 4 * layer, rel=1e-9)
    assert found.fits


@pytest.mark.slow
def test_better_than_2021_is_less_recomputation():
    found = explain(published("175B 2021, 384"))
    assert "recompute full -> " in found.frame["gains_by"].iloc[1]


SMALL = {
    "model": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 32000,
    },
    "cluster": {"preset": "dgx-a100", "nodes": 1},
    "workload": {"phase": "training", "sequence_length": 1024, "global_batch": 16, "micro_batch": 1},
}
ASKED = {"zero": [0, 1], "recompute": ["none", "full"], "offload": "none", "cp": 1}


def test_rank_is_the_place_in_the_whole_table():
    case = Scenario.from_dict(SMALL)
    every = search(case, 8, keep=100_000, space=ASKED)
    for place in (0, 7, 200):
        row = every.iloc[place].to_dict()
        found = explain(case, row, space=ASKED)
        first = int((every["time_s"] < row["time_s"] * (1 - 1e-9)).sum())
        assert found.rank == first + 1
        assert found.fits == len(every)
        assert found.frame["time_s"].iloc[0] == pytest.approx(row["time_s"], rel=1e-9)
        assert len(found.frame) == min(5, first) + 1


def test_causes_add_up_and_name_what_differs():
    case = Scenario.from_dict({**SMALL, "plan": {"tp": 8, "recompute": "full"}})
    found = explain(case, space=ASKED)
    frame = found.frame
    assert frame[list(CAUSES)].sum(axis=1).to_numpy() == pytest.approx(frame["time_s"].to_numpy(), rel=1e-9)
    assert "recompute full -> none" in str(found)
    assert f"rank {found.rank:,} of {found.fits:,}" in found.text
    best = explain(case, search(case, 8, space=ASKED).iloc[0].to_dict(), space=ASKED)
    assert best.rank == 1
    assert len(best.frame) == 1


def test_a_plan_outside_the_space_is_ranked_too():
    case = Scenario.from_dict({**SMALL, "plan": {"tp": 2, "dp": 4, "recompute": "selective"}})
    found = explain(case, space=ASKED)
    assert found.frame["recompute"].iloc[0] == "selective"
    assert 1 <= found.rank <= found.fits + 1


def test_only_training_is_explained():
    case = Scenario.from_dict({**SMALL, "workload": {"phase": "prefill", "sequence_length": 64, "global_batch": 8}})
    with pytest.raises(InputError, match="legal: training"):
        explain(case)
