"""Routing recorded from models of torch: the forms in which routers return what they chose."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from commlens import InputError
from commlens.models.routing.record import record_routing

torch = pytest.importorskip("torch")
nn = torch.nn


class Router(nn.Linear):
    """A router that returns what `form` says."""

    def __init__(self, width=4, experts=8, k=2, form="logits"):
        super().__init__(width, experts, bias=False)
        self.form, self.k = form, k

    def forward(self, x):
        logits = super().forward(x)
        weights, ids = logits.softmax(-1).topk(self.k, dim=-1)
        forms = {
            "logits": logits,
            "ids": (ids.flatten(0, -2), weights.flatten(0, -2)),
            "ids last": (logits.flatten(0, -2), weights.flatten(0, -2), ids.flatten(0, -2)),
            "scores": (torch.zeros_like(logits).scatter(-1, ids, weights), ids.flip(-1)),
            "bare ids": ids,
            "mask": torch.zeros_like(logits).scatter(-1, ids, 1.0).long(),
            "vector": logits.sum(),
        }
        return forms[self.form]


class Block(nn.Module):
    """Experts' block, with a dense layer named like many."""

    def __init__(self, name="gate", **options):
        super().__init__()
        self.name = name
        self.gate_proj = nn.Linear(4, 4)
        self.add_module(name, Router(**options))

    def forward(self, x):
        getattr(self, self.name)(x)
        return x + self.gate_proj(x)


class Model(nn.Module):
    """Layers of which the first is dense."""

    def __init__(self, layers=3, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4), *(Block(**options) for _ in range(layers))])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def by_hand(model, batches, name="gate"):
    """Ids that the routers' logits say."""
    rows = []
    with torch.no_grad():
        for x in batches:
            layers = []
            for layer in model.layers:
                if isinstance(layer, Block):
                    router = getattr(layer, name)
                    layers.append((x @ router.weight.T).topk(router.k, dim=-1).indices.flatten(0, -2))
                x = layer(x)
            rows.append(torch.stack(layers, dim=1))
    return torch.cat(rows).numpy()


BATCHES = [torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)), torch.ones(1, 3, 4)]


@pytest.mark.parametrize("name", ["gate", "router", "gating", "wg"])
@pytest.mark.parametrize("form", ["logits", "ids", "ids last", "scores", "bare ids"])
def test_every_form_is_read(form, name):
    model = Model(form=form, name=name)
    with record_routing(model) as recording:
        for x in BATCHES:
            model(x)
    trace = recording.trace("here")
    assert np.array_equal(trace.experts, by_hand(model, BATCHES, name))
    assert (trace.count, trace.tokens, trace.source) == (8, 13, "here")
    assert trace.layer_numbers == (1, 2, 3)
    if form == "bare ids":
        assert trace.gates is None
    else:
        assert (np.diff(trace.gates, axis=-1) <= 0).all()


def test_hooks_go_when_recording_ends():
    model = Model()
    with record_routing(model) as recording:
        model(BATCHES[0])
    model(BATCHES[0])
    assert recording.trace().tokens == 10
    with pytest.raises(ZeroDivisionError), record_routing(model):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


def test_routers_by_pattern_and_function():
    model = Model(name="chooser", k=3)
    for routers in ("chooser$", lambda name, module: isinstance(module, Router)):
        with record_routing(model, routers) as recording:
            model(BATCHES[0])
        assert np.array_equal(recording.trace().experts, by_hand(model, BATCHES[:1], "chooser"))


def test_top_k_is_asked_of_router_block_and_configuration():
    model = Model()
    for layer in model.layers[1:]:
        layer.gate.k = None
        layer.gate.forward = lambda x, router=layer.gate: x @ router.weight.T
    with pytest.raises(InputError, match=r"layers\.1\.gate: top_k: None \(legal: 1 to 8"), record_routing(model):
        model(BATCHES[0])
    with pytest.raises(InputError, match=r"top_k: 9 \(legal: 1 to 8"), record_routing(model, top_k=9):
        model(BATCHES[0])
    model.config = SimpleNamespace(num_experts_per_tok=3)
    with record_routing(model) as recording:
        model(BATCHES[0])
    assert recording.trace().k == 3
    with record_routing(model, top_k=1) as recording:
        model(BATCHES[0])
    assert recording.trace().k == 1


