# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The words of `optimum-cli mixq`. What they do stands in `optimum_mixq.cli`, imported only when a command runs."""

import math
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


DEFAULT = "(default: %(default)s)"
# What the units of a sweep choose from.
SWEEP_WIDTHS = (2, 3, 4, 5, 6)


def parse_bits(text: str) -> int | float | tuple[int, int] | None:
    """Return the number of "4" or "3.5", the pair (weight bits, activation bits) of "4/8", or None of "none"."""
    if text == "none":
        return None
    expected = f"Expected 2 to 8, an average such as 3.5, weights/activations such as 4/8, or none; found '{text}'."
    try:
        if "." in text:
            bits: int | float | tuple[int, int] = float(text)
        elif "/" in text:
            weight_bits, input_bits = text.split("/")
            bits = (int(weight_bits), int(input_bits))
        else:
            bits = int(text)
    except ValueError as error:
        raise ArgumentTypeError(expected) from error
    if not all(2 <= width <= 8 for width in (bits if isinstance(bits, tuple) else (bits,))):
        raise ArgumentTypeError(expected)
    return bits


def parse_average(text: str) -> float:
    """Return an average of bits that a sweep can reach."""
    least, most = SWEEP_WIDTHS[0], SWEEP_WIDTHS[-1]
    average = _read_number(text)
    if average is None or not least <= average <= most:
        raise ArgumentTypeError(f"Expected averages of {least} to {most}, what units choose from; found '{text}'.")
    return average


def parse_widths(text: str) -> tuple[int, ...]:
    """Return the widths of "3,4,5"."""
    widths = tuple(int(part) if part.isascii() and part.isdigit() else 0 for part in text.split(","))
    if not all(2 <= width <= 8 for width in widths):
        raise ArgumentTypeError(f"Expected widths of 2 to 8 such as 3,4,5,6; found '{text}'.")
    return widths


def parse_override(text: str) -> tuple[str, int | tuple[int, int]]:
    """Return the pattern and the bits of "*.fc2=8" or "*.fc2=4/8"."""
    pattern, _, bits_text = text.rpartition("=")
    try:
        bits = parse_bits(bits_text)
    except ArgumentTypeError:
        bits = None
    if not pattern or bits is None or isinstance(bits, float):
        raise ArgumentTypeError(
            f"Expected PATTERN=BITS with 2 to 8 bits, such as '*.fc2=8' or 'blocks.0.*=4/8'; found '{text}'."
        )
    return pattern, bits


def parse_plan(text: str) -> str:
    """Return "mixed", "uniform", or the path of a file that exists."""
    if text in ("mixed", "uniform") or Path(text).is_file():
        return text
    raise ArgumentTypeError(f"Expected mixed, uniform or the file of a plan; there is no file '{text}'.")


def parse_measured(text: str) -> str:
    """Return the path of a folder that holds measurements."""
    if not Path(text).is_dir():
        raise ArgumentTypeError(f"There is no folder '{text}'.")
    return text


def parse_count(text: str) -> int:
    """Return a whole number from one."""
    return _parse_whole(text, 1)


def parse_seed(text: str) -> int:
    """Return a whole number from zero."""
    return _parse_whole(text, 0)


def parse_positive(text: str) -> float:
    """Return a finite number above zero."""
    number = _read_number(text)
    if number is None or number <= 0:
        raise ArgumentTypeError(f"Expected a positive number, found '{text}'.")
    return number


def parse_share(text: str) -> float:
    """Return a number from 0 to 1."""
    number = _read_number(text)
    if number is None or not 0 <= number <= 1:
        raise ArgumentTypeError(f"Expected a number from 0 to 1, found '{text}'.")
    return number


def _parse_whole(text: str, least: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) < 2**63:
        raise ArgumentTypeError(f"Expected a whole number from {least}, found '{text}'.")
    return int(text)


