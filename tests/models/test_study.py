"""What a scenario can be asked with, and what a comparison of all of it says."""

import pytest

import commlens as cl
from commlens.models.study import applicable

PREFILL = {
    "model": "llama-3.1-8b",
    "cluster": "dgx-h100",
    "plan": {"cp": 8},
    "workload": {"phase": "prefill", "sequence_length": 32768, "global_batch": 1},
}


@pytest.mark.parametrize("degree", [8, 3])
def test_whatever_is_applicable_can_be_compared(degree):
    """Some techniques refuse a scenario only when they are built: ulysses three ranks for 32 heads."""
    cluster = {"preset": "dgx-h100", "devices_per_node": degree}
    case = cl.Scenario.from_dict(PREFILL).replace({"plan.cp": degree, "cluster": cluster})
    names = applicable(case)
    assert {"baseline", "ring_attention", "gathered_kv"} <= set(names)
    assert not {"lasp", "lasp2", "deepep"} & set(names)
    assert ("ulysses" in names) == (degree == 8)
    assert cl.compare(case, names, engine="estimate")["time_s"].gt(0).all()
