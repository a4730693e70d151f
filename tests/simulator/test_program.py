"""Programs refuse what cannot run, and print and count what they hold."""

import math

import pytest

from commlens.simulator import Program


def test_duration_defaults_to_the_scarcest_resource() -> None:
    program = Program()
    link, memory = program.resource("link", 10.0), program.resource("memory", 100.0)
    task = program.add("x", kind="communication", demand={link: 20.0, memory: 30.0})
    assert program.tasks[task].duration == 2.0
    assert program.totals() == {"link": 20.0, "memory": 30.0}


def test_resources_are_declared_once() -> None:
    program = Program()
    assert program.resource("link", 10.0) == program.resource("link", 10.0) == "link"
    with pytest.raises(ValueError, match="declared with 10"):
        program.resource("link", 11.0)
    for capacity in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="legal"):
            program.resource("other", capacity)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "compue"}, "legal: compute"),
        ({"after": 0}, "after 0"),
        ({"after": [-1]}, "after -1"),
        ({"demand": {"nowhere": 1.0}}, "never declared"),
        ({"demand": {"link": -1.0}}, "0 or more"),
        ({"demand": {"link": math.nan}}, "0 or more"),
        ({"demand": {"link": 20.0}, "duration": 1.9}, "2.0 s or more"),
        ({"duration": math.inf}, "finite"),
        ({"duration": math.nan}, "finite"),
        ({"latency": -1e-9}, "latency"),
        ({"latency": math.nan}, "latency"),
        ({"weight": 0.0}, "weight"),
    ],
)
def test_illegal_tasks_are_refused(change: dict[str, object], message: str) -> None:
    program = Program()
    program.resource("link", 10.0)
    with pytest.raises(ValueError, match=message):
        program.add("x", **{"kind": "compute", **change})  # type: ignore[arg-type]
    assert program.count == 0


def test_prints_and_checks() -> None:
    program = Program("steps")
    program.resource("link", 10.0)
    first = program.add("send", kind="communication", demand={"link": 20.0}, communication_bytes=20.0)
    program.add("gemm", kind="compute", rank=1, after=first, duration=0.5)
    assert program.check() is program
    assert "2 tasks on 2 streams, 1 resources" in str(program)
    assert "link=20" in str(program)
    assert program.tasks[0].info["communication_bytes"] == 20.0
    assert len(program) == program.count == 2
    for _ in range(60):
        program.add("more", kind="sync")
    assert "and 12 more" in str(program)


def test_a_stream_is_in_order_and_a_doubled_dependency_counts_once_per_mention() -> None:
    program = Program()
    first = program.add("a", kind="compute", duration=1.0)
    program.add("b", kind="compute", after=[first, first], duration=1.0)
    assert program.predecessors == [-1, 0]
    assert program.waits == [0, len(program.successors[0])]
