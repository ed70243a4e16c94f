"""Opening a built variant, to run it: in the simulator, in the emulation, or on a board."""

from dataclasses import dataclass
from pathlib import Path

from zipquant.model.contract import Contract
from zipquant.toolkit import platforms
from zipquant.toolkit.platforms import Npu
from zipquant.toolkit.quantized_graph import Graph, float16_tensors, read_scales
from zipquant.toolkit.rknn_toolkit import Board, Simulator
from zipquant.toolkit.variant_folder import ENCODER, TOOLKIT
from zipquant.variants import preparation
from zipquant.variants.emulation import EmulatedEncoder, Emulation
from zipquant.variants.record import NATIVE_GRAPH, Build


@dataclass(frozen=True)
class Place:
    """Where a variant runs.

    Attributes:
        target: the platform of a connected board; None for the toolkit's simulator.
        device_id: which board, as `adb devices` names it; None where only one is connected.
        emulated: run it in the emulation instead of the simulator, if it can be emulated.
        lanes: utterances that one call of the emulation carries; the others carry one.
    """

    target: str | None = None
    device_id: str | None = None
    emulated: bool = False
    lanes: int = 1


def open_encoder(
    folder: str | Path, prepared: str | Path, contract: Contract, place: Place | None = None
) -> Simulator | Board:
    """Open a variant that was built.

    Args:
        folder: the variant's folder.
        prepared: the ONNX file as `preparation` leaves it, with the other form beside it.
        contract: the model's contract.
        place: where it runs, the simulator or a board; None for the simulator.

    Raises:
        UserError: the .rknn is not what was built, the simulator failed, or there is no such board.
    """
    build, folder, place = Build.load(folder), Path(folder), place or Place()
    build.check(folder)
    if place.target:
        npu = Npu(place.target, build.scheme().toolkit)
        return Board(folder / ENCODER, contract, npu, place.device_id)
    model = Path(prepared)
    if build.graph == NATIVE_GRAPH:
        model = model.with_name(preparation.NATIVE)
    return Simulator(model, contract, folder, build.scheme())


def open_emulation(folder: str | Path, contract: Contract) -> EmulatedEncoder | None:
    """Open the emulation of a variant that was built, with what it keeps in float16.

    Args:
        folder: the variant's folder.
        contract: the model's contract.

    Returns:
        The emulation; None for a variant that has no graph of int8 operators.

    Raises:
        UserError: a file is damaged.
        UnknownOperator: the graph holds an operator that is not emulated.
    """
    build, toolkit = Build.load(folder), Path(folder) / TOOLKIT
    if not build.scheme().in_two_steps or platforms.keeps_float16(build.dtype):
        return None
    graph_file, config_file = (next(toolkit.glob(f"*{suffix}")) for suffix in (".model", ".cfg"))
    emulation = Emulation(
        Graph(graph_file), read_scales(config_file), contract, build.method != "layer"
    )
    return EmulatedEncoder(emulation, contract, float16_tensors(config_file))
