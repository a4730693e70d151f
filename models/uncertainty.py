"""How sure a prediction is: errors drawn for all it is made of, carried through the closed form at once.

Every distinct kernel and collective has a factor on its time, and equal ones share it. Factors of unlike ones are
drawn apart. In the residuals of the shipped profiles that holds for products and attention (correlations of -0.06 to
0.11 among rows with a size in common), and for a kind of collective over sizes (0.02). It does not quite for streaming
kernels of one operation and as many rows (0.2 to 0.4) and for kinds of collective at one size (0.4): sums of these
are a little less sure than drawn. A draw of all factors is one entry of arrays, so one pass of a `Clock` times all
draws. Where a software stack's whole steps were measured, their spread is that of a prediction, whatever it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .fitted import fitted
from .kernels import Kernel
from .spread import Z
from .techniques import BASELINE, TechniqueCall
from .training.cost import Cost

if TYPE_CHECKING:
    from .architecture import Transformer
    from .scenario import Scenario

Factors = NDArray[np.float64]

SAMPLES = 256  # draws; strata of a Latin hypercube, so their quantiles are those of many more drawn freely
PRESET = Path(__file__).parent / "presets" / "spreads.yaml"


@dataclass(frozen=True, slots=True)
class Spreads:
    """Standard deviations of the logarithm of measured over predicted, for what a scenario is made of.

    Parameters
    ----------
    kernels : Mapping
        By kind of kernel.
    together : float
        Of kernels of all other kinds, which are off by one factor.
    apart : bool
        Whether each distinct kernel of a kind is off by itself, or all of a kind together.
    inside : callable
        Of a collective inside a node, by its bytes.
    across : float
        Of collectives between nodes.
    stack : float
        Of what a software stack makes of the kernels, the whole of it off by one factor.
    whole : float or None
        Of whole steps made of just these kernels; None where they were not measured.
    """

    kernels: Mapping[str, float]
    together: float
    apart: bool
    inside: Callable[[float], float]
    across: float
    stack: float
    whole: float | None


def spreads_of(scenario: Scenario) -> Spreads | None:
    """What is known of errors in a scenario; None where neither its stack nor its kernels were calibrated."""
    device, link, nic = scenario.cluster.device, scenario.cluster.link, scenario.cluster.nic
    general, step = preset(), step_spread(scenario)
    inside = partial(link.profile.spread_at, default=general["links"])
    across = general["links"] if nic is None else nic.profile.spread_at(np.inf, general["links"])
    times = fitted(device)
    if times is None:
        # What whole steps are off is taken to be their kernels' part; collectives are off besides.
        return None if step is None else Spreads({}, step, True, inside, across, 0.0, step)
    kernels = {kind: _kernel_spread(score, times.home) for kind, score in times.scores.items() if score}
    widest = max(kernels.values(), default=general["elsewhere"])
    # A stack was fitted with kernels by the preset's formulas; with others in their place its steps are off further.
    stack = 0.0 if step is None else float(np.hypot(step, general["profiles"]))
    return Spreads(kernels, widest, times.home, inside, across, stack, None)


def _kernel_spread(score: Mapping[str, Any], home: bool) -> float:
    """Spread of a kind of kernel by its errors in cross-validation, or on another device."""
    if not home:
        return float(score.get("elsewhere", preset()["elsewhere"]))
    return float(score.get("spread", score["mean"] * np.sqrt(np.pi / 2)))  # as normal errors of that mean have it


def sort_of(model: Transformer) -> str:
    """Sort of model that whole steps are told apart by."""
    return "mixture" if model.experts else "dense"


def step_spread(scenario: Scenario) -> float | None:
    """Spread of whole steps of the scenario's stack on its device; None where none were measured."""
    software, device = scenario.software, scenario.cluster.device
    if device.name not in software.calibrated_on:
        return None
    found = software.spread.get(sort_of(scenario.model))
    if found is None and software.error is not None:
        found = float(np.log1p(software.error)) / Z
    return found


@cache
def preset() -> Mapping[str, float]:
    """Spreads that are of no profile; each says in the file what it is from.

    `links` without a profile, kernels `elsewhere` than they were measured, what `profiles` of kernels change in a
    stack's steps, what `techniques` change in a program.
    """
    from ..hardware.files import read_yaml

    return {name: float(entry["value"]) for name, entry in read_yaml(PRESET).items()}


