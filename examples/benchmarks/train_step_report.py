"""The report of `train_step.py`: a table, JSON and a plot."""

import json
import statistics
from pathlib import Path


def report(measured, peaks, args, peak, count_flops):
    """
    Prints a table, and writes `--json` and `--plot`.

    Args:
        measured: Steps by name, round by round, as `run_step` returns them.
        peaks: Peak memory by name, in bytes.
        args: The script's arguments.
        peak: The machine's floating-point operations per second.
        count_flops: A function that counts the operations of a named step of the last round.
    """

    def speedup(name, other):
        """Returns the speed of `name` relative to `other`: the median over rounds, in which both saw equal targets."""
        pairs = zip(measured[name], measured[other], strict=True)
        return statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)

    def mean(name, key):
        return statistics.fmean(step[key] for step in measured[name]) / args.batch_size

    def fastest(layout, packing):
        names = [name for name in measured if name[:2] == (layout, packing)]
        return max(names, key=lambda name: speedup(name, "TRL"))

    def difference(name, other):
        pairs = zip(measured[name], measured[other], strict=True)
        return max(abs(ours["loss"] - theirs["loss"]) / theirs["loss"] for ours, theirs in pairs)

    print(
        "| layout | batches | targets per row | times TRL's speed | tokens per example | padding | peak memory, GiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, steps in measured.items():
        layout, packing, size = ("text, TRL", False, 1) if name == "TRL" else name
        padding = sum(step["padding"] for step in steps) / sum(step["positions"] for step in steps)
        print(
            f"| {layout} | {'tree-packed' if packing else 'padded'} | {size} | {speedup(name, 'TRL'):.1f} "
            f"| {mean(name, 'positions'):.0f} | {padding:.0%} | {peaks[name] / 2**30:.2f} |"
        )
    layout = "PFT-I" if "PFT-I" in args.layouts else args.layouts[0]
    packed, padded = fastest(layout, True), fastest(layout, False)
    same = (layout, False, packed[2])  # the same rows, padded; with fewer targets per row, histories are shorter
    pairs = [(name, (name[0], False, name[2])) for name in measured if name[1] is True]
    objectives = [name for name in ("item", "both") if name in args.layouts]
    # The fastest batches of an objective, padded or packed.
    fastest_of = {name: max(fastest(name, True), fastest(name, False), key=lambda kind: speedup(kind, "TRL"))
                  for name in objectives}  # fmt: skip
    # Each in the same batches.
    of_catalog = {
        f"catalog_vs_vocabulary_{'packed' if packing else 'padded'}_{size}": speedup(
            ("catalog", packing, size), ("PFT-I", packing, size)
        )
        for layout, packing, size in (name for name in measured if name != "TRL")
        if layout == "catalog" and "PFT-I" in args.layouts
    }
    if ("text", False, 1) in measured:
        pairs.append((("text", False, 1), "TRL"))
    results = {
        "ratios": {
            "packed_vs_trl": speedup(packed, "TRL"),
            "packed_vs_unpacked": speedup(packed, same),
            "packed_vs_fastest_unpacked": speedup(packed, padded),
            "unpacked_vs_trl": speedup(padded, "TRL"),
            **of_catalog,
            **{f"{name}_vs_packed_titles": speedup(kind, packed) for name, kind in fastest_of.items()},
        },
        "packed_targets_per_row": packed[2],
        "max_relative_loss_difference": max(difference(*pair) for pair in pairs),
        "tokens_per_example": {
            "trl": mean("TRL", "positions"),
            "unpacked": mean(padded, "positions"),
            "packed": mean(packed, "positions"),
        },
        "building_share": statistics.median(step["collating"] / step["seconds"] for step in measured[packed]),
        "peak_memory_vs_trl": peaks[packed] / max(peaks["TRL"], 1),
        "peak_share": count_flops(packed) / measured[packed][-1]["seconds"] / peak,
        "times_trl": {" ".join(map(str, name)): speedup(name, "TRL") for name in measured if name != "TRL"},
        "measured_on": {
            "batch_size": args.batch_size,
            "max_history": args.max_history,
            "rounds": args.rounds,
            "instruction_first": args.instruction_first,
            "separate_patches": not args.no_separators,
        },
    }
    print(json.dumps(results, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2), encoding="utf-8")
    if args.plot:
        plot(measured, args, speedup, mean)


def plot(measured, args, speedup, mean):
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for number, layout in enumerate(dict.fromkeys(name[0] for name in measured if name != "TRL")):
        for packing, style in ((True, "o-"), (False, "o--")):
            names = [(layout, packing, size) for size in args.targets_per_row]
            label = f"{layout}, {'tree-packed' if packing else 'padded'}"
            speeds, tokens = [speedup(name, "TRL") for name in names], [mean(name, "positions") for name in names]
            left.plot(args.targets_per_row, speeds, style, color=f"C{number}", label=label)
            right.plot(args.targets_per_row, tokens, style, color=f"C{number}", label=label)
    left.axhline(1, color="black", linewidth=1)
    left.set(ylabel="examples per second, TRL on text = 1", yscale="log")
    right.axhline(mean("TRL", "positions"), color="black", linewidth=1, label="TRL on text")
    right.set(ylabel="positions fed per example", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="targets per row", xscale="log", xticks=args.targets_per_row)
        axes.set_xticks(args.targets_per_row, labels=map(str, args.targets_per_row))
        axes.grid(alpha=0.3)
    right.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(args.plot, dpi=150)
