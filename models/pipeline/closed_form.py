"""Time of a pipeline of chunks in closed form, for one plan or for arrays of plans.

A stage is never done before its own work (the busiest stage sets the pace), nor before the first
micro-batch has reached it and the last has gone back (the fill and drain, what papers call the bubble).
Sources as in `orders`; the transfers' part follows from the cycles of the event graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Stage = tuple[Any, Any, Any]  # forward, backward (of the input where split), weight gradients [s]


def pipeline_time(
    schedule: str,
    pp: Any,
    vp: Any,
    micro_batches: Any,
    whole: Stage,
    stages: Sequence[Stage],
    before: Sequence[Any],
    fullest: Any,
    transfer: Any,
    hidden: bool,
) -> Any:
    """Seconds from the first forward to the last backward pass.

    Parameters
    ----------
    schedule : str
        One of `orders.SCHEDULES`; one for all plans.
    pp, vp, micro_batches : int or array
    whole : tuple
        Forward, backward and weight gradients of one micro-batch through all stages.
    stages : sequence of tuple
        The same of each unlike stage, all its chunks together.
    before : sequence of float or array
        Seconds of one micro-batch, forward and back, on all stages before each of these.
    fullest : float or array
        The same on the chunk with most layers.
    transfer : float or array
        An activation from stage to stage.
    hidden : bool
        Whether a stage computes on while it sends.

    Returns
    -------
    float or array
    """
    m, hops = micro_batches, 2 * (pp - 1) * transfer
    if schedule == "gpipe":
        forward, backward = (_most([stage[i] for stage in stages]) for i in (0, 1))
        sends = 0.0 if hidden else 2 * (m - 1) * transfer * np.greater(pp, 1)
        return whole[0] + whole[1] + (m - 1) * (forward + backward) + hops + sends
    pace = _most([sum(stage) for stage in stages])
    everything = sum(whole)
    if schedule in ("interleaved", "combined-1f1b"):
        backward = _most([stage[1] for stage in stages])
        return _interleaved(pp, vp, m, everything, pace, fullest, backward, transfer, hidden)
    if schedule == "zero-bubble":
        # Weight gradients fill the drain: a stage runs one of them for each stage before it.
        fill = whole[0] + whole[1] - _most([stage[0] + stage[1] for stage in stages])
        weight = _most([stage[2] for stage in stages])
        return (
            m * pace
            + np.maximum(fill - np.minimum(pp, m) * weight + weight, 0.0)
            + hops
            + _waits(pp, m, transfer, hidden)
        )
    if schedule == "dualpipe":
        return _dualpipe(pp, m, whole, stages, transfer, hidden)
    # All micro-batches pass the stage that sets the pace, and the first has come through those before it.
    paced = _most([first + m * sum(stage) for first, stage in zip(before, stages, strict=True)])
    if hidden:
        # A stage holds as many micro-batches as there are stages to the end, so a round trip may set the pace.
        paced = np.maximum(paced, everything + (m - 1) * (everything + hops) / pp)
    return np.maximum(paced, everything) + hops + _waits(pp, m, transfer, hidden)


def joint_gain(forward: Any, forward_exposed: Any, backward: Any, backward_exposed: Any) -> Any:
    """Seconds saved by running a forward and a backward pass as one.

    Collectives that each leaves exposed run under kernels of the other, as far as those last.

    Parameters
    ----------
    forward, forward_exposed, backward, backward_exposed : float or array
        Times, and the parts of them in which only collectives run.
    """
    under_backward = np.minimum(forward_exposed, backward - backward_exposed)
    under_forward = np.minimum(backward_exposed, forward - forward_exposed)
    return np.minimum(under_backward + under_forward, np.minimum(forward, backward))


def _waits(pp: Any, m: Any, transfer: Any, hidden: bool) -> Any:
    """What sending costs the busiest stage, beside filling and draining: a message each way per micro-batch."""
    if hidden:
        return 0.0
    return (m - 1) * transfer * np.where(np.greater(pp, 2), 2, np.where(np.equal(pp, 2), 1, 0))


def joined_passes(schedule: str, pp: Any, vp: Any, m: Any) -> Any:
    """Forward passes of m that run as one with a backward pass.

    In dualpipe read off the program of even stages; combined 1F1B joins all but those of the last stage's warm-up.
    """
    if schedule == "combined-1f1b":
        return np.maximum(m - ((np.asarray(vp) - 1) * pp + 1) / vp, 0.0)
    return np.maximum(np.minimum(m - pp / 2 - 2, 2 * (m - pp)), 0.0)


def _dualpipe(pp: Any, m: Any, whole: Stage, stages: Sequence[Stage], transfer: Any, hidden: bool) -> Any:
    """Of a pair of stages a rank runs both, each for half of the micro-batches.

    arXiv 2412.19437, table 2: a bubble of (pp / 2 - 1)(F&B + B - 3 W), with B the whole backward pass and F&B not
    yet joined here. Fewer than two micro-batches per stage leave passes that have nothing to run beside, and how
    often a transfer is waited for was read off the program of even stages.
    """
    short = np.clip(4 - 2 * m / pp, 0.0, 2.0)  # 0: two micro-batches per stage, 2: one
    ends, middle = np.maximum(short - 1, 0.0), np.minimum(short, 1.0)

    def idle(forward: Any, backward: Any, weight: Any) -> Any:
        return forward * (1 - ends) + 2 * backward - weight * (1 - middle - ends)

    # A pair of ranks runs two of pp stages; the others make it wait.
    found = _most([m * sum(stage) + np.maximum(0.5 * idle(*whole) - idle(*stage), 0.0) for stage in stages])
    found = np.where(np.greater(pp, 2), found, m * _most([sum(stage) for stage in stages]))
    if hidden:
        waits = m * (1 - 1 / pp) + 1.5 * pp - 3 + np.equal(pp, 2)
    else:
        waits = np.where(np.equal(pp, 2), m / 2 + 2, m + 2 * pp - 3)
    return found + waits * transfer


def _interleaved(
    pp: Any, vp: Any, m: Any, everything: Any, pace: Any, fullest: Any, backward: Any, transfer: Any, hidden: bool
) -> Any:
    """Chunks take turns every pp micro-batches; the last round may be short, and its turns too."""
    rest = np.mod(m, pp)
    short = np.where(np.greater(rest, 0), (pp - rest) * (vp - 1) * backward / vp, 0.0)
    # Chunks of unlike size wait for the fullest as they fill and drain.
    fill = np.maximum(np.maximum(everything - pace, 0.0) / vp, (pp - 1) * fullest)
    rounds = m * pace + fill + short
    # Too few for one round, they wait at every turn for the first of them to come around.
    found = np.where(np.less(m, pp), np.maximum(everything, pace) + (m - 1) * pace / vp, rounds)
    sends = 2 * (pp * vp - 1) * transfer * np.greater(pp, 1)
    if not hidden:
        sends = sends + transfer * np.where(np.greater(pp, 1), np.where(np.greater(m, pp), m * vp - 1, pp - 1), 0)
    return found + sends


def _most(values: Sequence[Any]) -> Any:
    found = values[0]
    for value in values[1:]:
        found = np.maximum(found, value)
    return found