@dataclass(frozen=True)
class Draws:
    """Factors on times, one drawn for every distinct kernel and collective; the first of each is 1: as predicted.

    What a factor is of decides its draw, together with the seed. So the same kernel is off by the same factor in two
    scenarios, and their errors cancel as far as they have the same parts.

    Parameters
    ----------
    spreads : Spreads
    seed : int
    known : dict
        Factors that were drawn.
    """

    spreads: Spreads
    seed: int = 0
    known: dict[str, Factors] = field(default_factory=dict)

    def factors(self, what: str, spread: float) -> Factors:
        """Factors of something by its name, of shape (SAMPLES + 1,)."""
        if what not in self.known:
            drawn = np.random.default_rng([self.seed, crc32(what.encode())]).permutation(_strata())
            self.known[what] = np.exp(spread * np.concatenate([[0.0], drawn]))
        return self.known[what]

    def kernel(self, kernel: Kernel, decoding: bool = False) -> Factors:
        """Factors of a kernel."""
        kind = kind_of(kernel, decoding)
        if kind not in self.spreads.kernels:
            return self.factors("kernels", self.spreads.together)
        if not self.spreads.apart:
            return self.factors(kind, self.spreads.kernels[kind])
        numbers = (*(kernel.shape or (kernel.name, kernel.flops, kernel.memory_bytes)), kernel.groups)
        name = " x ".join(n if isinstance(n, str) else f"{float(n):.6g}" for n in (kind, *numbers))
        return self.factors(name, self.spreads.kernels[kind])

    def collective(self, kind: str, sent: float, across: bool) -> Factors:
        """Factors of a collective of which a rank sends so many bytes."""
        spread = self.spreads.across if across else self.spreads.inside(sent)
        return self.factors(f"{kind} of {float(sent):.6g} {'across' if across else 'inside'}", spread)

    def stack(self) -> Factors:
        """Factors of what a software stack makes of the kernels, of shape (SAMPLES,)."""
        return self.factors("stack", self.spreads.stack)[1:]

    def technique(self, call: TechniqueCall) -> Factors:
        """Factors of what a technique does that the baseline does not, of shape (SAMPLES,)."""
        if call.label == BASELINE:
            return np.ones(SAMPLES)
        return self.factors(f"technique {call.label}", preset()["techniques"])[1:]

    def cost(self, cost: Cost) -> Cost:
        """A message, or an update of weights, with its factors."""
        sent = {kind: float(size) for kind, size in cost.sent.items() if kind != "host" and np.any(size)}
        if sent:
            kind, size = next(iter(sent.items()))
            factors = self.collective(kind, size, bool(np.any(cost.nic_bytes)))
        elif np.any(cost.compute):
            factors = self.kernel(Kernel("update", 0.0, float(cost.memory_bytes), float(cost.time)))
        else:
            return cost
        changed = {name: getattr(cost, name) * factors for name in ("time", "compute", "communication", "sm_time")}
        return replace(cost, **changed)


@cache
def _strata() -> Factors:
    """Middles of equally likely parts of a normal distribution."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((index + 0.5) / SAMPLES) for index in range(SAMPLES)])


def kind_of(kernel: Kernel, decoding: bool = False) -> str:
    """Kind that a profile files a kernel under."""
    if kernel.shape is not None:
        return "gemm" if np.all(np.equal(kernel.groups, 1)) else "grouped_gemm"
    if kernel.core:
        return "attention_decode" if decoding else "attention_prefill"
    return "streaming"


def bounds(factors: Factors) -> tuple[float, float]:
    """The middle 90 % of factors, as factors of their median; sums of skewed errors lean up, predictions do not."""
    low, middle, high = np.quantile(factors, [0.05, 0.5, 0.95])
    return _digits(low / middle), _digits(high / middle)


def normal_bounds(spread: float) -> tuple[float, float]:
    """The middle 90 % of factors with a spread."""
    return _digits(np.exp(-Z * spread)), _digits(np.exp(Z * spread))


def _digits(factor: float) -> float:
    """A factor in digits that mean something, and that are the same on every machine."""
    return float(f"{factor:.6g}")
