"""Ways of tokens to experts that ranks divide, and of their results back.

Experts lie in the order of ranks. Which experts a token takes and with what weight is known to all: their numbers and
weights travel uncounted, as programs count rows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .ranks import Ranks
from .shapes import Mixture
from .travel import Formats, Way


@dataclass(frozen=True)
class Routing:
    """Copies of tokens, one for each expert of each: a flat list all ranks have.

    Parameters
    ----------
    token : Tensor of int
        Token of a copy, all ranks' tokens numbered through.
    expert, home, owner : Tensor of int
        Its expert, the rank its token belongs to, and the one that has the expert.
    gate : Tensor
        Weight of its result; 0 of a copy that fills a place nobody takes.
    each : int
        Experts of a rank.
    tokens : int
        Of a rank.
    """

    token: Tensor
    expert: Tensor
    home: Tensor
    owner: Tensor
    gate: Tensor
    each: int
    tokens: int

    def only(self, which: Tensor) -> Routing:
        """Some of the copies."""
        token, expert, home, owner, gate = (
            x[which] for x in (self.token, self.expert, self.home, self.owner, self.gate)
        )
        return replace(self, token=token, expert=expert, home=home, owner=owner, gate=gate)


Compute = Callable[[Tensor, Routing], Tensor]
"""Results of copies that have come to this rank."""
Aside = Callable[[], None]
"""What is done once copies are on their way."""


def routing_of(ranks: Ranks, shape: Mixture, gates: Tensor) -> Routing:
    """What the table of a shape says of its first layer, but for copies that find no room.

    Parameters
    ----------
    ranks : Ranks
    shape : Mixture
    gates : Tensor, shape (ranks * tokens, top_k)
    """
    expert = torch.from_numpy(shape.table(ranks.size)[:, :, 0].reshape(-1).copy()).to(ranks.device)
    token = torch.arange(ranks.size * shape.tokens, device=ranks.device).repeat_interleave(shape.top_k)
    each = shape.experts * shape.etp // ranks.size
    routing = _copies(shape, token, expert, gates.flatten().to(ranks.device), each)
    if not shape.capacity:
        return routing
    group, room = _room(shape, routing)
    order = torch.argsort(group, stable=True)
    first = torch.searchsorted(group[order], group[order])
    nth = torch.empty_like(order)
    nth[order] = torch.arange(len(order), device=order.device) - first
    return routing.only(nth < room)


def filled(ranks: Ranks, shape: Mixture, routing: Routing) -> Routing:
    """Copies and, for every place that an expert keeps free for a rank and nobody takes, one that counts for nothing.

    Parameters
    ----------
    ranks : Ranks
    shape : Mixture
    routing : Routing
        Of `routing_of`.
    """
    group, room = _room(shape, routing)
    free = room - torch.bincount(group, minlength=ranks.size * shape.degree * shape.experts)
    empty = torch.repeat_interleave(torch.arange(len(free), device=free.device), free)
    token = torch.cat([routing.token, empty // shape.experts * (shape.tokens // shape.degree)])
    expert = torch.cat([routing.expert, empty % shape.experts])
    gate = torch.cat([routing.gate, routing.gate.new_zeros(len(empty))])
    return _copies(shape, token, expert, gate, routing.each)


def _copies(shape: Mixture, token: Tensor, expert: Tensor, gate: Tensor, each: int) -> Routing:
    """Of tensor-parallel ranks that divide an expert each sends its tokens to the one of its own place."""
    home = token // shape.tokens
    return Routing(token, expert, home, expert // each * shape.etp + home % shape.etp, gate, each, shape.tokens)


def _room(shape: Mixture, routing: Routing) -> tuple[Tensor, int]:
    """Rank, chunk and expert of every copy as one number, and the copies of such a number that are taken."""
    size = shape.tokens // shape.degree
    room = shape.capacity * size * shape.top_k / shape.experts
    if abs(room - round(room)) > 1e-9:
        raise ValueError(f"capacity {shape.capacity:g}: room for {room:g} copies is not whole")
    return routing.token // size * shape.experts + routing.expert, round(room)


def attention(x: Tensor) -> Tensor:
    """Causal attention of a sequence to itself, without weights."""
    return scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)[0]


def added(results: Tensor, groups: Tensor, count: int) -> Tensor:
    """Rows added up by group, shape (count, width)."""
    return results.new_zeros((count, results.shape[1])).index_add(0, groups, results)


def _own(routing: Routing, me: int) -> Tensor:
    """Place among a rank's own tokens of each of its copies."""
    return routing.token[routing.home == me] - me * routing.tokens


def straight(ranks: Ranks, there: Formats, home: Formats, routing: Routing, compute: Compute, x: Tensor) -> Tensor:
    """Every copy straight to the rank of its expert; results weighed where they come home."""
    me = ranks.members[ranks.rank]
    own = _own(routing, me)
    rows = Way(ranks, x[own], routing.home, routing.owner, there).wait()
    results = compute(rows, routing.only(routing.owner == me))
    back = Way(ranks, results, routing.owner, routing.home, home).wait()
    return added(back * routing.gate[routing.home == me][:, None], own, len(x))


def levels(ranks: Ranks, shape: Mixture) -> tuple[Ranks, tuple[Ranks, Ranks]]:
    """All ranks; and those of this one's place in their nodes, and of its node."""
    local = ranks.size // shape.nodes
    node, place = divmod(ranks.rank, local)
    return ranks, (ranks.among(range(place, ranks.size, local)), ranks.among(range(node * local, (node + 1) * local)))


