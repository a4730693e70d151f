"""Readers of logs: what is printed comes back, and whatever is damaged is named by its line."""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens.hardware import InputError
from commlens.validation.logs import KINDS, Sample, bus_factor, read_kineto, read_log, read_nccl_tests
from commlens.validation.logs.files import read_log_text

LOGS = Path(__file__).parents[1] / "data" / "logs"
PROGRAM = {"all_to_all": "alltoall", "send_recv": "sendrecv"}
REDUCING, ROOTED = ("all_reduce", "reduce_scatter", "reduce"), ("broadcast", "reduce")
PLACE = "     time   algbw   busbw #wrong"
HEADER = "#       size         count      type   redop    root" + 2 * PLACE


def printed(kind, ranks, rows, hosts=("a",), named=True):
    """A log as nccl-tests prints it; rows of (bytes, microseconds out of place, in place)."""
    lines = [f"# Collective test starting: {PROGRAM.get(kind, kind)}_perf"] if named else []
    lines += [f"# nThread 1 nGpus {ranks} minBytes 8 maxBytes 8 step: 2(factor) warmup iters: 5 iters: 20", "#"]
    lines += [
        f"#  Rank {i:2d} Group  0 Pid {100 + i:6d} on {hosts[i * len(hosts) // ranks]:>10s} device {i:2d} [0x07] GPU"
        for i in range(ranks)
    ]
    lines += ["#", HEADER, "#        (B)    (elements)   (us)  (GB/s)  (GB/s)"]
    for size, *times in rows:
        redop, root = "sum" if kind in REDUCING else "none", 0 if kind in ROOTED else -1
        line = f"{size:12d}  {size // 4:12d}  {'float':>8s}  {redop:>6s}  {root:6d}"
        for time in times:
            algorithm = size / time / 1e3
            line += f"  {time:9.4f}  {algorithm:6.2f}  {algorithm * bus_factor(kind, ranks):6.2f}      0"
        lines.append(line)
    return "\n".join([*lines, "# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 1.0", ""])


WHOLE = printed("all_reduce", 8, [(1 << k, 10.0 + 2**k / 1e5, 9.5 + 2**k / 1e5) for k in (10, 20, 26)])
FIRST = 1 + next(i for i, line in enumerate(WHOLE.splitlines()) if line.startswith("        1024"))


def write(folder, text, name="run.log"):
    path = folder / name
    path.write_text(text)
    return path


def changed(old, new, count=1):
    """The whole log with words of its second row replaced."""
    lines = WHOLE.splitlines()
    assert old in lines[FIRST]
    lines[FIRST] = lines[FIRST].replace(old, new, count)
    return "\n".join(lines) + "\n"


def outcome(read):
    """(what was read, ""), or (None, message)."""
    try:
        return read(), ""
    except InputError as problem:
        return None, str(problem)


def test_a_sweep_of_several_runs():
    samples = read_nccl_tests(LOGS / "sweep.txt")
    assert len(samples) == 4 * 3 * 21 * 2
    assert {(s.kind, s.ranks) for s in samples} == {
        (kind, n) for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all") for n in (2, 4, 8)
    }
    assert {s.nodes for s in samples} == {1}
    first = samples[0]
    assert (first.kind, first.size, first.ranks, first.line) == ("all_reduce", 1024.0, 2, 13)
    assert first.time == pytest.approx(7.83e-6)
    assert samples[1].time == pytest.approx(8.14e-6)


def test_columns_of_an_old_version():
    with pytest.raises(InputError, match=r"line 1: .*all_gather or reduce_scatter or all_to_all \(legal: .*--kind"):
        read_nccl_tests(LOGS / "old_columns.txt")
    samples = read_nccl_tests(LOGS / "old_columns.txt", kind="all_gather")
    assert [s.size for s in samples[::2]] == [1024, 16384, 262144, 4194304, 67108864]
    assert samples[-2].time == pytest.approx(512.3e-6)
    assert {(s.ranks, s.nodes) for s in samples} == {(4, 1)}


