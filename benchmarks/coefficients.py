"""Fit the costs of layers on what a board has taken: `transcribe.py --benchmark` writes its file.

python benchmarks/coefficients.py board.json --results results

`make coefficients BOARD=board.json` runs it. It prints how well each explanation fits, and the best
one as `evaluation.board_costs`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import scipy.optimize
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from zipquant.errors import UserError
from zipquant.evaluation import board_result
from zipquant.jobs import files
from zipquant.toolkit import layer_costs
from zipquant.toolkit.layer_costs import Costs, Fit
from zipquant.toolkit.layer_table import Table
from zipquant.variants.record import Build

ENDLESS = 1000.0
"""GB/s where bytes cost nothing."""

UNITS = {
    "layers": Fit(1, 1, 1, 0, np.inf),
    "layers on the CPU": Fit(0, 1, 0, 0, np.inf),
    "inputs and outputs": Fit(0, 0, 0, 1, np.inf),
    "bytes": Fit(0, 0, 0, 0, 1),
}
"""A microsecond for each of these, or for each 1,000 bytes."""

MIXTURES = (
    ("layers", "bytes"),
    ("layers", "inputs and outputs"),
    ("layers", "inputs and outputs", "bytes"),
)
"""What is fitted freely, with more networks than costs."""


@dataclass(frozen=True)
class Point:
    """A network, its layers, and what a call of it took on the board, in ms."""

    name: str
    table: Table
    ms: float

    def price(self, fit: Fit) -> float:
        """Return what a call should take, in ms."""
        return layer_costs.price(self.table, Costs((fit,), 0.0, "")).low


Fitting = Callable[[Sequence[Point]], Fit]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fit the costs of layers on a board's times.")
    parser.add_argument("board", type=Path, help="what transcribe.py --benchmark has written")
    parser.add_argument("--results", type=Path, default=Path("results"), help="of the same run")
    given = parser.parse_args()
    try:
        found = board_result.read(given.board)
        points = networks(found, given.results)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{found.board}: {', '.join(f'{point.name} {point.ms:.2f} ms' for point in points)}")
    for line in report(points):
        print(line)


def networks(found: board_result.BoardResult, results: Path) -> list[Point]:
    """Return the networks of a run that the board has measured.

    Raises:
        UserError: it has measured none of them, or their layers are not known.
    """
    tables = {}
    for path in [*results.glob("variants/*/build.json"), *results.glob("plain_encoder/build.json")]:
        build = Build.load(path)
        if build.rknn_sha256 and path.with_name("layers.tsv").exists():
            name = path.parent.name if path.parent.parent.name == "variants" else "encoder-plain"
            tables[build.rknn_sha256] = name, path.with_name("layers.tsv")
    for path in results.glob("recognizer/*.rknn"):
        tables[files.sha256(path)] = path.stem, path.with_suffix(".layers.tsv")
    points = []
    for sha256, (name, path) in tables.items():
        table, entry = Table.read(path), found.of(sha256)
        probe = Costs((UNITS["layers"],), 0.0, "")
        if entry and layer_costs.price(table, probe):
            points.append(Point(name, table, entry["median_ms"]))
    if not points:
        raise UserError(
            f"{found.path} has no network of {results} whose layers are known: measure the bundle "
            "of that very run"
        )
    return points


def report(points: Sequence[Point]) -> list[str]:
    """Return how well each explanation fits, the best first, and the best as a setting."""
    rows = []
    for name, count, fitting in explanations():
        if len(points) < count:
            continue
        fit = fitting(points)
        rows.append((left_out(points, count, fitting), worst(points, fit), name, fit))
    # Where too few networks are there to leave one out, the error of the fit itself decides.
    rows.sort(key=lambda row: (row[0] if row[0] is not None else row[1], row[1]))
    lines = ["off by at most | one left out | the time is explained by"]
    for out, error, name, _ in rows:
        lines.append(f"{error:14.0%} | {'' if out is None else f'{out:.0%}':>12} | {name}")
    if len(points) < 3:
        lines.append(f"{len(points)} network(s) tell one cost from another hardly or not at all")
    best = {name: round(float(value), 2) for name, value in asdict(rows[0][3]).items()}
    setting = yaml.safe_dump({"evaluation": {"board_costs": best}}, sort_keys=False)
    return [*lines, "the first as a setting:", *setting.rstrip().split("\n")]


def explanations() -> list[tuple[str, int, Fitting]]:
    """Return how times may be explained: in words, with how many costs, and how they are fitted."""
    entry = layer_costs.known()["platforms"]["rk3588"]
    names = [field.name for field in fields(Fit)]
    found: list[tuple[str, int, Fitting]] = []
    for known in entry["fits"]:
        fit = Fit(**{name: known[name] for name in names})
        what = known["explains"].split(";")[0]
        found.append((f"{what}: as published, times a factor", 1, scaling(fit)))
    for parts in MIXTURES:
        found.append((f"{' + '.join(parts)}, fitted freely", len(parts), mixing(parts)))
    return found


def scaling(fit: Fit) -> Fitting:
    """Return what multiplies costs by the factor that fits best."""

    def fitted(points: Sequence[Point]) -> Fit:
        factor = np.exp(np.mean([np.log(point.ms / point.price(fit)) for point in points]))
        times = {name: value * factor for name, value in asdict(fit).items()}
        return Fit(**times | {"gb_per_s": fit.gb_per_s / factor})

    return fitted


def mixing(parts: Sequence[str]) -> Fitting:
    """Return what fits costs that are not negative, by the least squares of relative errors."""

    def fitted(points: Sequence[Point]) -> Fit:
        rows = [[point.price(UNITS[part]) / point.ms for part in parts] for point in points]
        found = dict(zip(parts, scipy.optimize.nnls(rows, np.ones(len(points)))[0], strict=True))
        return combined(found)

    return fitted


def combined(us: Mapping[str, float]) -> Fit:
    """Return costs made of `UNITS`."""
    layer = us.get("layers", 0.0)
    per_byte = us.get("bytes", 0.0)
    return Fit(
        npu_layer_us=layer,
        cpu_layer_us=layer + us.get("layers on the CPU", 0.0),
        conversion_us=layer,
        border_us=us.get("inputs and outputs", 0.0),
        gb_per_s=min(1 / per_byte, ENDLESS) if per_byte else ENDLESS,
    )


def worst(points: Sequence[Point], fit: Fit) -> float:
    """Return the largest relative error."""
    return max(abs(point.price(fit) / point.ms - 1) for point in points)


def left_out(points: Sequence[Point], count: int, fitting: Fitting) -> float | None:
    """Return the largest relative error for a network that was not fitted on."""
    if len(points) <= count:
        return None
    errors = []
    for position, point in enumerate(points):
        rest = [*points[:position], *points[position + 1 :]]
        errors.append(worst([point], fitting(rest)))
    return max(errors)


if __name__ == "__main__":
    main()