def _landing(home: Tensor, owner: Tensor, local: int) -> Tensor:
    """Rank in the owner's node, of the place the home has in its own."""
    return owner // local * local + home % local


def nothing() -> None:
    """No work beside an exchange."""


def by_levels(
    ranks: Ranks, levels: tuple[Ranks, Ranks], routing: Routing, compute: Compute, x: Tensor, aside: Aside = nothing
) -> Tensor:
    """Every copy, by two exchanges there and two back."""
    me, (places, node) = ranks.members[ranks.rank], levels
    own, landing = _own(routing, me), _landing(routing.home, routing.owner, node.size)
    way = Way(places, x[own], routing.home, landing)
    aside()
    rows = Way(node, way.wait(), landing, routing.owner).wait()
    results = compute(rows, routing.only(routing.owner == me))
    results = Way(node, results, routing.owner, landing).wait()
    back = Way(places, results, landing, routing.home).wait()
    return added(back * routing.gate[routing.home == me][:, None], own, len(x))


def once(
    ranks: Ranks,
    levels: tuple[Ranks, Ranks],
    there: Formats,
    home: Formats,
    routing: Routing,
    compute: Compute,
    x: Tensor,
    aside: Aside = nothing,
) -> Tensor:
    """A token once to a node and once to a rank; weighed sums of a rank and of a node come back.

    Units are what travels: tokens by node, then tokens by rank.
    """
    me, (places, node) = ranks.members[ranks.rank], levels
    local, count = node.size, len(ranks.members)
    # By rank: which copies share a row, its token, the rank it goes to and the one where it enters that node.
    keys, shared = torch.unique(routing.token * count + routing.owner, return_inverse=True)
    token, owner = keys // count, keys % count
    origin = token // routing.tokens
    landing = _landing(origin, owner, local)
    # By node: which of those share a row.
    outer, joined = torch.unique(token * count + landing, return_inverse=True)
    of_node, entry = outer // count, outer % count
    sender = of_node // routing.tokens
    own = of_node[sender == me] - me * routing.tokens

    way = Way(places, x[own], sender, entry, there)
    aside()
    rows = way.wait()[_place(entry == me)[joined[landing == me]]]
    rows = Way(node, rows, landing, owner, there).wait()
    mine = routing.owner == me
    within = _place(owner == me)[shared[mine]]
    weighed = compute(rows[within], routing.only(mine)) * routing.gate[mine][:, None]
    sums = Way(node, added(weighed, within, len(rows)), owner, landing, home).wait()
    sums = added(sums, _place(entry == me)[joined[landing == me]], int((entry == me).sum()))
    return added(Way(places, sums, entry, sender, home).wait(), own, len(x))


def _place(here: Tensor) -> Tensor:
    """Place of each unit among those that are here."""
    return torch.cumsum(here, 0) - 1


def chunked(
    ranks: Ranks, levels: tuple[Ranks, Ranks] | None, degree: int, routing: Routing, compute: Compute, x: Tensor
) -> Tensor:
    """Chunk i + 1 sets off before chunk i is computed, and the results of i before those of i - 1 are taken in."""
    me = ranks.members[ranks.rank]
    first, second = (ranks, None) if levels is None else levels
    size = routing.tokens // degree
    chunks = [routing.only(routing.token % routing.tokens // size == number) for number in range(degree)]
    landings = [c.owner if second is None else _landing(c.home, c.owner, second.size) for c in chunks]

    def away(number: int) -> Way:
        return Way(first, x[_own(chunks[number], me)], chunks[number].home, landings[number])

    def done(number: int, way: Way) -> Way:
        chunk, rows = chunks[number], way.wait()
        if second is not None:
            rows = Way(second, rows, landings[number], chunk.owner).wait()
        results = compute(rows, chunk.only(chunk.owner == me))
        if second is not None:
            results = Way(second, results, chunk.owner, landings[number]).wait()
        return Way(first, results, landings[number], chunk.home)

    out, coming, returning = torch.zeros_like(x), away(0), []
    for number in range(degree):
        here = coming
        if number + 1 < degree:
            coming = away(number + 1)
        returning.append(done(number, here))
    for chunk, way in zip(chunks, returning, strict=True):
        gate = chunk.gate[chunk.home == me][:, None]
        out = out + added(way.wait() * gate, _own(chunk, me), len(x))
    return out


def in_turn(ranks: Ranks, routing: Routing, compute: Compute, x: Tensor) -> Tensor:
    """Two sequences: each goes on while the other waits for an exchange."""
    me, half = ranks.members[ranks.rank], routing.tokens // 2
    lanes = [routing.only(routing.token % routing.tokens // half == number) for number in range(2)]
    after = [x[number * half : (number + 1) * half] for number in range(2)]
    ways = []
    for number, lane in enumerate(lanes):
        after[number] = after[number] + attention(after[number])
        own = _own(lane, me) - number * half
        ways.append(Way(ranks, after[number][own], lane.home, lane.owner))
    back = []
    for way, lane in zip(ways, lanes, strict=True):
        results = compute(way.wait(), lane.only(lane.owner == me))
        back.append(Way(ranks, results, lane.owner, lane.home))
    outs = []
    for number, (way, lane) in enumerate(zip(back, lanes, strict=True)):
        gate, own = lane.gate[lane.home == me][:, None], _own(lane, me) - number * half
        outs.append(after[number] + added(way.wait() * gate, own, half))
    return torch.cat(outs)