def test_prefixes_hosts_iterations_stamps_and_what_else_is_printed():
    samples = read_nccl_tests(LOGS / "mpirun.txt")
    assert [(s.kind, s.ranks, s.nodes) for s in samples] == [("send_recv", 2, 2)] * 6
    assert [s.time for s in samples] == pytest.approx([41.2e-6, 40.9e-6, 104.8e-6, 104.2e-6, 361.1e-6, 360.0e-6])


def test_report():
    samples = read_nccl_tests(LOGS / "report.json")
    assert [(s.kind, s.ranks, s.nodes, s.line) for s in samples] == [
        ("all_reduce", 4, 1, n) for n in (1, 1, 2, 2, 3, 3)
    ]
    assert samples[0].time == pytest.approx(30.25e-6)


rows = st.lists(st.tuples(st.integers(1, 1 << 34), st.floats(1.0, 1e6), st.floats(1.0, 1e6)), min_size=1, max_size=5)


@given(kind=st.sampled_from(KINDS), ranks=st.integers(2, 16), rows=rows, hosts=st.integers(1, 2))
def test_round_trip(tmp_path_factory, kind, ranks, rows, hosts):
    path = write(tmp_path_factory.mktemp("logs"), printed(kind, ranks, rows, ("a", "b")[:hosts]))
    samples = read_nccl_tests(path)
    assert [(s.kind, s.ranks, s.nodes) for s in samples] == [(kind, ranks, hosts)] * (2 * len(rows))
    assert [s.size for s in samples] == [size for size, *_ in rows for _ in (0, 1)]
    assert [s.time for s in samples] == pytest.approx([1e-6 * t for _, *times in rows for t in times], abs=1e-10)
    assert read_log(path) == samples


@given(kind=st.sampled_from(KINDS), ranks=st.integers(3, 64))
def test_kind_told_by_bandwidths_reduction_and_root(tmp_path_factory, kind, ranks):
    text = printed(kind, ranks, [(1 << 28, 1000.0, 1000.0)], named=False)
    path = write(tmp_path_factory.mktemp("logs"), text)
    if kind in ("all_gather", "all_to_all"):
        with pytest.raises(InputError, match="all_gather or all_to_all"):
            read_nccl_tests(path)
        assert read_nccl_tests(path, kind=kind)[0].kind == kind
    else:
        assert read_nccl_tests(path)[0].kind == kind


