"""``commlens list``: what there is to choose from."""

from __future__ import annotations

import typer

from .console import show

catalog = typer.Typer(help="What there is to choose from.", no_args_is_help=True, rich_markup_mode=None)


@catalog.command()
def techniques() -> None:
    """Print techniques, their family, paper, needs and options."""
    from .models import study

    show(study.techniques())


@catalog.command()
def models() -> None:
    """Print shipped models and their parameter counts."""
    import pandas as pd

    from .hardware.units import format_number
    from .models.library import load_model, model_names

    shapes = [load_model(name) for name in model_names()]
    show(
        pd.DataFrame(
            [
                {
                    "model": m.name,
                    "type": m.family,
                    "parameters": format_number(m.parameters()),
                    "active": format_number(m.active_parameters()),
                    "layers": m.layers,
                    "hidden": m.hidden,
                    "heads": f"{m.heads}/{m.kv_heads}",
                }
                for m in shapes
            ]
        )
    )


@catalog.command()
def devices() -> None:
    """Print shipped devices."""
    import pandas as pd

    from .hardware import device_names, load_device
    from .hardware.units import format_rate, format_size

    known = [load_device(name) for name in device_names()]
    show(
        pd.DataFrame(
            [
                {
                    "device": d.name,
                    "bf16 or fp16 TFLOP/s": round(
                        max(d.peak_flops.get("bf16", 0), d.peak_flops.get("fp16", 0)) / 1e12, 1
                    ),
                    "memory": format_size(d.memory_capacity),
                    "bandwidth": format_rate(d.memory_bandwidth),
                    "units": d.compute_units,
                }
                for d in known
            ]
        )
    )


@catalog.command()
def clusters() -> None:
    """Print shipped clusters."""
    import pandas as pd

    from .hardware import cluster_names, load_cluster
    from .hardware.units import format_rate

    known = [load_cluster(name) for name in cluster_names()]
    show(
        pd.DataFrame(
            [
                {
                    "cluster": c.name,
                    "device": c.device.name,
                    "per node": c.devices_per_node,
                    "fabric": c.fabric,
                    "link": format_rate(c.link.bandwidth),
                    "nic": format_rate(c.nic.bandwidth) if c.nic else "-",
                }
                for c in known
            ]
        )
    )


@catalog.command()
def software() -> None:
    """Print shipped software profiles."""
    import pandas as pd

    from .models.software import load_software, software_names

    known = [load_software(name) for name in software_names()]
    show(
        pd.DataFrame(
            [
                {
                    "software": s.name,
                    "attention": s.attention,
                    "kernel gap": s.kernel_overhead,
                    "collective overhead": s.collective_overhead,
                    "calibrated on": ", ".join(s.calibrated_on) or "-",
                }
                for s in known
            ]
        )
    )


@catalog.command()
def profiles() -> None:
    """Print shipped profiles of collectives."""
    import pandas as pd

    from .hardware import load_profile, profile_names
    from .hardware.units import format_rate

    known = [load_profile(name) for name in profile_names()]
    show(
        pd.DataFrame(
            [
                {
                    "profile": p.name,
                    "call (us)": 1e6 * p.low.base,
                    "hop (us)": 1e6 * p.low.hop,
                    "ring": format_rate(p.bulk.efficiency * (p.link_bandwidth or 0.0)),
                    "of": format_rate(p.link_bandwidth or 0.0),
                    "in switch": "-"
                    if p.in_switch is None
                    else format_rate(p.in_switch.efficiency * (p.link_bandwidth or 0.0)),
                    "held-out error": ", ".join(f"{key} {value:.1%}" for key, value in p.error.items()),
                }
                for p in known
            ]
        )
    )
