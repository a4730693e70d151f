"""Schedules of a pipeline, their closed forms, and the program that plays them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.hardware.errors import InputError
from commlens.models.pipeline.closed_form import joined_passes, joint_gain, pipeline_time
from commlens.models.pipeline.orders import SCHEDULES, SPLIT, check, held, in_flight, legal, order
from commlens.models.pipeline.piece import Chunk, Piece, Pipeline, total
from commlens.models.pipeline.program import joint, pipeline_program
from commlens.models.training.cost import Cost, Ports
from commlens.models.training.overlap import covered, unwaited
from commlens.simulator import Program, critical_path_time, run


def pipeline(schedule, forward, backward, weight, batches, transfer=0.0, overlap=(), **options):
    """Pipeline of the given seconds, ``[stage][chunk]``."""
    split = schedule in SPLIT

    def chunk(f, b, w):
        return Chunk((Piece(f),), (Piece(b if split else b + w),), (Piece(w),) if split else ())

    chunks = tuple(
        tuple(chunk(*times) for times in zip(*stage, strict=True))
        for stage in zip(forward, backward, weight, strict=True)
    )
    update = tuple(Piece(0.0) for _ in chunks)
    return Pipeline(chunks, batches, schedule, Piece(transfer), update, overlap=frozenset(overlap), **options)


def seconds(*args, **options):
    return critical_path_time(pipeline_program(pipeline(*args, **options), {}))


def even(schedule, pp, vp, batches, **options):
    chunks = 2 if schedule == "dualpipe" else vp
    ones = [[1.0] * chunks for _ in range(pp)]
    return seconds(schedule, ones, ones, ones, batches, **options)


SHAPES = st.tuples(st.sampled_from(SCHEDULES), st.integers(1, 8), st.integers(1, 4), st.integers(1, 24)).filter(
    lambda shape: bool(legal(*shape))
)


@given(SHAPES)
@settings(max_examples=200, deadline=None)
def test_every_pass_runs_once_and_no_stage_waits_for_ever(shape):
    schedule, pp, vp, batches = shape
    for stage in range(pp):
        slots = order(schedule, pp, vp, stage, batches)
        assert len({slot[:3] for slot in slots}) == len(slots)
        chunks = 1 if schedule == "dualpipe" else vp
        assert len(slots) == batches * chunks * (3 if schedule in SPLIT else 2)
        for slot in slots:
            if slot.kind == "B":
                before = [s[:3] for s in slots[: slots.index(slot)]]
                assert ("F", slot.chunk, slot.micro_batch) in before
        assert held(slots) == in_flight(schedule, pp, vp, stage, batches)
    assert even(*shape) >= batches * 3 * (1 if schedule == "dualpipe" else vp)


@pytest.mark.parametrize(
    ("schedule", "pp", "vp", "batches", "bubble"),
    [
        ("gpipe", 4, 1, 8, 3 * 3),
        ("1f1b", 4, 1, 8, 3 * 3),
        ("1f1b", 8, 1, 4, 7 * 3),
        ("interleaved", 4, 2, 8, 3 * 3),  # of a step twice as long: half the share
        ("zero-bubble", 4, 1, 8, 3 * 1),  # (pp - 1)(F + B - W), arXiv 2401.10241
        ("dualpipe", 8, 1, 16, 3 * 2),  # (pp / 2 - 1)(F&B + B - 3 W), arXiv 2412.19437, B the whole backward pass
    ],
)
def test_bubbles_are_those_of_the_papers(schedule, pp, vp, batches, bubble):
    assert even(schedule, pp, vp, batches) - 3 * vp * batches == pytest.approx(bubble)


STAGES = st.integers(1, 8).flatmap(
    lambda pp: st.tuples(
        st.just(pp), st.lists(st.integers(2, 5), min_size=pp, max_size=pp), st.floats(0.8, 1.3), st.floats(0.7, 1.0)
    )
)


@given(st.sampled_from(["gpipe", "1f1b", "zero-bubble"]), STAGES, st.integers(1, 32))
@settings(max_examples=150, deadline=None)
def test_closed_form_is_near_the_program(schedule, shape, batches):
    pp, sizes, backward, weight = shape
    times = [[[size * part] for size in sizes] for part in (1.0, backward, weight)]
    stages = [tuple(part[stage][0] for part in times) for stage in range(pp)]
    if schedule not in SPLIT:
        stages = [(f, b + w, 0.0) for f, b, w in stages]
    whole = tuple(map(sum, zip(*stages, strict=True)))
    before = [sum(map(sum, stages[:stage])) for stage in range(pp)]
    closed = pipeline_time(schedule, pp, 1, batches, whole, stages, before, max(map(sum, stages)), 0.0, True)
    assert float(closed) == pytest.approx(
        seconds(schedule, *times, batches), rel=0.25 if schedule == "zero-bubble" else 0.15
    )


@given(st.sampled_from(["gpipe", "1f1b", "interleaved"]), st.integers(1, 8), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_closed_form_of_even_stages_is_exact(schedule, pp, vp, rounds):
    vp = vp if schedule == "interleaved" else 1
    batches = rounds * pp
    stage = (1.0 * vp, 2.0 * vp, 0.0)
    whole = tuple(part * pp for part in stage)
    closed = pipeline_time(
        schedule, pp, vp, batches, whole, [stage] * pp, [3.0 * vp * s for s in range(pp)], 3.0, 0.0, True
    )
    assert float(closed) == pytest.approx(even(schedule, pp, vp, batches), rel=1e-9)


def test_closed_form_takes_arrays():
    pp, batches = np.array([2, 4, 8]), np.array([4, 8, 8])
    stage = (np.ones(3), np.full(3, 2.0), np.zeros(3))
    whole = tuple(part * pp for part in stage)
    found = pipeline_time("1f1b", pp, 1, batches, whole, [stage, stage], [0 * pp, 3.0 * (pp - 1)], 3.0, 0.0, True)
    assert found == pytest.approx([even("1f1b", p, 1, m) for p, m in zip(pp, batches, strict=True)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_slower_messages_are_never_faster_and_blocking_ones_never_faster_than_covered(schedule):
    times = [even(schedule, 4, 1, 8, transfer=c) for c in (0.0, 0.1, 0.3)]
    assert times == sorted(times)
    assert even(schedule, 4, 1, 8, transfer=0.3, overlap=("pipeline",)) <= times[-1]


def test_gradients_wait_for_their_layer_and_the_update_for_all_gradients():
    chunk = Chunk((Piece(1.0), Piece(1.0)), (Piece(2.0), Piece(2.0)), scatter=(Piece(3.0), Piece(3.0)))
    make = dict(chunks=((chunk,),), micro_batches=2, schedule="1f1b", transfer=Piece(0.0), update=(Piece(0.5),))
    bare = run(pipeline_program(Pipeline(**make), {}))
    assert bare.makespan == pytest.approx(2 * 6 + 6 + 0.5)
    hidden = run(pipeline_program(Pipeline(**make, overlap=frozenset({"gradients"})), {}))
    assert hidden.makespan == pytest.approx(12 - 2 + 6 + 0.5)  # the first of two runs under the last backward


def test_weights_are_gathered_one_layer_ahead():
    chunk = Chunk((Piece(2.0),) * 4, (Piece(4.0),) * 4, gather=(Piece(1.0),) * 4, scatter=(Piece(1.0),) * 4)
    make = dict(chunks=((chunk,),), micro_batches=1, schedule="1f1b", transfer=Piece(0.0), update=(Piece(0.0),))
    each = Pipeline(**make, gather_each=True, scatter_each=True, overlap=frozenset({"gradients", "parameters"}))
    assert run(pipeline_program(each, {})).makespan == pytest.approx(1 + 8 + 16 + 1)
    exposed = Pipeline(**make, gather_each=True, scatter_each=True)
    assert run(pipeline_program(exposed, {})).makespan == pytest.approx(24 + 8 + 4)


def test_messages_that_share_a_port_slow_each_other():
    busy = Piece(1.0, {"nic": 60.0}, sent={"all_to_all": 60.0})
    chunk = Chunk((busy,), (Piece(1.0),), gather=(Piece(1.0, {"nic": 80.0}),))
    make = dict(chunks=((chunk,),), micro_batches=1, schedule="1f1b", transfer=Piece(0.0), update=(Piece(0.0),))
    step = Pipeline(**make, overlap=frozenset({"parameters"}))
    alone = run(pipeline_program(step, {"nic": 1e9})).makespan
    assert alone == pytest.approx(3.0)
    two = Chunk((busy, busy), (Piece(1.0),), gather=(Piece(0.0), Piece(1.0, {"nic": 80.0})))
    step = Pipeline(**{**make, "chunks": ((two,),)}, overlap=frozenset({"parameters"}))
    crowded = run(pipeline_program(step, {"nic": 100.0})).makespan
    assert crowded == pytest.approx(1.2 + 0.25 + 2.0)  # each gets 50, then the gather its 80


def test_divided_weights_and_gradients_take_turns_on_one_communicator():
    nic = {"nic": 90.0}
    chunk = Chunk((Piece(1.0),) * 6, (Piece(2.0),) * 6, gather=(Piece(1.5, nic),) * 6, scatter=(Piece(3.0, nic),) * 6)
    make = dict(chunks=((chunk,),), micro_batches=1, schedule="1f1b", transfer=Piece(0.0), update=(Piece(0.0),))
    step = Pipeline(**make, gather_each=True, scatter_each=True, overlap=frozenset({"gradients", "parameters"}))
    ends = run(pipeline_program(step, {"nic": 100.0})).makespan
    # 12 gathers and 6 reductions one after the other, but for the time before the first gradient is there.
    assert ends == pytest.approx(12 * 1.5 + 6 * 3.0, rel=0.06)
    assert ends >= 12 * 1.5 + 6 * 3.0


SHARES = st.tuples(*[st.floats(0.05, 1.0)] * 3)


@given(SHARES, SHARES, st.floats(0.1, 10.0), st.floats(0.1, 10.0))
@settings(max_examples=200, deadline=None)
def test_two_at_once_take_what_the_simulator_gives_them(ours, theirs, work, busy):
    ports = Ports(50.0, 20.0)

    def cost(time, shares, **more):
        return Cost(time=time, sm_time=shares[0] * time, link_bytes=shares[1] * 50.0 * time,
                    nic_bytes=shares[2] * 20.0 * time, **more)  # fmt: skip

    compute, beside = cost(work, ours, compute=work), cost(busy, theirs)
    units = 1 - theirs[0] * (1 - ours[0])  # kernels and the messages among them take turns
    program = Program("two")
    for name, capacity in (("sm", 1.0), ("link", 50.0), ("nic", 20.0)):
        program.resource(name, capacity)
    for one, sm in ((compute, units), (beside, theirs[0])):
        asked = {"sm": sm * one.time, "link": one.link_bytes, "nic": one.nic_bytes}
        program.add("x", kind="compute", rank=0, stream=str(sm) + str(one is beside), duration=one.time, demand=asked)
    trace = run(program)
    assert float(covered(compute, beside, ports).time) == pytest.approx(trace.makespan, rel=1e-6)
    assert float(unwaited(compute, beside, ports)) == pytest.approx(trace.end[0], rel=1e-6)


@pytest.mark.parametrize("pp", [4, 8, 16])
@pytest.mark.parametrize("rounds", [1, 1.5, 2, 4, 8])
def test_closed_form_of_even_dualpipe_is_near_the_program(pp, rounds):
    batches = int(rounds * pp)
    closed = pipeline_time("dualpipe", pp, 1, batches, (pp, pp, pp), [(1.0, 1.0, 1.0)], [0.0], 3.0, 0.0, True)
    assert float(closed) == pytest.approx(even("dualpipe", pp, 1, batches), abs=1.0 + 1e-9)
    chunk = Chunk((Piece(1.0, exposed=0.3),), (Piece(1.0, exposed=0.3),), (Piece(1.0),))
    make = dict(chunks=((chunk, chunk),) * pp, micro_batches=batches, schedule="dualpipe", transfer=Piece(0.0))
    joined = critical_path_time(pipeline_program(Pipeline(**make, update=(Piece(0.0),) * pp), {}))
    assert even("dualpipe", pp, 1, batches) - joined == pytest.approx(
        0.6 * float(joined_passes("dualpipe", pp, 1, batches))
    )


@pytest.mark.parametrize("pp", [1, 2, 4, 8])
@pytest.mark.parametrize("vp", [1, 2, 3])
@pytest.mark.parametrize("rounds", [2, 3, 6])
def test_closed_form_of_combined_passes_is_near_the_program(pp, vp, rounds):
    batches = rounds * pp
    chunk = Chunk((Piece(1.0, exposed=0.3),), (Piece(2.0, exposed=0.3),))
    joined = critical_path_time(
        pipeline_program(Pipeline(((chunk,) * vp,) * pp, batches, "combined-1f1b", Piece(0.0), (Piece(0.0),) * pp), {})
    )
    share = float(joined_passes("combined-1f1b", pp, vp, batches)) / batches
    stage = (vp * (1 - 0.6 * share), 2.0 * vp, 0.0)
    alone = (float(vp), 2.0 * vp, 0.0)  # the other stages fill and drain with passes of their own
    whole = tuple((own + (pp - 1) * other) for own, other in zip(stage, alone, strict=True))
    closed = pipeline_time("combined-1f1b", pp, vp, batches, whole, [stage] * pp, [0.0] * pp, 3.0, 0.0, True)
    assert float(closed) == pytest.approx(joined, rel=0.02)
    assert joined < even("interleaved", pp, vp, batches) or batches == 1


def test_a_joint_pass_hides_what_the_other_can_cover():
    forward, backward = Piece(3.0, exposed=1.0), Piece(5.0, exposed=1.5)
    assert joint(forward, backward).time == pytest.approx(8.0 - 2.5)
    assert joint_gain(1.0, 1.0, 5.0, 0.0) == 1.0
    assert total((forward, backward)).time == 8.0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("steepest", 2, 1, 4), "gpipe"),
        (("dualpipe", 3, 1, 8), "2, 4, 6"),
        (("dualpipe", 4, 1, 2), "4 or more"),
        (("gpipe", 2, 2, 4), "interleaved"),
        (("1f1b", 0, 1, 4), "1 or more"),
    ],
)
def test_what_has_no_meaning_is_told(shape, words):
    with pytest.raises(InputError, match=words):
        check(*shape)
