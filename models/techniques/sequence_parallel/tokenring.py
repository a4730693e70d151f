"""TokenRing: keys and values stay; queries go round one way while outputs go back the other.

arXiv 2412.20501 and its released code: at step s a rank works on the queries of the rank s further round, whose
output and log-sum-exp it then returns straight to their owner, under the next step's attention. The last output
returns with nothing beside it. With causal attention over zigzag parts, queries go on whole only while a rank
to come needs both halves of them. The backward pass is not in the released code; taken here: outer gradients,
softmax statistics and queries travel together, the queries' gradients return.

Each way carries `hidden` wide rows, where a ring of keys and values carries twice the key/value width one way:
with more than two query heads to a key/value head TokenRing moves more per direction, not less.
"""

from __future__ import annotations

from typing import Literal

from ....hardware.errors import InputError
from ...attention import block
from ...blocks import Attend
from ...build import Builder, Handle
from ...kernels import Kernel
from .. import technique

STATISTIC = 4.0  # bytes of a log-sum-exp, fp32
# The running output is fp32, read and written; the block's output is read in the format of activations.
RUNNING = 2 * 4.0


def rows(causal: bool, layout: str, ranks: int, owner: int, holder: int) -> tuple[float, float]:
    """Part of its owner's queries that a rank works on, and of its own keys they see.

    Parameters
    ----------
    causal : bool
    layout : str
        zigzag | contiguous.
    ranks : int
    owner, holder : int
        Whose queries, on which rank.
    """
    if not causal or owner == holder:
        return 1.0, 1.0
    if layout == "contiguous":
        return (1.0, 1.0) if owner > holder else (0.0, 0.0)
    return (1.0, 0.5) if owner > holder else (0.5, 1.0)


@technique(
    family="sequence_parallel",
    paper="TokenRing, arXiv 2412.20501",
    needs="links that carry both directions at once; few query heads per key/value head",
)
def tokenring(
    core: Attend, build: Builder, after: Handle, *, layout: Literal["zigzag", "contiguous"] = "zigzag"
) -> Handle:
    """Queries to the previous rank, outputs of the step before to their owners, attention beside both."""
    if core.linear:
        raise InputError("techniques: tokenring passes softmax statistics (legal: models without linear attention)")
    count = int(build.cp_size)
    make, backward = build.kernels, core.direction == "backward"
    every = range(count)
    owners = [[(rank + step) % count for rank in every] for step in every]
    parts = [[rows(core.causal, layout, count, o, r) for r, o in enumerate(row)] for row in owners]

    def wide(width: float, each_head: float) -> float:
        """Bytes of all a rank's rows: some of a head's width, and statistics per head."""
        return core.batch * core.query * core.heads * (width * make.size + each_head)

    # Queries; in the backward pass outer gradients, log-sum-exps and row sums of gradients besides.
    going = wide(core.head_dim + (core.value_dim if backward else 0), 2 * STATISTIC if backward else 0.0)
    returning = wide(core.head_dim, 0.0) if backward else wide(core.value_dim, STATISTIC)

    def attention(step: int) -> list[tuple[Kernel, ...]]:
        diagonal = step == 0 and core.causal
        return [block(core, make, core.query * q, core.query * k, diagonal) if q else () for q, k in parts[step]]

    def merged(step: int) -> list[tuple[Kernel, ...]]:
        """Addition of the outputs a rank receives after a step, by their owner."""
        width = core.head_dim if backward else core.value_dim
        found = []
        for rank in every:
            share = parts[step][(rank - step) % count][0]
            elements = core.batch * core.query * core.heads * width * share
            found.append(make.streamed("merge", elements * (RUNNING + make.size)) if elements else ())
        return found

    held, done = after, after
    for step in every:
        received: Handle = ()
        returned: Handle = ()
        if step < count - 1:
            # What the rank before still needs: nothing, the half after its own part, or all.
            needed = [rows(core.causal, layout, count, o, (r - 1) % count)[0] for r, o in enumerate(owners[step])]
            received = build.shift([going * part for part in needed], held, "queries", distance=-1)
        if step > 1:
            returned = build.shift([returning * q for q, _ in parts[step - 1]], done, "outputs", distance=step - 1)
        done = build.each(attention(step), held)
        ready = build.join(tuple(handle for handle in (done, returned) if handle))
        if step != 1:
            ready = build.each(merged(max(0, step - 1)), ready)
        held = build.join((received, ready)) if received else ready
        done = ready
    if count > 1:
        last = build.shift([returning * q for q, _ in parts[count - 1]], done, "outputs", distance=count - 1)
        held = build.each(merged(count - 1), build.join((held, last)))
    return held