DAMAGE = {
    "truncated": (WHOLE.splitlines()[FIRST][:60], None, r"\d columns \(legal: 13"),
    "time is text": ("20.4858", "2o.4858", r"time: '2o.4858'"),
    "time is zero": ("20.4858", "0.0", r"time: '0.0' \(legal: microseconds above 0"),
    "time is negative": ("20.4858", "-20.4858", "time: '-20.4858'"),
    "time is not a number": ("20.4858", "nan", "time: 'nan'"),
    "one column more": ("20.4858", "20.4858 7", "14 columns"),
    "one column less": ("float", "", "12 columns"),
    "two columns less": ("float     sum", "", "11 columns"),
    "size is text": ("1048576", "1048s76", "size: '1048s76'"),
    "size is NaN": ("     1048576", "NaN", "size: 'NaN'"),
    "size is negative": (" 1048576", "-1048576", "size: '-1048576'"),
    "root is text": ("  -1", "  x1", "root: 'x1'"),
    "busbw disagrees": ("89.57", "79.57", r"busbw: 79.57 GB/s beside an algbw of 51.19 .*1.75 of it for all_reduce"),
    "algbw disagrees": ("51.19", "41.19", "algbw: 41.19"),
    "time disagrees": ("20.4858", "30.4858", r"algbw: 51.19 GB/s of 1048576 bytes in 30.4858 us"),
    "a wrong result": ("      0", "      3", r"#wrong: 3: the collective gave wrong results"),
    "wrong is text": ("      0", "      O", r"#wrong: 'O'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_by_line(tmp_path, name):
    old, new, message = DAMAGE[name]
    if new is None:
        lines = WHOLE.splitlines()
        lines[FIRST] = old
        text = "\n".join(lines)
    else:
        text = changed(old, new)
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(f"{path}: line {FIRST + 1}: ") + message) as caught:
        read_nccl_tests(path)
    assert "\n" not in str(caught.value)


@given(cut=st.integers(1, len(WHOLE) - 1))
def test_a_log_cut_anywhere_is_read_or_refused(tmp_path_factory, cut):
    path = write(tmp_path_factory.mktemp("logs"), WHOLE[:cut])
    samples, message = outcome(lambda: read_nccl_tests(path, ranks=8, nodes=1, kind="all_reduce"))
    whole = [(1024, 10.0102), (1024, 9.5102), (1 << 20, 20.4858), (1 << 20, 19.9858)]
    if samples is None:
        assert str(path) in message
    else:
        assert [(s.size, round(1e6 * s.time, 4)) for s in samples][:4] == whole[: len(samples)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no measurements"),
        ("nothing of interest\n", "holds no measurements"),
        ("\n".join(WHOLE.splitlines()[: FIRST - 1]), "holds no measurements"),
        (WHOLE.replace("values : 0", "values : 2"), r"line 18: 2 values out of bounds"),
        (WHOLE.replace("all_reduce_perf", "gather_perf"), r"line 1: test 'gather' is not read \(legal: all_reduce"),
        (WHOLE.replace("Rank  7 Group  0", "Rank  7 Group  1"), "groups of 1 and 7 ranks"),
    ],
)
def test_other_damage(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_nccl_tests(write(tmp_path, text))


def without(word, text=WHOLE):
    return "\n".join(line for line in text.splitlines() if word not in line) + "\n"


def test_what_a_log_does_not_say_is_asked_for(tmp_path):
    bare = write(tmp_path, without("nThread", without("Rank")))
    with pytest.raises(InputError, match=r"how many ranks took part \(legal: say it with --ranks"):
        read_nccl_tests(bare)
    with pytest.raises(InputError, match="how many nodes took part"):
        read_nccl_tests(bare, ranks=8)
    assert {(s.ranks, s.nodes) for s in read_nccl_tests(bare, ranks=8, nodes=2)} == {(8, 2)}
    # Of other ranks than it was, the bandwidths do not follow from one another.
    with pytest.raises(InputError, match=r"line \d+: busbw: .* of it for all_reduce among 4 ranks"):
        read_nccl_tests(bare, ranks=4, nodes=1)
    process = write(tmp_path, without("Rank"))
    assert {(s.ranks, s.nodes) for s in read_nccl_tests(process)} == {(8, 1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": 4}, "--ranks 4, but the log says 8"),
        ({"nodes": 2}, "--nodes 2, but the log says 1"),
        ({"kind": "reduce"}, "--kind reduce, but the log says all_reduce"),
        ({"ranks": 1}, r"--ranks: 1 \(legal: 2 or more"),
        ({"nodes": 0}, r"--nodes: 0 \(legal: 1 or more"),
        ({"kind": "gather"}, r"--kind: 'gather' \(legal: all_reduce"),
    ],
)
def test_options_are_held_against_the_log(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        read_nccl_tests(write(tmp_path, WHOLE), **options)


def test_labels_left_blank_and_places_not_run(tmp_path):
    text = WHOLE.replace("  sum      -1", "            ")
    assert [s.time for s in read_nccl_tests(write(tmp_path, text))] == [
        s.time for s in read_nccl_tests(write(tmp_path, WHOLE))
    ]
    missing = re.sub(r"(0)(\s+[\d.]+){3}\s+0$", r"\1  N/A  N/A  N/A  N/A", WHOLE, flags=re.MULTILINE)
    assert len(read_nccl_tests(write(tmp_path, missing))) == 3


def test_empty_messages_are_not_samples(tmp_path):
    lines = WHOLE.splitlines()
    lines.insert(FIRST - 1, lines[FIRST - 1].replace("1024", "   0").replace("0.10", "0.00").replace("0.18", "0.00"))
    assert len(read_nccl_tests(write(tmp_path, "\n".join(lines)))) == 6


def test_time_of_the_cpu_is_not_the_transfer(tmp_path):
    """Where cputime stands, the time follows from the algorithm bandwidth, if that is printed well enough."""
    text = WHOLE.replace("    time ", " cputime ")
    text = re.sub(r"(-1)\s+[\d.]+", r"\1  5.0", text)
    text = re.sub(r"(\s0)\s+[\d.]+(\s+[\d.]+\s+[\d.]+\s+0)$", r"\1  5.0\2", text, flags=re.MULTILINE)
    samples = read_nccl_tests(write(tmp_path, text))
    assert [s.size for s in samples] == [1 << 20, 1 << 20, 1 << 26, 1 << 26]
    true = [s for s in read_nccl_tests(write(tmp_path, WHOLE)) if s.size > 1024]
    assert [s.time for s in samples] == pytest.approx([s.time for s in true], rel=1e-3)


REPORT = json.loads((LOGS / "report.json").read_text())


def report(tmp_path, change):
    data = json.loads(json.dumps(REPORT))
    change(data)
    return write(tmp_path, json.dumps(data, indent=1), "report.json")


def line_of(path, text, nth):
    return [i for i, line in enumerate(path.read_text().splitlines(), 1) if f'"{text}":' in line][nth]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["results"][1]["in_place"].update(time=0), r"result 2: in_place: time: '0'"),
        (lambda d: d["results"][1]["in_place"].update(time="soon"), r"result 2: in_place: time: 'soon'"),
        (lambda d: d["results"][1]["out_of_place"].update(nwrong=4), r"result 2: out_of_place: #wrong: 4"),
        (lambda d: d["results"][1]["out_of_place"].update(bus_bw=1.0), r"result 2: out_of_place: busbw: 1 GB/s"),
        (lambda d: d["results"][1].update(size=-8), r"result 2: size: '-8'"),
        (lambda d: d["results"][1].update(in_place=3), r"result 2: in_place: 3 \(legal: a mapping"),
    ],
)
def test_damage_in_a_report_is_named_by_line(tmp_path, change, message):
    path = report(tmp_path, change)
    # The entry starts on the line before its size.
    where = f"{path}: line {line_of(path, 'size', 1) - 1}: "
    with pytest.raises(InputError, match=re.escape(where) + message):
        read_log(path)


