"""Plans that do not mix degrees: what FlexSP is compared with, and begins from.

`plan_static` is Ulysses under ZeRO with one degree for all and best-fit packing, as with DeepSpeed;
`plan_adaptive` takes the best such degree for each batch; `plan_packed` is data parallelism over groups of
context parallelism, whose groups do not wait for each other between micro-batches; `megatron_costs`
turns the costs of a rank into those of a tensor x context parallel group for it.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from numpy.typing import ArrayLike

from ..hardware.errors import InputError
from .packing import best_fit
from .sequence_input import checked, shares, usable
from .sequences import SequenceCosts, SequencePlan


def plan_static(
    lengths: ArrayLike, costs: SequenceCosts, ranks: int, degree: int | None = None, *, context: int | None = None
) -> SequencePlan:
    """Groups of one degree, each taking one pack in a micro-batch.

    Parameters
    ----------
    lengths : array_like of int, shape (sequences,)
    costs : SequenceCosts
    ranks : int
    degree : int, optional
        Default the smallest whose groups hold the longest sequence (or `context`).
    context : int, optional
        Most tokens of a pack; default what a group has memory for.

    Raises
    ------
    InputError
        For lengths that no plan holds, or that this degree or context does not.
    """
    begin = perf_counter()
    given = checked(lengths, costs, ranks)
    longest = int(max(given.max(), context or 0))
    if context is not None and context < given.max():
        raise InputError(f"context: {context} (legal: {given.max()} or more, the longest sequence)")
    if degree is None:
        wide = [d for d in usable(costs, ranks) if d * costs.tokens >= longest]
        degree = (wide or [usable(costs, ranks)[-1]])[0]
    usable(costs, ranks, degree)
    holds = int(degree * costs.tokens)
    if holds < given.max():
        raise InputError(
            f"lengths[{int(given.argmax())}]: {given.max()} tokens on groups of {degree} ranks (legal: 1 to {holds})"
        )
    packs = best_fit(given, min(holds, context or holds))
    abreast = ranks // degree
    rounds = [packs[first : first + abreast] for first in range(0, len(packs), abreast)]
    time = sum(max(costs.time(given[pack], degree) for pack in some) for some in rounds)
    return SequencePlan(
        "static",
        ranks,
        tuple(shares([(degree, pack) for pack in some]) for some in rounds),
        time,
        seconds=perf_counter() - begin,
        notes=(f"degree {degree}",),
    )


def plan_adaptive(lengths: ArrayLike, costs: SequenceCosts, ranks: int) -> SequencePlan:
    """The best of `plan_static` over all degrees whose groups hold the longest sequence.

    Raises
    ------
    InputError
        For lengths that no plan holds.
    """
    begin = perf_counter()
    given = checked(lengths, costs, ranks)
    wide = [d for d in usable(costs, ranks) if int(d * costs.tokens) >= given.max()]
    best = min((plan_static(given, costs, ranks, d) for d in wide), key=lambda plan: plan.time)
    return replace(best, method="adaptive", seconds=perf_counter() - begin)


def plan_packed(
    lengths: ArrayLike, costs: SequenceCosts, ranks: int, cp: int, *, context: int | None = None
) -> SequencePlan:
    """Data parallelism over groups of `cp` ranks: packs are dealt out in turn, and groups meet at the end.

    Parameters
    ----------
    lengths, costs, ranks, context
        As in `plan_static`.
    cp : int
        Ranks of a group.

    Raises
    ------
    InputError
        For lengths that no plan holds, or that groups of `cp` ranks do not.
    """
    rounds = plan_static(lengths, costs, ranks, cp, context=context)
    given = checked(lengths, costs, ranks)
    busy: dict[int, float] = {}
    for some in rounds.micro_batches:
        for share in some:
            busy[share.ranks[0]] = busy.get(share.ranks[0], 0.0) + costs.time(given[list(share.sequences)], cp)
    return replace(rounds, method="packed", time=max(busy.values()), barrier=False)


def megatron_costs(
    costs: SequenceCosts,
    tp: int,
    cp: int,
    *,
    gathered: float,
    tp_bandwidth: float,
    ring: float = 0.0,
    cp_bandwidth: float = float("inf"),
    state_bytes: float | None = None,
) -> SequenceCosts:
    """Costs of a group of tp x cp ranks that gathers and scatters activations for tensor parallelism.

    Parameters
    ----------
    costs : SequenceCosts
        For compute, activations and memory.
    tp, cp : int
    gathered : float
        Bytes all-gathered and reduce-scattered for every token, forward and backward, all layers together.
    tp_bandwidth : float
        Bytes a second of one rank in such a collective (bus bandwidth).
    ring : float
        Bytes of keys and values, forward and backward, all layers together, that a token sends a step of the ring
        and that attention does not hide.
    cp_bandwidth : float
        Bytes a second of one rank in the ring.
    state_bytes : float, optional
        Default that of `costs`.

    Returns
    -------
    SequenceCosts
        With the one degree tp x cp, for `plan_packed` or `plan_static`.
    """
    degree = tp * cp
    # A rank has 1/cp of the tokens; collectives move (tp - 1) / tp of them, the ring 1/tp of the heads cp - 1 times.
    seconds = gathered * (tp - 1) / tp / tp_bandwidth / cp + ring / tp * (cp - 1) / cp / cp_bandwidth
    return replace(
        costs,
        exchanged=seconds * degree,
        bandwidth={degree: 1.0},
        state_bytes=costs.state_bytes if state_bytes is None else state_bytes,
    )
