"""Files of placements: what is written is read, and what is no placement is refused by one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlens import InputError
from commlens.models.routing.placement_file import PlacementFile, load_placement, save_placement
from commlens.solvers.expert_placement import round_robin

GOOD = {"devices": 2, "nodes": 1, "device": [[0, 0, 1, 1], [1, 0, 0, 1]]}


@given(
    layers=st.integers(1, 6), devices=st.integers(1, 8), share=st.integers(1, 4), seed=st.integers(0, 99),
    about=st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=9)),
)  # fmt: skip
def test_what_is_written_is_read(layers, devices, share, seed, about, tmp_path_factory):
    generator = np.random.default_rng(seed)
    device = generator.permuted(round_robin(layers, devices * share, devices), axis=1)
    nodes = max(d for d in range(1, devices + 1) if devices % d == 0 and d <= 2)
    file = tmp_path_factory.mktemp("placed") / "p.json"
    save_placement(PlacementFile(device, devices, nodes, about), file)
    found = load_placement(file)
    assert np.array_equal(found.device, device)
    assert found.device.dtype == np.int64
    assert (found.devices, found.nodes, found.about) == (devices, nodes, about)


def test_a_layer_has_a_line(tmp_path):
    save_placement(PlacementFile(round_robin(58, 256, 64), 64, 8, {"trace": "x"}), tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text()
    assert text.count("\n    [") == 58
    assert json.loads(text)["about"] == {"trace": "x"}
    assert text.endswith("}\n")


def test_layers_may_be_uneven_where_all_together_are_even(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(GOOD | {"device": [[0, 0, 0, 1], [1, 1, 1, 0]]}))
    assert load_placement(tmp_path / "p.json").device.tolist() == [[0, 0, 0, 1], [1, 1, 1, 0]]


def test_nodes_and_about_may_be_left_out(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"devices": 2, "device": GOOD["device"]}))
    found = load_placement(tmp_path / "p.json")
    assert (found.nodes, found.about) == (1, {})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            GOOD | {"device": [[0, 0, 1, 1], [1, 0, 0, 0]]},
            "device: device 0 has 5 of the 8 experts of all layers (legal: 4 ",
        ),
        (GOOD | {"devices": 4, "nodes": 2}, "device: device 0 has 4 of the 8 experts of all layers (legal: 2 on each)"),
        (GOOD | {"devices": 3}, "experts of all layers (legal: devices that divide 8)"),
        (GOOD | {"devices": 1}, "device: layer 0, expert 2: 1 (legal: 0 to 0)"),
        (GOOD | {"device": [[0, 1], [1, 0, 0, 1]]}, "device: layers of [2, 4] experts (legal: one number, 1 or more)"),
        (GOOD | {"device": []}, "device: layers of [] experts (legal: one number, 1 or more)"),
        (GOOD | {"device": [[], []]}, "device: layers of [0] experts"),
        (GOOD | {"device": [[0, -1, 1, 1], [1, 0, 0, 1]]}, "device.0.1: '-1'"),
        (GOOD | {"device": [[0, 0.5, 1, 1], [1, 0, 0, 1]]}, "device.0.1: '0.5'"),
        (GOOD | {"device": [[0, True, 1, 1], [1, 0, 0, 1]]}, "device.0.1: 'True'"),
        (GOOD | {"device": [[0, "1", 1, 1], [1, 0, 0, 1]]}, "device.0.1: '1'"),
        (GOOD | {"device": [[0, 10**30, 1, 1], [1, 0, 0, 1]]}, "device.0.1: '1000000000000000000"),
        (GOOD | {"device": [0, 1]}, "device.0: '0'"),
        (GOOD | {"device": "round_robin"}, "device: 'round_robin'"),
        (GOOD | {"nodes": 0}, "nodes: '0'"),
        (GOOD | {"nodes": 3}, "nodes: 3 for 2 devices (legal: a divisor)"),
        (GOOD | {"devices": 10**9}, "devices: '1000000000'"),
        ({"devices": 2}, "device: Field required"),
        ({"device": GOOD["device"]}, "devices: Field required"),
        (GOOD | {"node": 1}, "node: unknown key (legal: about, device, devices, nodes); did you mean nodes?"),
        (GOOD | {"about": 3}, "about: '3'"),
        ([1, 2], "is a list (legal: a mapping with devices, nodes and device)"),
        (None, "is a NoneType (legal: "),
    ],
)
def test_bad_input_is_one_line(data, said, tmp_path):
    file = tmp_path / "p.json"
    file.write_text(json.dumps(data))
    refused(file, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON: "),
        (b"", "is not JSON: "),
        (b"[" * 100_000, "is not JSON: "),
        (b'{"devices": 2, "device": [[NaN]]}', "device.0.0: 'nan'"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_what_is_no_json_is_one_line(content, said, tmp_path):
    file = tmp_path / "p.json"
    file.write_bytes(content)
    refused(file, said)


def test_files_that_are_not_there_or_cannot_be_written(tmp_path):
    refused(tmp_path / "none.json", "cannot be read: No such file or directory")
    refused(tmp_path, "is a folder, not a file")
    placed = PlacementFile(round_robin(2, 4, 2), 2, 1)
    with pytest.raises(InputError, match=r"no/where.json: cannot be written: No such file or directory$"):
        save_placement(placed, tmp_path / "no" / "where.json")


def refused(file, said):
    with pytest.raises(InputError) as caught:
        load_placement(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert said in text
    assert "\n" not in text
    assert len(text) < 400