def test_other_damage_in_a_report(tmp_path):
    with pytest.raises(InputError, match="no list of results"):
        read_log(report(tmp_path, lambda d: d.pop("results")))
    with pytest.raises(InputError, match="holds no measurements"):
        read_log(report(tmp_path, lambda d: d["results"].clear()))
    with pytest.raises(InputError, match="out_of_bounds: 3"):
        read_log(report(tmp_path, lambda d: d.update(out_of_bounds=3)))
    with pytest.raises(InputError, match="device 2: hostname: missing"):
        read_log(report(tmp_path, lambda d: d["devices"][1].pop("hostname")))
    path = write(tmp_path, (LOGS / "report.json").read_text()[:700])
    with pytest.raises(InputError, match=r"line \d+, column \d+: is not valid JSON"):
        read_log(path)


TRACES = [LOGS / "trace_rank0.json", LOGS / "trace_rank1.json.gz"]


def test_traces_of_two_ranks():
    notes = []
    samples = read_kineto(TRACES, notes=notes)
    # 2^24 elements of 2 bytes; the gathered output; the scattered input; 4 bytes; the input of the exchange.
    assert [(s.kind, s.size) for s in samples] == [
        ("all_reduce", 2 * 2**24),
        ("all_gather", 2 * 2**23),
        ("reduce_scatter", 2 * 2**23),
        ("all_reduce", 4 * 1024),
        ("all_to_all", 4 * 2**20),
    ]
    assert [s.time for s in samples] == pytest.approx([412e-6, 150.25e-6, 160.5e-6, 31e-6, 88e-6])
    assert [s.skew for s in samples] == pytest.approx([75e-6, 20e-6, 3e-6, 5e-6, 1.5e-6])
    assert {(s.ranks, s.nodes) for s in samples} == {(4, 2)}
    assert [(s.algorithm, s.protocol) for s in samples[2:]] == [("RING", "LL"), ("TREE", "LL128"), (None, None)]
    assert sum("2 of 7 communication kernels left aside" in note for note in notes) == 2
    assert {s.nodes for s in read_kineto(TRACES, nodes=4)} == {4}
    assert read_log(TRACES) == samples


