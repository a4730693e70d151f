"""Every technique's mechanism, executed: what the undivided layer computes, and the bytes its program says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from commlens.models.techniques import parse_technique, registry
from commlens.validation.references import references
from commlens.validation.references.catalogue import OPTIONS, REASONS, catalogue
from commlens.validation.references.predicted import predicted
from commlens.validation.references.reference import FP32
from commlens.validation.references.report import COLUMNS, compared, held
from commlens.validation.references.shapes import Attention, Network

torch = pytest.importorskip("torch")

EVERY = catalogue()
VALUES = [
    (name, *what.split(": "))
    for name, what in OPTIONS
    if what.split(": ")[0] in registry()[name].options and " with " not in what
]


@pytest.fixture(scope="module")
def frame():
    """All of them, on one pool of processes."""
    return references()


def test_every_technique_has_a_reference_or_a_reason():
    known, written = set(registry()), {reference.technique["name"] for reference in EVERY}
    assert known == written | set(REASONS)
    assert not written & set(REASONS)
    assert all(text.startswith("a bound") for text in REASONS.values())


def test_every_value_of_an_option_has_a_reference_or_a_reason():
    executed = {
        (name, option, reference.technique.get(option, known.default))
        for reference in EVERY
        for name in [reference.technique["name"]]
        for option, known in registry()[name].options.items()
    }
    legal = {
        (name, option, value)
        for name in {reference.technique["name"] for reference in EVERY}
        for option, known in registry()[name].options.items()
        for value in get_args(known.annotation)
    }
    assert legal - executed == set(VALUES)
    numbers = {(name, option) for name, option, value in executed if not isinstance(value, str)}
    assert numbers >= {("async_tp", "chunks"), ("bigmac", "r"), ("lasp2", "pieces"), ("tutel", "degree")}


@pytest.mark.parametrize(("name", "option", "value"), VALUES)
def test_what_is_not_executed_sends_what_another_value_sends(name, option, value):
    others = [one for one in get_args(registry()[name].options[option].annotation) if (name, option, one) not in VALUES]
    for reference in [one for one in EVERY if one.technique["name"] == name]:

        def sent(one, reference=reference):
            call = parse_technique({**reference.technique, option: one})
            return predicted(reference.shape, call, reference.ranks).sent

        assert sent(value) in [sent(one) for one in others]


def test_names_tell_references_apart():
    assert len({reference.name for reference in EVERY}) == len(EVERY)


@pytest.mark.parametrize("name", sorted(registry()))
def test_executed_and_predicted_are_equal(frame, name):
    rows = frame[frame["technique"] == name]
    assert len(rows)
    if name in REASONS:
        assert rows["status"].tolist() == ["none"]
        assert rows["what"].isna().all()
        assert rows["reason"].tolist() == [REASONS[name]]
        return
    for row in rows[rows["status"] != "none"].to_dict("records"):
        assert row["status"] == "equal", row
        assert row["executed_bytes"] == row["predicted_bytes"] != {}
        assert all(isinstance(size, int) for size in row["executed_bytes"].values())
        assert row["output_error"] <= FP32
        assert np.isnan(row["gradient_error"]) if name == "exflow" else row["gradient_error"] <= FP32


def test_the_table_has_a_row_for_every_reference_and_every_reason(frame):
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == len(EVERY) + len(REASONS) + len(OPTIONS)
    executed = frame[frame["status"] != "none"]
    # Double precision, but where a technique sends in single.
    exact = [reference.tolerance < FP32 for reference in EVERY]
    assert executed["output_error"][exact].max() < 1e-13
    assert executed["gradient_error"][exact].max() < 1e-13


def test_bytes_are_those_of_closed_forms(frame):
    """Counted by hand, all ranks and both directions together, at 8 bytes an element."""

    def sent(name, ranks, what):
        found = frame[(frame["technique"] == name) & (frame["ranks"] == ranks) & (frame["what"] == what)]
        return found["executed_bytes"].item()

    state = 2 * 24 * 24 * 8  # sequences, tokens, width
    for n in (2, 3, 4):
        # Two layers of two blocks, forward and backward.
        assert sent("baseline", n, "two layers") == {"all_reduce": 2 * 4 * 2 * (n - 1) * state}
        assert sent("t3", n, "tiles") == dict.fromkeys(("all_gather", "reduce_scatter"), 2 * 4 * (n - 1) * state)
        pair = 2 * 6 * 2 * (4 + 6)  # keys and values of a rank's tokens
        ring = pair * ((n - 1) * 8 * 2 + n * 4)  # their gradients in fp32, once round
        assert sent("ring_attention", n, "zigzag, causal") == {"send_recv": n * ring}
        heads = 2 * 6 * 12 * (4 + 4 + 6 + 6)
        assert sent("ulysses", n, "12 of 12 heads with keys, causal") == {"all_to_all": 2 * heads * (n - 1) * 8}
        copies = 12 * n * 3 * 12  # of a rank: tokens, experts of each, width
        assert sent("baseline", n, f"all-to-all of every copy, 1 x {n} ranks") == {
            "all_to_all": 4 * copies * (n - 1) * 8
        }
        assert sent("lasp", n, "causal") == {"send_recv": 2 * 2 * 2 * 4 * 6 * 4}  # of one rank
        # Sequence parallelism gathers a block's input, once more backward, and gradients of its output.
        scattered = {"all_gather": 3 * 4 * (n - 1) * state, "reduce_scatter": 2 * 4 * (n - 1) * state}
        for name in ("baseline", "ladder_residual"):
            assert sent(name, n, "two layers, sequence parallel") == scattered
        # Keys and values passed on under attention, and back with gradients as wide.
        shares = pair * (n - 1) * 8
        beside = {"all_gather": n * shares, "reduce_scatter": 2 * n * shares}
        assert sent("baseline", n, "keys passed on, zigzag, causal") == beside


def test_a_window_shortens_a_ring_and_nothing_else(frame):
    def sent(name, ranks, what):
        found = frame[(frame["technique"] == name) & (frame["ranks"] == ranks) & (frame["what"] == what)]
        return found["executed_bytes"].item()

    pair = 2 * 6 * 2 * (4 + 6)
    for ranks in (2, 3, 4):
        for window, before in ((4, 1), (7, 1), (9, 2)):  # tokens, and ranks of 6 that have some of them
            what, far = f"window of {window} in runs of 6 tokens", min(before, ranks - 1)
            ring = pair * (2 * far * 8 + (far + 1) * 4)
            assert sent("ring_attention", ranks, what) == {"send_recv": ranks * ring}
            assert sent("gathered_kv", ranks, what) == sent("gathered_kv", ranks, "zigzag, causal")
            assert sent("tokenring", ranks, what) == sent("tokenring", ranks, "contiguous, causal")
            passed, either = "keys passed on, zigzag", "a layer of either kind"
            for name, whose, here in (("baseline", passed, f"window of {window}"), ("lasp2h", either, what)):
                assert sent(name, ranks, f"{whose}, {here}") == sent(name, ranks, f"{whose}, causal")


def test_bytes_of_mixtures_are_those_of_closed_forms(frame):
    def sent(name, what):
        return frame[(frame["technique"] == name) & (frame["what"] == what)]["executed_bytes"].item()

    copies = 48 * 3 * 12 * 8  # of a rank: tokens, experts of each, width; four ranks send 3/4 of them
    for room, text in ((2 / 3, "0.67"), (4 / 3, "1.33")):
        what = f"hot experts with room for {text} of the mean, 1 x 4 ranks"
        assert sent("baseline", what) == {"all_to_all": pytest.approx(room * 4 * 4 * copies * 3 / 4, rel=1e-12)}
    # Two groups of two ranks divide the experts; two ranks gather copies and scatter sums, and gradients.
    what = "experts divided by 2"
    gathered = {"all_gather": 2 * 4 * copies, "reduce_scatter": 2 * 4 * copies}
    assert sent("baseline", f"{what}, tokens too") == {"all_to_all": 4 * 4 * copies / 2, **gathered}
    # Results are gathered behind the layer, and gradients of its input.
    whole = gathered | {"all_gather": 2 * 4 * copies + 2 * 4 * 48 * 12 * 8}
    assert sent("baseline", f"{what}, tokens whole") == {"all_to_all": 4 * 4 * copies / 2, **whole}
    # Of tokens that are gathered instead of keys and values, a number each.
    for what in ("prompts", "a step of decoding, top 1"):
        cache, numbers = (sent("exflow", f"{what}, {kind} gathered, 1 x 4 ranks") for kind in ("cache", "tokens"))
        assert cache["all_to_all"] == numbers["all_to_all"]
        tokens = 48 if what == "prompts" else 28
        assert numbers["all_gather"] == 4 * 3 * tokens * 4
        assert cache["all_gather"] == 4 * 3 * tokens * 3 * 2 * 12 * 8
    state = 4 * 48 * 12 * 8
    assert sent("baseline", "every expert divided by 4, a shared one too") == {"all_reduce": 4 * 2 * 2 * state * 3 / 4}
    elastic, normal = (sent("deepep", f"{kernels}, fp8, 1 x 4 ranks") for kernels in ("elastic", "normal"))
    assert elastic == normal == sent("deepep", "shared expert beside, fp8, 1 x 4 ranks")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [8])
def test_more_ranks(ranks):
    found = []
    for one in EVERY:
        shape = one.shape
        if one.ranks != 4 or one.technique["name"] in ("async_tp", "baseline", "exflow"):
            continue
        if isinstance(shape, Network):
            shape = replace(shape, hidden=48, heads=24, ffn=48)
        elif isinstance(shape, Attention):
            shape = replace(shape, heads=24 if one.technique["name"] in ("ulysses", "usp") else shape.heads)
            shape = replace(shape, kv_heads=1 if one.technique["name"] in ("ulysses", "usp") else shape.kv_heads)
        else:
            shape = replace(shape, tokens=12 * ranks, experts=4 * ranks)
        found.append(replace(one, ranks=ranks, shape=shape))
    found = list({one.name: one for one in found}.values())
    assert len(found) > 50
    assert [row for row in held(found) if row["status"] != "equal"] == []


# -- that a difference would be seen --------------------------------------------------------------------------------


def found_of(reference, **changes):
    """What ranks would find that do all right, but for some changes on the first."""
    said = predicted(reference.shape, parse_technique(reference.technique), reference.ranks)
    ranks = [
        {"output": 0.0, "gradient": 0.0, "sent": sent, "messages": messages}
        for sent, messages in zip(said.sent, said.messages, strict=True)
    ]
    return [ranks[0] | changes, *ranks[1:]]


@pytest.mark.parametrize("index", range(0, len(EVERY), 11))
def test_what_differs_is_said(index):
    reference = EVERY[index]
    assert compared(reference, found_of(reference))["status"] == "equal"
    mine = found_of(reference)[0]
    assert compared(reference, found_of(reference, output=1e-3))["status"] == "differs: output by 1.0e-03"
    assert compared(reference, found_of(reference, gradient=float("inf")))["status"] == "differs: gradient by inf"
    (kind, size), *rest = mine["sent"]["forward"].items()
    more = mine["sent"] | {"forward": {kind: size + 1, **dict(rest)}}
    assert compared(reference, found_of(reference, sent=more))["status"] == "differs: bytes"
    # Forward bytes sent backward are not the same.
    turned = {"forward": {}, "backward": mine["sent"]["forward"]}
    assert compared(reference, found_of(reference, sent=turned))["status"] == "differs: bytes"
    if reference.messages:
        twice = {way: {kind: 2 * n for kind, n in kinds.items()} for way, kinds in mine["messages"].items()}
        assert compared(reference, found_of(reference, messages=twice))["status"] == "differs: number of messages"


def test_another_shape_is_another_prediction():
    for reference in EVERY[::4]:
        shape = replace(reference.shape, tokens=2 * reference.shape.tokens)
        call = parse_technique(reference.technique)
        once, twice = (predicted(one, call, reference.ranks).sent for one in (reference.shape, shape))
        name = reference.technique["name"]
        states = getattr(reference.shape, "linear", ()) == (True,) and name not in ("ulysses", "usp")
        assert (once == twice) == states, reference.name  # states do not grow with the sequence


# -- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_blocks_hold_every_pair_the_mask_leaves_and_no_other(layout, ranks):
    from commlens.validation.references.blocks import block_of, positions

    tokens = 6
    seen = np.zeros((ranks * tokens, ranks * tokens), dtype=int)
    places = [positions(layout, ranks, rank, tokens) for rank in range(ranks)]
    assert sorted(torch.cat(places).tolist()) == list(range(ranks * tokens))
    for queries, keys in product(range(ranks), repeat=2):
        block = block_of(True, layout, ranks, tokens, queries, keys)
        if block is not None:
            mine, theirs = places[queries][block.rows], places[keys][block.keys]
            mask = torch.ones(len(mine), len(theirs)) if block.mask is None else block.mask
            seen[np.ix_(mine, theirs)] += mask.numpy().astype(int)
    assert (seen == np.tril(np.ones_like(seen))).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_by_hand_is_that_of_torch(kv_heads, causal):
    from commlens.validation.references import blocks

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 7, heads, width).double() for heads, width in ((6, 4), (kv_heads, 4), (kv_heads, 5)))
    for x in (q, k, v):
        x.requires_grad_()
    mask = torch.ones(7, 7, dtype=torch.bool).tril() if causal else None
    out, lse = blocks.attend(q, k, v, mask)
    expected = blocks.whole(q, k, v, causal)
    assert torch.allclose(out, expected, atol=1e-13)
    outer = torch.randn_like(out)
    slopes = torch.autograd.grad(expected, (q, k, v), outer)
    mine = blocks.gradients(q, k, v, outer, lse, (outer * out).sum(-1), mask)
    assert all(torch.allclose(one, two, atol=1e-13) for one, two in zip(mine, slopes, strict=True))
    if not causal:  # two sets of keys, merged
        halves = [blocks.attend(q, k[:, part], v[:, part], None) for part in (slice(3), slice(3, None))]
        assert torch.allclose(blocks.merge(*halves[0], *halves[1])[0], expected, atol=1e-13)


def test_fp8_holds_small_whole_numbers_and_costs_what_the_kernels_count():
    from commlens.simulator.expert_exchange import FP8_BYTES
    from commlens.validation.references.travel import FP8

    rows = torch.randint(-15, 16, (5, 256), generator=torch.Generator().manual_seed(0)).double()
    sent = FP8[0](rows)
    assert sent.nbytes == rows.numel() * FP8_BYTES
    assert torch.equal(FP8[1](sent), rows)
    assert not torch.equal(FP8[1](FP8[0](rows + 1 / 3)), rows + 1 / 3)


def test_tables_are_as_even_as_they_say():
    for reference in EVERY:
        shape = reference.shape
        if not hasattr(shape, "table"):
            continue
        table, ranks = shape.table(reference.ranks), reference.ranks
        assert table.shape == (ranks, shape.tokens, shape.layers, shape.top_k)
        ordered = np.sort(table, -1)
        assert (ordered[..., 1:] != ordered[..., :-1]).all()
        parts = ranks // shape.etp
        owner = table // (shape.experts // parts)
        for layer in range(shape.layers):
            counts = np.bincount(owner[:, :, layer].ravel(), minlength=parts)
            assert (len(set(counts)) == 1) == (shape.still == 0)


def test_with_a_capacity_copies_are_dropped_and_all_places_are_filled():
    from commlens.validation.references.ways import filled, routing_of

    shapes = [(one.shape, one.ranks) for one in EVERY if getattr(one.shape, "capacity", 0)]
    assert shapes
    for shape, count in shapes:
        ranks = SimpleNamespace(size=count, device=torch.device("cpu"))
        kept = routing_of(ranks, shape, torch.ones(count * shape.tokens, shape.top_k))
        every = filled(ranks, shape, kept)
        assert len(kept.token) < count * shape.tokens * shape.top_k
        assert len(every.token) > len(kept.token)
        assert every.gate.sum() == len(kept.token)
        chunk = every.token // (shape.tokens // shape.degree)
        places = torch.bincount(chunk * shape.experts + every.expert)
        room = shape.capacity * shape.tokens // shape.degree * shape.top_k / shape.experts
        assert len(places) == count * shape.degree * shape.experts
        assert places.unique().tolist() == [round(room)]
    with pytest.raises(ValueError, match="is not whole"):
        routing_of(ranks, replace(shape, capacity=1.1), torch.ones(count * shape.tokens, shape.top_k))


def test_a_part_of_a_byte_is_refused():
    from commlens.validation.references.ranks import Ledger

    ledger = Ledger()
    ledger.add("all_reduce", 24, (4, 3))
    assert ledger.sent == {"forward": {"all_reduce": 32}}
    with pytest.raises(ValueError, match="4/3 of 25 bytes is not whole"):
        ledger.add("all_reduce", 25, (4, 3))


def test_the_command_line_prints_a_line_for_each_and_refuses_what_it_does_not_know(capsys, monkeypatch):
    from commlens.validation.references import __main__ as command

    monkeypatch.setattr("sys.argv", ["references", "no_all_to_all", "no_communication"])
    assert command.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["no_all_to_all", "no_communication", "2"]
    monkeypatch.setattr("sys.argv", ["references", "ring_atention"])
    assert command.main() == 2
    assert "did you mean ring_attention" in capsys.readouterr().err
