"""Train a small mixture of experts on text that ships with Python, and record how it routes text it has not seen.

    python -m commlens.validation.train_moe --out models/presets/routing

About eight minutes on one core; with one thread the result does not depend on how busy the machine is. The affinity in
the trace is the trained model's own: nothing in the training asks for it.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.routing.record import record_routing
from ..models.routing.statistics import affinity_by_layer, crossings, imbalance, loads, pair_counts
from ..models.routing.trace import RoutingTrace
from ..models.routing.trace_file import save_trace
from .small_moe import Pieces, Shape, SmallMoe, library_text, python_version

NAME = "stdlib-moe.npz"


@dataclass(frozen=True)
class Recipe:
    """How the model is trained.

    Parameters
    ----------
    steps, batch, seed : int
        Of sequences as long as the context.
    rate : float
        Peak of the learning rate, after a tenth of the steps; a cosine from there to a tenth of it.
    balance : float
        Weight of the balance loss, of Switch Transformer.
    recorded : int
        Sequences of held-out text whose routing is kept.
    """

    steps: int = 450
    batch: int = 16
    seed: int = 0
    rate: float = 3e-3
    balance: float = 1e-2
    recorded: int = 24

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        warm = max(1, self.steps // 10)
        done = max(0.0, (step - warm) / max(1, self.steps - warm))
        return self.rate * min((step + 1) / warm, 0.55 + 0.45 * math.cos(math.pi * done))


def train(model: SmallMoe, tokens: Tensor, context: int, recipe: Recipe) -> float:
    """Train; return the mean loss of the last tenth of the steps [nats per token]."""
    generator = torch.Generator().manual_seed(recipe.seed)
    # Scales of the norms are not decayed.
    decayed, kept = ([p for p in model.parameters() if (p.dim() >= 2) == wide] for wide in (True, False))
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 0.1}, {"params": kept}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0)
    begin, losses = perf_counter(), []
    for step in range(recipe.steps):
        starts = torch.randint(len(tokens) - context - 1, (recipe.batch, 1), generator=generator)
        loss, balance = model.losses(tokens[starts + torch.arange(context + 1)])
        torch.autograd.backward(loss + recipe.balance * balance)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 25 == 0 or step == recipe.steps - 1:
            spent = perf_counter() - begin
            print(f"step {step}: loss {losses[-1]:.3f}, balance {balance.item():.3f}, {spent:.0f} s", file=sys.stderr)
    return float(np.mean(losses[-max(1, recipe.steps // 10) :]))


@torch.no_grad()
def record(model: SmallMoe, tokens: Tensor, context: int, sequences: int) -> tuple[RoutingTrace, float]:
    """Routing of sequences all over a text, and their loss [nats per token]."""
    starts = torch.linspace(0, len(tokens) - context - 2, sequences).long()[:, None]
    some = tokens[starts + torch.arange(context + 1)]
    with record_routing(model, top_k=model.top_k) as recording:
        loss, _ = model.losses(some)
    return recording.trace(), float(loss)


def report(trace: RoutingTrace) -> str:
    """What a trace says, for people: load, affinity, and crossings before and after the best placement."""
    from ..solvers.expert_placement import place_experts, round_robin

    busiest = (loads(trace) * trace.count).max(axis=1).mean()
    rows = enumerate(zip(*affinity_by_layer(trace), strict=True))
    lines = [
        trace.describe(),
        f"load of the busiest expert over the mean: {busiest:.2f}, mean of layers",
        "boundary  largest probability  information [bits]  normalised  markov",
        *(f"{i:8d}  {a:19.3f}  {b:18.3f}  {c:10.3f}  {d:6.3f}" for i, (a, b, c, d) in rows),
        "crossings a token; unseen: placed by the first half of the tokens, counted on the others",
        "devices  random  rank order   best  saved  at least  unseen  busiest device",
    ]
    seen, unseen = (RoutingTrace(part, trace.count) for part in np.array_split(trace.experts, 2))
    for devices in (2, 4, 8):
        straight = round_robin(trace.layers, trace.count, devices)
        best = place_experts(pair_counts(trace), devices)
        half = place_experts(pair_counts(seen), devices, prove=False)
        before, after = (crossings(trace, device).devices for device in (straight, best.device))
        lines.append(
            f"{devices:7d}  {(trace.layers - 1) * (1 - 1 / devices):6.3f}  {before:10.3f}  {after:5.3f}  "
            f"{1 - after / before:5.1%}  {best.bound:8.3f}  {crossings(unseen, half.device).devices:6.3f}  "
            f"{imbalance(trace, best.device, devices).mean():14.2f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Train, record, write and print."""
    parser = argparse.ArgumentParser(prog="python -m commlens.validation.train_moe", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the trace")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    recipe, shape = Recipe(steps=given.steps, seed=given.seed), Shape()
    seen, held = library_text()
    pieces = Pieces(seen, shape.vocabulary)
    model = SmallMoe(shape)
    held_tokens = pieces.encode(held)
    _, before = record(model, held_tokens, shape.context, recipe.recorded)
    last = train(model, pieces.encode(seen), shape.context, recipe)
    trace, after = record(model, held_tokens, shape.context, recipe.recorded)
    losses = f"loss {before:.3f} before, {after:.3f} after on held-out text, {last:.3f} in training [nats per token]"
    source = (
        f"language model of {shape.layers} layers, width {shape.width}, {shape.experts} experts of width "
        f"{shape.expert_width}, top-{shape.top_k}, trained by validation/train_moe.py on the standard library of "
        f"Python {python_version()}: seed {recipe.seed}, {recipe.steps} steps of {recipe.batch * shape.context} "
        f"tokens, balance loss {recipe.balance:g}; {losses}; routing of {trace.tokens} held-out tokens"
    )
    gates = None if trace.gates is None else trace.gates.astype(np.float16).astype(np.float32)  # a third of the file
    trace = RoutingTrace(trace.experts, trace.count, gates, source, trace.layer_numbers)
    given.out.mkdir(parents=True, exist_ok=True)
    save_trace(trace, given.out / NAME)
    print(losses)
    print(report(trace))


if __name__ == "__main__":
    main()
