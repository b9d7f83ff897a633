"""What all splits say together: how often an interval held, how wide it was, and what errors were left."""

from collections import defaultdict

import numpy as np

COUPLE = ["rater1", "rater2"]


def summarise(lines: list[dict], planned: dict[float, list[list]]) -> dict:
    """The results that are committed: for each share of labels the coverage and width of every number, the mean error of
    the predicted variance, errors of contests, and how often a couple was warned of."""
    shares = sorted({line["share"] for line in lines})
    return {f"{s:g}": _at_share([line for line in lines if line["share"] == s], planned.get(s, [])) for s in shares}


def _at_share(lines: list[dict], planned: list[list]) -> dict:
    told, errors, predicted = defaultdict(list), defaultdict(list), []
    for of_split in [line["told"] for line in lines] + planned:
        for row, number, *rest in of_split:
            told[f"{row}: {number}"].append(rest)
    for line in lines:
        for key, values in line["errors"].items():
            if key == "predicted":
                predicted += values
            else:
                errors[key].append(values)
    return {
        "splits": len(lines),
        "intervals": {key: _interval(np.array(found)) for key, found in told.items()},
        "contests": {key: _error(found) for key, found in errors.items()},
        "predicted residual": float(np.mean(predicted)),
        "couple": float(np.mean([COUPLE in line["flagged"] for line in lines])),
        "other couples": float(np.mean([any(pair != COUPLE for pair in line["flagged"]) for line in lines])),
    }


def _interval(found: np.ndarray) -> dict[str, float]:
    low, value, high, truth = found.T
    return {
        "n": len(found), "held": round(float(np.mean((low <= truth) & (truth <= high))), 4),
        "width": round(float(np.mean(high - low)), 4), "value": round(float(np.mean(value)), 4),
        "truth": round(float(np.mean(truth)), 4), "spread": round(float(np.std(value - truth)), 4),
    }  # fmt: skip


def _error(found: list[list[float]]) -> dict[str, float]:
    """Root mean square error over splits and directions, and the largest mean error of a direction, in standard
    deviations of that direction's errors."""
    size = max(map(len, found))
    table = np.array([row for row in found if len(row) == size])  # [splits, directions]
    spread = np.maximum(table.std(axis=0), 1e-12)
    bias = np.abs(table.mean(axis=0)) / spread
    return {
        "rms": round(float(np.sqrt(np.mean(table**2))), 5), "variance": round(float(np.mean(spread**2)), 8),
        "bias": round(float(bias.max()), 3),
    }  # fmt: skip


def table(found: dict) -> str:
    """Coverage of 95 % intervals, and gains, as text."""
    shares = list(found)
    lines = [
        f"coverage of 95 % intervals (mean width), {found[shares[0]]['splits']} splits at each share of labels",
        "",
    ]
    lines.append(f"{'':52}" + "".join(f"{100 * float(s):>6g} % labels" for s in shares))
    for key in found[shares[0]]["intervals"]:
        cells = (found[s]["intervals"][key] for s in shares)
        lines.append(f"{key:52}" + "".join(f"{100 * c['held']:7.1f} ({c['width']:.2f})" for c in cells))
    lines += ["", "variance of DeDPO with all judges corrected, relative to human votes alone, by direction"]
    lines.append(f"{'predicted':52}" + "".join(f"{found[s]['predicted residual']:14.2f}" for s in shares))
    for kind in dict.fromkeys(key.split("/")[0] for key in found[shares[0]]["contests"]):
        ratios = (
            found[s]["contests"][f"{kind}/dedpo"]["variance"] / found[s]["contests"][f"{kind}/human"]["variance"]
            for s in shares
        )
        lines.append(f"{kind:52}" + "".join(f"{r:14.2f}" for r in ratios))
    lines += ["", "root mean square error in points (largest bias of a direction, in standard deviations)"]
    for key in found[shares[0]]["contests"]:
        cells = (found[s]["contests"][key] for s in shares)
        lines.append(f"{key:52}" + "".join(f"{100 * c['rms']:7.2f} ({c['bias']:4.1f})" for c in cells))
    lines += ["", f"{'warned of rater1 and rater2':52}" + "".join(f"{100 * found[s]['couple']:14.0f}" for s in shares)]
    lines.append(f"{'warned of others':52}" + "".join(f"{100 * found[s]['other couples']:14.0f}" for s in shares))
    return "\n".join(lines)


WAYS = {"human": "human votes alone", "dedpo": "DeDPO", "mix": "`mix`", "judge": "the judges alone"}
KINDS = {
    "chance": "random directions",
    "generator": "contests of generators",
    "the judge's own": "the judges' own direction",
}


def page_tables(found: dict) -> dict[str, str]:
    """The tables of docs/real-votes.md by their names."""
    shares = list(found)
    head = " | ".join(f"{100 * float(share):g} %" for share in shares)
    rule = "|---" * (len(shares) + 1) + "|"

    def rows(first: str, cells: dict[str, list[str]]) -> str:
        return "\n".join(
            [f"| {first} | {head} |", rule, *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items())]
        )

    intervals = {
        key: [f"{100 * c['held']:.1f} ({c['width']:.2f})" for c in (found[s]["intervals"][key] for s in shares)]
        for key in found[shares[0]]["intervals"]
    }
    luck = {
        name: [
            f"{100 * (c['value'] / c['truth'] - 1):+.1f} %"
            for c in (found[s]["intervals"][f"{name}: variance ratio"] for s in shares)
        ]
        for name in ("the best row, as seen", "the named row, corrected")
    }
    contests = {s: found[s]["contests"] for s in shares}
    ratios = {"predicted": [f"{found[s]['predicted residual']:.2f}" for s in shares]} | {
        name: [f"{c[f'{kind}/dedpo']['variance'] / c[f'{kind}/human']['variance']:.2f}" for c in contests.values()]
        for kind, name in KINDS.items()
    }
    errors = {
        name: [
            f"{100 * c[f'generator/{way}']['rms']:.1f} ({c[f'generator/{way}']['bias']:.1f})" for c in contests.values()
        ]
        for way, name in WAYS.items()
    }
    warned = {
        "rater1 and rater2": [f"{100 * found[s]['couple']:.0f} %" for s in shares],
        "some other couple": [f"{100 * found[s]['other couples']:.0f} %" for s in shares],
    }
    return {
        "splits": f"{found[shares[0]]['splits']} splits at each share of labels.",
        "coverage": rows("95 % intervals that hold, in % (mean width)", intervals),
        "luck": rows("predicted variance ratio, too low (−) or too high", luck),
        "directions": rows("variance relative to human votes alone", ratios),
        "errors": rows("error in a contest, points (largest bias, in standard deviations)", errors),
        "couples": rows("share of splits with a warning of", warned),
    }


def fill(text: str, tables: dict[str, str]) -> str:
    """The page with each table between its marks, `<!-- name -->` and `<!-- end -->`."""
    for name, content in tables.items():
        mark = f"<!-- {name} -->\n"
        start = text.index(mark) + len(mark)
        text = text[:start] + content + "\n" + text[text.index("<!-- end -->", start) :]
    return text