def test_one_trace_says_that_times_include_waiting():
    notes = []
    samples = read_log(TRACES[0], notes=notes)
    assert samples[1].time == pytest.approx(170.25e-6)
    assert {s.skew for s in samples} == {0.0}
    assert any("5 of 5 collectives seen on one rank only" in note for note in notes)


def kernel(index=0, name="ncclDevKernel_AllReduce_Sum_f32_RING_LL(...)", dur=10.0, **args):
    full = {
        "Collective name": "allreduce",
        "dtype": "Float",
        "In msg nelems": 1000,
        "Out msg nelems": 1000,
        "Group size": 2,
    }
    event = {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 20, "ts": 100.0 * index, "dur": dur}
    return {**event, "args": {key: value for key, value in {**full, **args}.items() if value is not None}}


def trace(folder, *events, name="trace.json"):
    return write(folder, json.dumps({"traceEvents": list(events)}, indent=1), name)


def test_without_sequence_numbers_ranks_are_matched_in_order(tmp_path):
    one = trace(tmp_path, kernel(0, dur=10.0), kernel(1, dur=30.0), kernel(2, dur=12.0, **{"In msg nelems": 8}))
    two = trace(tmp_path, kernel(0, dur=14.0), kernel(1, dur=11.0), name="two.json")
    samples = read_kineto([one, two])
    assert [(s.size, round(1e6 * s.time, 6), round(1e6 * s.skew, 6)) for s in samples] == [
        (4000, 10, 4),
        (4000, 11, 19),
        (32, 12, 0),
    ]


def test_sends_and_receives_are_matched_by_their_ends(tmp_path):
    def message(index, verb, source, target, dur):
        sizes = {"In msg nelems": 50 * (verb == "send"), "Out msg nelems": 50 * (verb == "recv")}
        ends = {"Src Rank": source, "Dst Rank": target, "Group size": 8}
        return kernel(index, "ncclDevKernel_SendRecv(...)", dur, **{"Collective name": verb, **sizes, **ends})

    one = trace(tmp_path, message(0, "send", 0, 1, 40.0), message(1, "recv", 1, 0, 7.0))
    two = trace(tmp_path, message(0, "send", 1, 0, 20.0), message(1, "recv", 0, 1, 9.0), name="two.json")
    samples = read_kineto([one, two])
    assert [(s.kind, s.size, s.ranks) for s in samples] == [("send_recv", 200, 2)] * 2
    assert [1e6 * s.time for s in samples] == pytest.approx([9.0, 7.0])


@pytest.mark.parametrize(
    ("dtype", "width"),
    [("BFloat16", 2), ("Half", 2), ("Float", 4), ("Double", 8), ("Long", 8), ("Float8_e4m3fn", 1), ("Byte", 1)],
)
def test_sizes_of_types(tmp_path, dtype, width):
    assert read_kineto(trace(tmp_path, kernel(dtype=dtype)))[0].size == 1000 * width


