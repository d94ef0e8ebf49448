"""The engine's tables in benchmarks/README.md and the plot of scaling, both from the results files."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cases import Case
from .measuring import OURS, read_results

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- engine: begin, written by `python -m benchmarks.engine report` -->", "<!-- engine: end -->"
COMPARED = ("dpo", "grpo", "sampling", "reward", "sft")
Entry = dict[str, Any]


def write(folder: Path, *, readme: Path = README) -> None:
    """Rewrite the part of the README between the marks, and draw the plot beside the results.

    Raises:
        ValueError: the README lacks the marks.
    """
    text = readme.read_text()
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{readme}: expected the lines {BEGIN!r} and {END!r}, to write between them")
    readme.write_text(f"{before}{BEGIN}\n\n{tables(folder)}\n{END}{after}")
    if scaling := read_results(folder, "scaling"):
        plot(scaling, folder / "engine_scaling.png")


def tables(folder: Path) -> str:
    """All tables whose results exist, in Markdown."""
    known = {workload: read_results(folder, workload) for workload in (*COMPARED, "scaling", "ceiling", "precision")}
    entries = [entry for workload in COMPARED for entry in known[workload]]
    speed = {entry["case"]["dtype"]: entry for entry in known["ceiling"]}
    parts = [machines([entry for found in known.values() for entry in found])]
    if entries:
        parts += [_section("Time", times(entries)), _section("Best precision of each side", best_precision(entries))]
        parts += [
            _section("Memory", memories(entries)),
            _section("Agreement", agreements(entries)),
        ]
        parts += [_section("Floor", floors(entries, speed))]
    if known["grpo"]:
        parts.append(_section("Phases of a GRPO step", phases(known["grpo"])))
    if known["ceiling"]:
        parts.append(_section("Share of the ceiling", ceilings(known["ceiling"])))
    if known["precision"]:
        parts.append(_section("Distance from float64", distances(known["precision"])))
    if known["scaling"]:
        parts.append(_section("Scaling", growth(known["scaling"])))
    return "\n".join(parts)


def _section(title: str, lines: Iterator[str]) -> str:
    return f"### {title}\n\n" + "\n".join(lines) + "\n"


def machines(entries: list[Entry]) -> str:
    """Where and with which versions the figures were measured."""
    names = ("processor", "cores", "threads", "torch", "transformers", "trl")
    found = {", ".join(f"{name} {entry['machine'][name]}" for name in names) for entry in entries}
    loads = [entry["machine"]["load_1min"] for entry in entries]
    if not found:
        return "Nothing has been measured yet.\n"
    return f"Measured on: {'; '.join(sorted(found))}. Load during the runs: {min(loads):.1f} to {max(loads):.1f}.\n"


def times(entries: list[Entry]) -> Iterator[str]:
    """Ours and each peer, with the ratio and its range over the rounds."""
    yield "| case | plaudit | peer | | peer / plaudit (range) | rounds |"
    yield "|---|---:|---|---:|---:|---:|"
    for entry in entries:
        ours = entry["sides"][OURS]
        for name, side in _peers(entry):
            low, high = side["ratio_range"]
            yield (
                f"| {_named(entry)} | {ours['median_s']:.2f} s | {name} | {side['median_s']:.2f} s "
                f"| {side['ratio']:.2f} ({low:.2f} to {high:.2f}) | {len(side['seconds'])} |"
            )


def best_precision(entries: list[Entry]) -> Iterator[str]:
    """The ratio where each side takes its faster type, and a peer its faster way."""
    yield "| case | plaudit | best peer | peer / plaudit |"
    yield "|---|---:|---:|---:|"
    shapes: dict[str, list[Entry]] = {}
    for entry in entries:
        shapes.setdefault(_named(entry, dtype=False), []).append(entry)
    for shape, found in shapes.items():
        ours = min((entry["sides"][OURS]["median_s"], entry["case"]["dtype"]) for entry in found)
        peer = min(
            (side["median_s"], f"{entry['case']['dtype']}, {name}") for entry in found for name, side in _peers(entry)
        )
        yield f"| {shape} | {ours[0]:.2f} s ({ours[1]}) | {peer[0]:.2f} s ({peer[1]}) | {peer[0] / ours[0]:.2f} |"


def memories(entries: list[Entry]) -> Iterator[str]:
    """Peak of each side above what was loaded, and the whole process."""
    yield "| case | side | above what is loaded | whole process | peer / plaudit, above |"
    yield "|---|---|---:|---:|---:|"
    for entry in entries:
        for name, memory in entry.get("memory", {}).items():
            ratio = memory["step_bytes"] / entry["memory"][OURS]["step_bytes"]
            above, whole = (f"{memory[key] / 1e6:,.0f} MB" for key in ("step_bytes", "peak_bytes"))
            yield f"| {_named(entry)} | {name} | {above} | {whole} | {'' if name == OURS else f'{ratio:.2f}'} |"


def agreements(entries: list[Entry]) -> Iterator[str]:
    """How far losses and gradients are apart."""
    yield "| case | peer | loss, relative | gradient, relative | the worst tensor's gradient |"
    yield "|---|---|---:|---:|---:|"
    for entry in entries:
        for name, found in entry["agreement"].items():
            values = (found[key] for key in ("loss_relative", "gradient_relative", "gradient_relative_worst_tensor"))
            yield f"| {_named(entry)} | {name} | " + " | ".join(f"{value:.1e}" for value in values) + " |"


def floors(entries: list[Entry], speed: dict[str, Entry]) -> Iterator[str]:
    """FLOP and bytes that cannot be left out; in seconds where the ceiling of that type is known."""
    yield "| case | distinct tokens | TFLOP | GB | floor | plaudit / floor |"
    yield "|---|---:|---:|---:|---:|---:|"
    for entry in entries:
        floor, ceiling = entry["floor"], speed.get(entry["case"]["dtype"])
        seconds = ratio = ""
        if ceiling:
            products = floor["flop"] / ceiling["own_shapes_flop_per_s"]
            least = max(products, floor["bytes"] / ceiling["copy_bytes_per_s"])
            seconds, ratio = f"{least:.2f} s", f"{entry['sides'][OURS]['median_s'] / least:.2f}"
        amounts = f"{floor['tokens']:,} | {floor['flop'] / 1e12:.2f} | {floor['bytes'] / 1e9:.1f}"
        yield f"| {_named(entry)} | {amounts} | {seconds} | {ratio} |"


def phases(entries: list[Entry]) -> Iterator[str]:
    """Where the time of a step goes."""
    names = list(entries[0]["sides"][OURS]["phases_s"])
    yield f"| case | side | {' | '.join(names)} |"
    yield f"|---|---|{'---:|' * len(names)}"
    for entry in entries:
        for side, found in entry["sides"].items():
            yield (
                f"| {_named(entry)} | {side} | "
                + " | ".join(f"{found['phases_s'][name]:.2f} s" for name in names)
                + " |"
            )


def ceilings(entries: list[Entry]) -> Iterator[str]:
    """Rates of products and of a forward and backward pass."""
    yield "| case | 2,048 x 2,048 | own shapes | forward and backward | share of 2,048 x 2,048 | of own shapes | copy |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for entry in entries:
        names = ("square_flop_per_s", "own_shapes_flop_per_s", "pass_flop_per_s")
        rates = " | ".join(f"{entry[name] / 1e9:.0f} GFLOP/s" for name in names)
        shares = " | ".join(f"{entry[name]:.0%}" for name in ("share_of_square", "share_of_own_shapes"))
        yield f"| {_named(entry)} | {rates} | {shares} | {entry['copy_bytes_per_s'] / 1e9:.1f} GB/s |"


def distances(entries: list[Entry]) -> Iterator[str]:
    """Errors of log-probabilities, in nats, and of gradients, by type and path."""
    yield "| case | path | log-probability: root mean square | largest | gradient, relative | sampled from scored, largest |"
    yield "|---|---|---:|---:|---:|---:|"
    for entry in entries:
        for path in ("packed", "padded"):
            values = (entry[path][name] for name in ("log_prob_rms", "log_prob_largest", "gradient_relative"))
            sampled = f"{entry['sampled_largest']:.1e}" if path == "packed" else ""
            yield f"| {_named(entry)} | {path} | " + " | ".join(f"{v:.1e}" for v in values) + f" | {sampled} |"


def growth(entries: list[Entry]) -> Iterator[str]:
    """Seconds for G outputs, and by which factor a doubling of G multiplies them."""
    yield "![Time of forward and backward pass by outputs](results/engine_scaling.png)"
    yield ""
    counts = sorted({entry["case"]["outputs"] for entry in entries})
    yield f"| type, prompt | side | {' | '.join(f'G = {n}' for n in counts)} | factors per doubling |"
    yield f"|---|---|{'---:|' * len(counts)}---|"
    for (dtype, prompt, side), seconds in curves(entries).items():
        cells = [f"{seconds[n]:.2f} s" if n in seconds else "" for n in counts]
        factors = [f"{seconds[2 * n] / seconds[n]:.2f}" for n in counts if n in seconds and 2 * n in seconds]
        yield f"| {dtype}, {prompt} | {side} | {' | '.join(cells)} | {', '.join(factors)} |"


def curves(entries: list[Entry]) -> dict[tuple[str, int, str], dict[int, float]]:
    """Median seconds by (type, prompt's length, side) and number of outputs."""
    found: dict[tuple[str, int, str], dict[int, float]] = {}
    for entry in entries:
        case = entry["case"]
        for side, measured in entry["sides"].items():
            curve = found.setdefault((case["dtype"], case["prompt_tokens"], side), {})
            curve[case["outputs"]] = measured["median_s"]
    return found


def plot(entries: list[Entry], path: Path) -> None:
    """One panel per prompt length: seconds against outputs with the range over the rounds; the first type there is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    dtype = entries[0]["case"]["dtype"]
    shown = [entry for entry in entries if entry["case"]["dtype"] == dtype]
    lengths = sorted({entry["case"]["prompt_tokens"] for entry in shown})
    figure, axes = pyplot.subplots(
        1, len(lengths), figsize=(3.2 * len(lengths), 3.4), squeeze=False, layout="constrained"
    )
    looks = {OURS: ("#0072B2", "-", "o"), "padded": ("#E69F00", "--", "s"), "trl": ("#333333", ":", "^")}
    for axis, length in zip(axes[0], lengths, strict=True):
        of_length = sorted(
            (entry for entry in shown if entry["case"]["prompt_tokens"] == length), key=lambda e: e["case"]["outputs"]
        )
        counts = [entry["case"]["outputs"] for entry in of_length]
        for side, (colour, line, marker) in looks.items():
            times = [entry["sides"][side]["seconds"] for entry in of_length]
            middle = [statistics.median(each) for each in times]
            axis.plot(counts, middle, line, color=colour, marker=marker, markersize=4, label=side)
            axis.fill_between(counts, [min(t) for t in times], [max(t) for t in times], color=colour, alpha=0.2, lw=0)
        axis.set(title=f"prompt of {length} tokens", xlabel="outputs of the prompt", xscale="log", yscale="log")
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
    axes[0][0].set_ylabel(f"forward and backward pass, s ({dtype})")
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _peers(entry: Entry) -> Iterator[tuple[str, Any]]:
    return ((name, side) for name, side in entry["sides"].items() if name != OURS)


def _named(entry: Entry, *, dtype: bool = True) -> str:
    case = Case.of(entry["case"])
    name = str(case)
    return name if dtype else name.replace(f" {case.dtype}", "", 1)