def _read_number(text: str) -> float | None:
    """Return the finite number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _add_model(parser: ArgumentParser, what: str) -> None:
    parser.add_argument("--model", required=True, help=what)
    parser.add_argument("--revision", help="branch, tag or commit of the model on the Hub (default: main)")
    parser.add_argument(
        "--task", choices=[
            "image-classification", "image-feature-extraction", "image-segmentation", "object-detection",
            "depth-estimation",
        ],
        help="what the model is for; features take a classifier without its head (default: what its class says)",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cpu)")


def _add_dataset(parser: ArgumentParser, split: str) -> None:
    parser.add_argument("--dataset", required=True, help="an image folder, a data set on the Hub, or synthetic")
    parser.add_argument("--split", help=split)


def _add_budget(parser: ArgumentParser, bits: int) -> None:
    parser.add_argument(
        "--bits", type=parse_bits, default=bits,
        help=f"2 to 8 on average, weights/activations such as 4/8, or none beside another budget {DEFAULT}",
    )  # fmt: skip
    parser.add_argument("--size-mb", type=parse_positive, help="megabytes of the saved file, at most")
    parser.add_argument("--bops", type=parse_positive, help="bit operations per image, at most, such as 2.5e9")
    parser.add_argument(
        "--candidate-bits", type=parse_widths, metavar="WIDTHS",
        help="what layers may choose from, such as 3,4,5,6 (default: one less than --bits to two more)",
    )  # fmt: skip
    parser.add_argument(
        "--plan", type=parse_plan, default="mixed",
        help=f"mixed, uniform, or a file with the bits of every unit {DEFAULT}",
    )  # fmt: skip


def _add_choice(parser: ArgumentParser) -> None:
    """Add what the choice of bits depends on beside its budget."""
    parser.add_argument(
        "--overrides", type=parse_override, action="append", default=[], metavar="PATTERN=BITS",
        help="bits of the units that match, such as '*.fc2=8'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN",
        help="units that match keep the most candidate bits; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--tie-bits", action="store_true", help="the same bits for a unit's weights and activations: less to measure"
    )
    parser.add_argument(
        "--sensitivity", choices=["measured", "gradient", "fisher", "hawq", "first-order"], default="gradient",
        help="how it is found what each width costs: by running each layer's variants, from gradients, or by other "
        f"metrics, to compare with {DEFAULT}",
    )  # fmt: skip
    parser.add_argument(
        "--arithmetic", choices=["column", "folded"], default="column",
        help=f"a scale per activation channel, or the paper's b-bit codes times b-bit codes {DEFAULT}",
    )  # fmt: skip
    parser.add_argument(
        "--rounder", choices=["compensated", "nearest"],
        help="how weights are rounded: later columns make up for earlier ones, or to nearest (default: compensated)",
    )  # fmt: skip
    parser.add_argument(
        "--reconstruction", choices=["light", "full", "none"], default="light",
        help="layers mend what those before them did, for nothing, or blocks learn as well, which takes several times "
        f"as long as calibration and wants 512 images; or neither {DEFAULT}",
    )  # fmt: skip


def _add_samples(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--calibration-samples", type=parse_count, default=256, help=f"images that set the ranges, at most {DEFAULT}"
    )
    parser.add_argument(
        "--sensitivity-samples",
        type=parse_count,
        default=256,
        help=f"images that the bits are chosen on, at most {DEFAULT}",
    )
    parser.add_argument("--seed", type=parse_seed, default=0, help=f"draws the images {DEFAULT}")


def _add_measured(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--measured", type=parse_measured, help="folder of an earlier run or sweep whose measurements to use again"
    )


def _add_packing(parser: ArgumentParser, bits: int, split: str) -> None:
    """Add what a packed model is made of: the float model, the images, the bits, and where it goes."""
    _add_model(parser, "a float model on the Hub or a folder")
    _add_dataset(parser, split)
    parser.add_argument("--output", required=True, help="folder for the packed model; new or empty")
    _add_budget(parser, bits)
    _add_choice(parser)
    _add_samples(parser)
    _add_measured(parser)


def _add_batch_size(parser: ArgumentParser, size: int, what: str) -> None:
    parser.add_argument("--batch-size", type=parse_count, default=size, help=f"{what} {DEFAULT}")


class _MixQSubcommand(BaseOptimumCLICommand):
    def run(self) -> None:
        """Run `optimum_mixq.cli.run_<name>`; a person who presses Ctrl-C, also while it is imported, gets one line."""
        try:
            from optimum_mixq import cli

            getattr(cli, f"run_{self.COMMAND.name}")(self.args)
        except KeyboardInterrupt:
            print(f"\noptimum-cli mixq: {_stopped(self.COMMAND.name, self.args)}", file=sys.stderr)
            sys.exit(130)  # as shells know it: 128 + SIGINT


def _stopped(command: str, arguments: Namespace) -> str:
    """Return what a person who stopped a command has of it."""
    if command in ("train", "sweep") or (
        command == "quantize" and (arguments.plan == "mixed" or arguments.reconstruction == "full")
    ):
        return "stopped. The same command goes on from what was measured."
    if command == "demo":
        return f"stopped. What was finished is in {arguments.output}."
    return "stopped; nothing was written."


class MixQQuantizeCommand(_MixQSubcommand):
    COMMAND = CommandInfo("quantize", "Quantize a model with a few dozen images and save it packed.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        _add_packing(parser, bits=4, split="split of the data set (default: calibration or train)")
        _add_batch_size(parser, 32, "images per forward")


class MixQTrainCommand(_MixQSubcommand):
    COMMAND = CommandInfo("train", "Quantize a model and train it back to its accuracy, down to 2 bits.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        _add_packing(parser, bits=3, split="split to train on (default: calibration or train)")
        parser.add_argument(
            "--epochs", type=parse_count, default=10, help=f"passes over the training images {DEFAULT}"
        )
        _add_batch_size(parser, 64, "images per optimizer step")
        parser.add_argument(
            "--learning-rate", type=parse_positive,
            help="of weights (default: 1e-3 below 2.5 bits on average, 3e-4 from there on)",
        )  # fmt: skip
        parser.add_argument(
            "--step-learning-rate", type=parse_positive,
            help="of the grids' steps and offsets (default: 3e-5 below 2.5 bits on average, 2e-4 from there on)",
        )  # fmt: skip
        parser.add_argument(
            "--distillation", type=parse_share, default=1.0,
            help=f"share of the float model in what is learned, the rest is labels; 1 needs no labels {DEFAULT}",
        )  # fmt: skip
        parser.add_argument(
            "--mixed-precision", choices=["no", "bf16", "fp16"], default="no", help=f"as in Accelerate {DEFAULT}"
        )
        parser.add_argument("--no-flip", action="store_true", help="do not mirror images")
        parser.add_argument("--evaluate", action="store_true", help="evaluate each epoch and keep the best")
        parser.add_argument("--evaluation-dataset", help="what to evaluate on (default: the same data set)")
        parser.add_argument("--evaluation-split", help="split to evaluate on (default: validation or test)")


class MixQEvaluateCommand(_MixQSubcommand):
    COMMAND = CommandInfo("evaluate", "Measure the accuracy of a model on images.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        _add_model(parser, "a model on the Hub or a folder, float or quantized")
        _add_dataset(parser, "split of the data set (default: validation or test)")
        parser.add_argument("--samples", type=parse_count, help="number of images (default: all)")
        _add_batch_size(parser, 32, "images per forward")
        parser.add_argument(
            "--seed", type=parse_seed, default=0, help=f"draws the images when --samples is given {DEFAULT}"
        )


class MixQSweepCommand(_MixQSubcommand):
    COMMAND = CommandInfo("sweep", "Measure once and show the best plans for many budgets.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        _add_model(parser, "a float model on the Hub or a folder")
        _add_dataset(parser, "split of the data set (default: calibration or train)")
        parser.add_argument("--output", required=True, help="folder for plans, measurements and the picture")
        parser.add_argument(
            "--bits", type=parse_average, nargs="+", default=[2.5, 3.0, 3.5, 4.0, 4.5, 5.0],
            help=f"averages of weight bits {DEFAULT}",
        )  # fmt: skip
        _add_choice(parser)
        _add_samples(parser)
        _add_batch_size(parser, 32, "images per forward")


class MixQReportCommand(_MixQSubcommand):
    COMMAND = CommandInfo("report", "Compare a packed model with float and uniform bits, and write a page of it.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="a packed model: a folder or a name on the Hub")
        _add_dataset(parser, "split to evaluate on (default: validation or test)")
        parser.add_argument("--float-model", help="what it was made from (default: what the packed model says)")
        parser.add_argument("--output", help="folder for report.html and report.json (default: the model's)")
        parser.add_argument("--calibration-split", help="split to calibrate on (default: calibration or train)")
        parser.add_argument("--samples", type=parse_count, help="number of images to evaluate on (default: all)")
        parser.add_argument(
            "--frontier", type=parse_seed, default=5,
            help=f"sizes from the fewest to the most bits to pack and measure too; 0 for none {DEFAULT}",
        )  # fmt: skip


class MixQExportCommand(_MixQSubcommand):
    COMMAND = CommandInfo("export", "Write a packed model for ONNX Runtime or OpenVINO, and check it there.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="a packed model: a folder or a name on the Hub")
        parser.add_argument("--to", required=True, choices=["onnx", "openvino"], help="what it is to run on")
        parser.add_argument("--output", required=True, help="folder for the exported model; new or empty")
        parser.add_argument(
            "--weights", choices=["codes", "operand"], default="codes",
            help=f"as small as their bits, or 8 bits as they are multiplied, which loads faster {DEFAULT}",
        )  # fmt: skip
        parser.add_argument(
            "--attention", choices=["integer", "logarithmic"], default="integer",
            help=f"products of 8-bit integers, or the model's own grids and float products {DEFAULT}",
        )  # fmt: skip
        parser.add_argument(
            "--image-size", type=parse_count, help="side of the images it is to take (default: the model's own)"
        )
        parser.add_argument("--dataset", help="images to check the file on (default: generated ones)")
        parser.add_argument("--split", help="split of the data set (default: calibration or train)")


class MixQDemoCommand(_MixQSubcommand):
    COMMAND = CommandInfo("demo", "Run the main job on the models and images that the package ships.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--output", default="demo-output", help=f"folder for the results {DEFAULT}")

    def run(self) -> None:
        """Say at once that something happens: the imports take seconds."""
        print("Importing torch and transformers ...", file=sys.stderr, flush=True)
        super().run()


class MixQCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("mixq", "Mixed-precision quantization of Vision Transformers.")
    SUBCOMMANDS = tuple(
        CommandInfo(command.COMMAND.name, command.COMMAND.help, command)
        for command in (
            MixQQuantizeCommand, MixQTrainCommand, MixQEvaluateCommand, MixQSweepCommand, MixQReportCommand,
            MixQExportCommand, MixQDemoCommand,
        )
    )  # fmt: skip


REGISTER_COMMANDS = [MixQCommand]
