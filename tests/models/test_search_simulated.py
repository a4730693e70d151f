"""The closed form that ranks plans agrees with the simulation of their steps."""

import numpy as np
import pytest

from commlens import Scenario, estimate, search, simulate
from commlens.models.search.enumerate import layouts, rows_of
from commlens.models.search.evaluate import Block
from commlens.models.search.rank import Board, Ranked
from commlens.models.search.space import space_of
from commlens.models.search.table import frame_of, planned

GPT = {
    "model": "gpt-3-175b",
    "cluster": {"preset": "dgx-a100", "nodes": 128},
    "workload": {"phase": "training", "sequence_length": 2048, "global_batch": 1536, "micro_batch": 1},
}
MOST_PASSES = 10_000  # stages x chunks x micro-batches of a plan that is simulated here


def random_plans(case, devices, count, seed):
    """Plans that fit, every choice as likely as any other, and its plans too."""
    rng = np.random.default_rng(seed)
    space = space_of(case, (devices,))
    block = Block(case, space, rows_of(space, layouts(space)))
    found = Ranked.none()
    while len(found.score) < count:
        number = int(rng.integers(len(space.choices)))
        for tried, costed in block.costed(space.choices[number], case.cluster.device.memory_capacity):
            board = Board(keep=1_000_000, by="time")
            board.offer(tried, costed, number)
            some = board.top
            passes = some.keys[:, 1] * some.keys[:, 6] * (1536 / (some.keys[:, 2] * some.keys[:, 7]))
            some = some.some(passes <= MOST_PASSES)
            if len(some.score):
                found = found.and_(some.some(rng.integers(len(some.score), size=1)))
    return frame_of(case, space.choices, found.some(slice(None, count)))


@pytest.mark.slow
@pytest.mark.xfail(
    reason="dualpipe, and messages of every micro-batch (ZeRO-2 and 3): closed forms are cruder", strict=False
)
def test_estimates_of_random_plans_are_within_5_percent_of_their_simulation():
    case = Scenario.from_dict(GPT)
    frame = random_plans(case, 1024, 200, seed=0)
    errors = []
    for row in frame.to_dict("records"):
        one = planned(case, row)
        errors.append(estimate(one).time_s / simulate(one).time_s - 1)
    frame["error"] = errors
    size = np.abs(errors)
    print(frame.groupby(["schedule", "zero"])["error"].agg(["count", "mean", "min", "max"]).to_string())
    print("median", np.median(size), "80 %", np.quantile(size, 0.8), "largest", size.max())
    print(frame.loc[size > 0.05, ["tp", "pp", "cp", "dp", "vp", "micro_batch", "schedule", "sequence_parallel", "zero",
                                  "recompute", "time_s", "error"]].sort_values("error").to_string())  # fmt: skip
    assert size.max() <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("devices", [256, 1024, 4096])
def test_the_best_plan_is_within_3_percent_of_its_simulation(devices):
    case = Scenario.from_dict(GPT)
    frame = search(case, devices, keep=3, simulate=1)
    print(
        frame[["tp", "pp", "cp", "dp", "vp", "micro_batch", "schedule", "time_s", "simulated_time_s"]]
        .head(1)
        .to_string()
    )
    assert frame["simulated_time_s"][0] == pytest.approx(frame["time_s"][0], rel=0.03)
