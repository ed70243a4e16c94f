"""Opening a built variant, to run it: in the toolkit's simulator, or on a board."""

from dataclasses import dataclass
from pathlib import Path

from zipquant.model.contract import Contract
from zipquant.toolkit.rknn_toolkit import Board, Simulator
from zipquant.toolkit.variant_folder import ENCODER
from zipquant.variants import preparation
from zipquant.variants.record import NATIVE_GRAPH, Build


@dataclass(frozen=True)
class Place:
    """Where a variant runs.

    Attributes:
        target: the platform of a connected board; None for the toolkit's simulator.
        device_id: which board, as `adb devices` names it; None where only one is connected.
    """

    target: str | None = None
    device_id: str | None = None


def open_encoder(
    folder: str | Path, prepared: str | Path, contract: Contract, place: Place | None = None
) -> Simulator | Board:
    """Open a variant that was built.

    Args:
        folder: the variant's folder.
        prepared: the ONNX file as `preparation` leaves it, with the other form beside it.
        contract: the model's contract.
        place: where it runs; None for the simulator.

    Raises:
        UserError: the .rknn is not what was built, the simulator failed, or there is no such board.
    """
    build, folder, place = Build.load(folder), Path(folder), place or Place()
    build.check(folder)
    if place.target:
        return Board(folder / ENCODER, contract, place.target, place.device_id)
    model = Path(prepared)
    if build.graph == NATIVE_GRAPH:
        model = model.with_name(preparation.NATIVE)
    return Simulator(model, contract, folder, build.scheme())
