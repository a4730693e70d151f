"""``make demo``: Llama-3.1-70B on eight H100s, predicted beside measured, then T3 on the same model."""

from __future__ import annotations

from ..models.predict import simulate
from ..models.scenario import Scenario
from .claims import read_claims
from .ladder import parse, scenario_data

VARIANTS = {
    "baseline": "baseline",
    "parallel_attention": "parallel",
    "ladder_residual": "ladder",
    "no_communication": "no comm.",
}
GRID = [(tp, batch) for tp in (2, 4, 8) for batch in (1, 4, 16, 64)]


def main() -> None:
    """Print both tables."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    measured = {}
    for claim in read_claims("ladder_residual"):
        config = parse(claim)
        if config and config["p2p"] and config["model"] == "ladder-70b" and claim["metric"] == "end-to-end throughput":
            measured[config["tp"], config["batch"], config["technique"]] = float(claim["reported"])
    table, fused = [], []
    for tp, batch in track(GRID, "predicting", console=console, transient=True, disable=not console.is_terminal):
        table.append(_measured_line(tp, batch, measured))
        fused.append(_t3_line(tp, batch))
    print("Llama-3.1-70B, 8 x H100 (NVSwitch), prompt 1024 + 512 new tokens, bf16.")
    print("tokens/s predicted | measured, and speed-up over baseline predicted | measured")
    print("(measured: arXiv 2501.06589, benchmark repository; - where none is shipped; '*' does not fit in 80 GB)\n")
    print(
        f"{'tp':>2} {'batch':>5}  {'baseline':^15}"
        + "".join(f"  {label + ', speed-up':^29}" for label in list(VARIANTS.values())[1:])
    )
    print("\n".join(table))
    print("\nT3 on the same model and machine, near-memory reduction assumed in its HBM: speed-up over baseline")
    print("(ideal: an ordinary reduce-scatter hidden for free, which still has to be launched)\n")
    columns = f"{'mca':>6} {'ideal':>6}"
    print(
        f"{'tp':>2} {'batch':>5}  {'prefill: plain':>14} {columns}   {'decode: plain':>13} {columns}   {'run: mca':>14}"
    )
    print("\n".join(fused))


def _measured_line(tp: int, batch: int, measured: dict[tuple[int, int, str], float]) -> str:
    cells = []
    base = None
    for technique in VARIANTS:
        result = simulate(Scenario.from_dict(scenario_data("llama-3.1-70b", tp, batch, True, technique)))
        seen = measured.get((tp, batch, technique))
        rate = f"{result.tokens_per_second:7.1f}|{_number(seen, '7.1f')}"
        if base is None:
            base, base_seen, mark = result, seen, "" if result.fits else "*"
            cells.append(rate + mark.ljust(1))
            continue
        gain = seen / base_seen if seen and base_seen else None
        cells.append(f"{rate} {base.time_s / result.time_s:6.3f}|{_number(gain, '6.3f')}")
    return f"{tp:>2} {batch:>5} " + "  ".join(cells)


def _t3_line(tp: int, batch: int) -> str:
    def run(technique: str | dict[str, str]) -> dict[str, float]:
        data = {
            **scenario_data("llama-3.1-70b", tp, batch, True, "baseline"),
            "techniques": [technique],
        }
        result = simulate(Scenario.from_dict(data))
        return {name: trace.makespan for name, trace in result.traces.items()} | {"whole": result.time_s}

    base = run("baseline")
    found = {a: run({"name": "t3", "arbitration": a}) for a in ("plain", "mca", "ideal")}
    cells = {phase: [base[phase] / found[a][phase] for a in found] for phase in ("prefill", "decode")}
    prefill, decode = ("{:>14.3f} {:>6.3f} {:>6.3f}".format(*cells[p]) for p in ("prefill", "decode"))
    return f"{tp:>2} {batch:>5}  {prefill}   {decode[1:]}   {base['whole'] / found['mca']['whole']:>14.3f}"


def _number(value: float | None, form: str) -> str:
    width = int(form.split(".")[0])
    return "-".rjust(width) if value is None else format(value, form)


if __name__ == "__main__":
    main()
