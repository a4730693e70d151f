"""Exported traces obey the Chrome Trace Event format."""

import gzip
import json
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from commlens.simulator import Program, algorithm, lower, perfetto, run


def check(document: dict) -> None:  # type: ignore[type-arg]
    events = document["traceEvents"]
    assert all(e["ph"] in "MXCsf" and isinstance(e["pid"], int) for e in events)
    timed = [e for e in events if e["ph"] != "M"]
    assert events[: len(events) - len(timed)] == [e for e in events if e["ph"] == "M"]
    stamps = [e["ts"] for e in timed]
    assert all(math.isfinite(t) and t >= 0 for t in stamps)
    assert stamps == sorted(stamps)
    tracks = defaultdict(list)
    for e in timed:
        if e["ph"] == "X":
            assert e["dur"] >= 0
            tracks[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert named == set(tracks)
    for spans in tracks.values():
        spans.sort()
        assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spans))
    arrows = defaultdict(list)
    for e in timed:
        if e["ph"] in "sf":
            arrows[e["id"]].append(e)
            inside = any(a <= e["ts"] + 1e-6 and e["ts"] <= b + 1e-6
                         for a, b in tracks[e["pid"], e["tid"]])  # fmt: skip
            assert inside
    for pair in arrows.values():
        assert [e["ph"] for e in pair] == ["s", "f"]
        assert pair[1]["bp"] == "e"
        assert (pair[0]["cat"], pair[0]["name"]) == (pair[1]["cat"], pair[1]["name"])
    for e in timed:
        if e["ph"] == "C":
            assert all(0 <= v <= 1 + 1e-6 for v in e["args"].values())


@settings(max_examples=50)
@given(st.data())
def test_any_program_exports_a_legal_trace(programs, data) -> None:  # type: ignore[no-untyped-def]
    trace = run(data.draw(programs()))
    check({"traceEvents": json.loads(json.dumps(perfetto.events(trace), allow_nan=False))})


def ring() -> Program:
    program = Program("ring")
    routes = [{program.resource(f"link{i}", 1e9): 1.0, program.resource(f"hbm{i}", 3e9): 3.0}
              for i in range(3)]  # fmt: skip
    first = [(program.add("gemm", kind="compute", rank=i, duration=1e-3, intensity=math.inf),)
             for i in range(3)]  # fmt: skip
    lower(program, algorithm("ring"), "all_reduce", 3, 1e6, lambda s, t, c: (routes[s], 0.0), after=first, latency=1e-6)
    return program


def test_file_has_tracks_arrows_and_counters(tmp_path: Path) -> None:
    trace = run(ring())
    perfetto.write(trace, tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    check(document)
    events = document["traceEvents"]
    assert sum(e["ph"] == "X" for e in events) == trace.program.count
    # Every rank's first send waits for its gemm, the others for the rank before.
    assert sum(e["ph"] == "s" for e in events) == 3 + 3 * 3
    names = {e["args"]["name"] for e in events if e["name"] in ("process_name", "thread_name")}
    assert names == {"rank 0", "rank 1", "rank 2", "resources", "main", "communication"}
    for i in range(3):
        for name in (f"link{i}", f"hbm{i}"):
            used = [e["args"]["used"] for e in events if e["ph"] == "C" and e["name"] == name]
            assert max(used) == 1.0
            assert used[-1] == 0.0


def test_compressed_files_hold_the_same_and_are_reproducible(tmp_path: Path) -> None:
    trace = run(ring())
    for name in ("a.json", "b.json.gz", "c.json.gz"):
        perfetto.write(trace, tmp_path / name)
    packed = (tmp_path / "b.json.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.json").read_bytes()
    assert packed == (tmp_path / "c.json.gz").read_bytes()


def test_an_empty_trace_is_legal(tmp_path: Path) -> None:
    perfetto.write(run(Program()), tmp_path / "empty.json")
    assert json.loads((tmp_path / "empty.json").read_text())["traceEvents"] == []
