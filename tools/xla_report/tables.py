"""The tables that people read."""

from __future__ import annotations

from typing import Any

from tools.xla_report.topologies import GIB, Chip


def format_report(report: dict[str, Any], chip: Chip) -> str:
    """Returns the tables that people read."""
    lines = [f"compiled in           {report['compile_seconds']:.0f} s"]
    if not report["fits"] and "error" in report:
        return "\n".join([*lines, f"does not fit          {report['error']}"])
    memory = report["memory"]
    if report["flops"] is not None:
        lines += [
            f"operations            {report['flops'] / 1e12:.3f} TFLOP a chip",
            f"memory traffic        {report['bytes_accessed'] / 1e9:.2f} GB",
        ]
    lines += [
        f"peak memory           {memory['peak'] / GIB:.2f} of {memory['available'] / GIB:.1f} GiB"
        f"{'' if report['fits'] else ': DOES NOT FIT'}",
        f"  arguments, code     {(memory['arguments'] + memory['code']) / GIB:.2f} GiB",
        f"  temporaries         {memory['temporaries'] / GIB:.2f} GiB",
        f"  images that fit     about {memory['images_that_fit']} a chip",
    ]
    if report["estimated_seconds"]:
        lines += [
            f"estimated cycles      {report['estimated_cycles'] / 1e6:.2f} million",
            f"estimated step time   {report['estimated_seconds'] * 1e3:.1f} ms at "
            f"{chip.clock / 1e9:.2f} GHz, {report['share_of_peak']:.0%} of the chip's peak",
        ]
        if report["loop_cycles"]:
            lines.append(
                f"  loops besides       {report['loop_cycles'] / 1e6:.2f} million cycles, "
                f"{report['unknown_loops']} loops of unknown length"
            )
    if report["without_estimate"]:
        kinds = ", ".join(f"{n} {kind}" for kind, n in report["without_estimate"].items())
        lines.append(f"{'not estimated' if chip.clock else 'kernels':22}{kinds}")
    if report["collectives"]:
        lines += ["", f"{'collective':20}{'number':>8}{'MB':>10}"]
        lines += [
            f"{kind:20}{row['count']:8}{row['bytes'] / 1e6:10.2f}"
            for kind, row in report["collectives"].items()
        ]
    for name in ("kinds", "parts", "sources") if report["costliest"] else ():
        lines += ["", f"{'million cycles':>14}{'forward':>10}{'backward':>10}  {name}"]
        for key, row in report[name].items():
            total = row["forward"] + row["backward"]
            if total >= 0.002 * report["estimated_cycles"]:
                lines.append(
                    f"{total / 1e6:14.2f}{row['forward'] / 1e6:10.2f}{row['backward'] / 1e6:10.2f}"
                    f"  {key or '(not of the model)'}"
                )
    if report["costliest"]:
        lines += ["", f"{'million cycles':>14}{'share':>7}  {'kind':12} {'source':28} operation"]
        lines += [
            f"{row['cycles'] / 1e6:14.3f}{row['cycles'] / report['estimated_cycles']:7.1%}"
            f"  {row['kind']:12} {row['source']:28} {row['operation']}"
            for row in report["costliest"]
        ]
    return "\n".join(lines)
