"""Check a calibration set, whoever made it, before rknn-toolkit2 reads it.

    python scripts/check_dataset.py --model encoder.onnx dataset.txt

Says which row and which input is wrong, what is wrong and the likely cause. Exit code: 0 when
nothing was found, 1 when something was, 2 for a wrong command line.
"""

import argparse
import sys

from zipquant.calibration import dataset_check
from zipquant.errors import UserError
from zipquant.model import contract


def state_output(text: str) -> tuple[str, str]:
    """Split `input=output`; argparse reports a ValueError."""
    name, output = text.split("=")
    return name, output


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the streaming encoder's ONNX file")
    parser.add_argument(
        "--state-output",
        action="append",
        default=[],
        type=state_output,
        metavar="INPUT=OUTPUT",
        help="the output that holds a state's next value, where it is not new_INPUT; repeatable",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=dataset_check.SHOWN,
        metavar="N",
        help="list at most N different problems (default %(default)s)",
    )
    parser.add_argument("dataset", help="the dataset.txt to check")
    arguments = parser.parse_args()
    try:
        model = contract.inspect(arguments.model, dict(arguments.state_output))
    except UserError as error:
        print(f"error: {error}")
        return 1
    problems = list(dataset_check.find_problems(arguments.dataset, model))
    for line in dataset_check.describe(problems, arguments.show):
        print(line)
    if not problems:
        print(f"{arguments.dataset} fits {arguments.model}: nothing wrong found")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
