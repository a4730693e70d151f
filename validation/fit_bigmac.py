"""Prints the one fitted number of each framework of BigMac's paper, and what it leaves on rows it did not see.

Run: ``python -m commlens.validation.fit_bigmac``
"""

from __future__ import annotations

from statistics import fmean

from .bigmac import rows
from .bigmac_runs import CALIBRATION, overhead
from .claims import Row

OF = {"megatron": ("BM-T1-tr-", "BM-F3", "BM-F4"), "deepspeed": ("BM-T9",), "tutel": ("BM-F7",)}


def main() -> None:
    """Fit, then report errors in and out of the fit beside those of the trivial baseline."""
    every = list(rows())
    for framework, starts in OF.items():
        mine = [row for row in every if row.claim.startswith(starts)]
        print(f"{framework:10} {overhead(framework) * 1e6:7.0f} us a collective, fitted to {CALIBRATION[framework]}")
        for split in ("calibration", "held out"):
            some = [row for row in mine if row.split == split]
            print(f"{split:>20}: {len(some):2} rows, mean error {_mean(some):.1%}, trivial {_trivial(some):.1%}")


def _mean(some: list[Row]) -> float:
    return fmean(abs(row.error or 0.0) for row in some)


def _trivial(some: list[Row]) -> float:
    return fmean(abs(row.trivial / row.reported - 1) for row in some if row.trivial is not None)


if __name__ == "__main__":
    main()