def test_what_says_too_little_is_left_aside(tmp_path):
    uneven = {"Collective name": "all_to_allv", "In split size": "[1, 999]"}
    even = {"Collective name": "all_to_allv", "In split size": "[500, 500]", "Out split size": "[500, 500]"}
    bare = {"Collective name": None, "In msg nelems": None}
    named = {"Collective name": None}
    events = [kernel(i, **args) for i, args in enumerate((uneven, even, bare, named, {"dtype": "Imaginary"}))]
    notes = []
    samples = read_kineto(trace(tmp_path, *events), notes=notes)
    assert [s.kind for s in samples] == ["all_to_all", "all_reduce"]
    assert any("3 of 5 communication kernels left aside" in note for note in notes)
    with pytest.raises(InputError, match=r"1 of 1 communication kernels left aside.*no collective of known size"):
        read_kineto(trace(tmp_path, events[0]))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (kernel(1, dur=0), "event: dur: 0"),
        (kernel(1, dur="long"), "event: dur: 'long'"),
        (kernel(1, dur=None), "event: dur: None"),
        ({**kernel(1), "ts": ""}, "event: ts: ''"),
        (kernel(1, **{"In msg nelems": -4}), "event: In msg nelems: -4"),
        (kernel(1, **{"Group size": "two"}), "event: Group size: 'two'"),
    ],
)
def test_damage_in_a_trace_is_named_by_line(tmp_path, event, message):
    path = trace(tmp_path, kernel(0), event)
    where = f"{path}: line {line_of(path, 'ph', 1) - 1}: "
    with pytest.raises(InputError, match=re.escape(where) + message):
        read_kineto(path)


def test_other_damage_in_a_trace(tmp_path):
    text = TRACES[0].read_text()
    cut = write(tmp_path, text[:1500])
    with pytest.raises(InputError, match=r"line \d+, column \d+: is not valid JSON"):
        read_kineto(cut)
    with pytest.raises(InputError, match="no list of traceEvents"):
        read_kineto(write(tmp_path, '{"traceEvents": 3}'))
    with pytest.raises(InputError, match="no collective of known size"):
        read_kineto(write(tmp_path, '{"traceEvents": []}'))
    with pytest.raises(InputError, match="nested too deeply"):
        read_kineto(write(tmp_path, "[" * 100_000))
    broken = tmp_path / "cut.json.gz"
    broken.write_bytes(TRACES[1].read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged gzip archive"):
        read_kineto(broken)
    broken.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(InputError, match="damaged gzip archive"):
        read_kineto(broken)
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "missing.log")
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(key=st.sampled_from([*kernel()["args"], "Seq", "pid", "External id", "correlation", "args", "ts"]), value=junk)
def test_any_value_in_a_trace_is_read_or_refused(tmp_path_factory, key, value):
    event = kernel()
    (event if key in event else event["args"])[key] = value
    with_operator = {**kernel(), "cat": "cpu_op"}
    with_operator["args"]["External id"] = value
    path = trace(tmp_path_factory.mktemp("logs"), event, with_operator, kernel(1, Seq=9))
    samples, message = outcome(lambda: read_kineto(path))
    if samples is None:
        assert message
        assert "\n" not in message
    else:
        assert all(isinstance(sample, Sample) for sample in samples)


def test_zipped_text(tmp_path):
    path = tmp_path / "run.log.gz"
    path.write_bytes(gzip.compress(WHOLE.encode()))
    assert len(read_log(path)) == 6
    assert read_log_text(path) == WHOLE


@pytest.mark.parametrize(
    "change", [{"kind": "gather"}, {"ranks": 1}, {"nodes": 3}, {"nodes": 0}, {"size": 0.0}, {"time": float("nan")}]
)
def test_samples_out_of_range_are_refused(change):
    values = {"kind": "reduce", "size": 8.0, "ranks": 2, "nodes": 1, "time": 1e-6, "source": "a.log", "line": 4}
    with pytest.raises(InputError, match=f"a.log: line 4: {next(iter(change))}: .*legal"):
        Sample(**{**values, **change})