def test_a_choice_that_logits_do_not_show():
    model = Model()
    for layer in model.layers[1:]:
        layer.gate.e_score_correction_bias = torch.linspace(0, 9, 8)
    with pytest.raises(InputError, match="chooses with e_score_correction_bias, not"), record_routing(model):
        model(BATCHES[0])

    def choose(logits):
        ids = (logits.sigmoid() + torch.linspace(0, 9, 8)).topk(2).indices
        return ids, logits.sigmoid().gather(-1, ids)

    with record_routing(model, choose=choose) as recording:
        model(BATCHES[0])
    assert set(np.unique(recording.trace().experts)) == {6, 7}
    for layer in model.layers[1:]:
        layer.route_tokens_to_experts = choose
    with record_routing(model) as recording:
        model(BATCHES[0])
    assert set(np.unique(recording.trace().experts)) == {6, 7}


def test_no_router():
    with pytest.raises(InputError) as caught, record_routing(Model(name="chooser")):
        pass
    assert "looked for modules named gate, router, gating, wg" in str(caught.value)
    assert "layers.1.gate_proj" in str(caught.value)
    with pytest.raises(InputError, match="looked for modules whose names have 'none'"), record_routing(Model(), "none"):
        pass
    with pytest.raises(InputError, match="for which the function is true"), record_routing(Model(), lambda *_: False):
        pass
    with pytest.raises(InputError, match="a regular expression"), record_routing(Model(), "("):
        pass


def test_layers_that_do_not_fit_together():
    def recorded(change):
        model = Model()
        change(model)
        with record_routing(model) as recording:
            model(BATCHES[0])
        with pytest.raises(InputError) as caught:
            recording.trace()
        return str(caught.value)

    assert "layers.2.gate: 6 experts, and layers.1.gate has 8" in recorded(
        lambda m: setattr(m.layers[2], "gate", Router(experts=6))
    )
    assert "layers.3.gate: 1 slots, and layers.1.gate has 2" in recorded(lambda m: setattr(m.layers[3].gate, "k", 1))
    model = Model()
    with record_routing(model) as recording:
        model(BATCHES[0])
        model.layers[1](BATCHES[0])
    with pytest.raises(InputError, match=r"layers\.2\.gate: 10 tokens, and layers\.1\.gate has 20"):
        recording.trace()
    with record_routing(model) as recording:
        pass
    with pytest.raises(InputError, match=r"layers\.1\.gate: no token passed"):
        recording.trace()


def test_calls_that_do_not_fit_together():
    model = Model(layers=1)
    with record_routing(model) as recording:
        model(BATCHES[0])
        model.layers[1].gate.k = 3
        model(BATCHES[0])
    with pytest.raises(InputError, match="2 and 3 slots in its calls"):
        recording.trace()
    model = Model(layers=1)
    with record_routing(model):
        model(BATCHES[0])
        model.layers[1].gate.weight = nn.Parameter(torch.ones(6, 4))
        with pytest.raises(InputError, match="6 experts, and 8 in a call before"):
            model(BATCHES[0])


def test_outputs_that_are_no_routers():
    model = Model(form="vector")
    with pytest.raises(InputError, match="returns neither ids nor logits"), record_routing(model):
        model(BATCHES[0])
    model = Model(form="mask")
    with pytest.raises(InputError, match="returns a mask of experts"), record_routing(model):
        model(BATCHES[0])

    class Bare(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 1, dtype=torch.long)

    model = nn.ModuleDict({"gate": Bare()})
    with pytest.raises(InputError, match="how many experts there are cannot be told"), record_routing(model):
        model["gate"](BATCHES[1])
