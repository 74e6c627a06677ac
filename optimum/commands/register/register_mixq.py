# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The words of `optimum-cli mixq`. What they do stands in `optimum_mixq.cli`, imported only when a command runs."""

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


def parse_bits(text: str) -> int | float | tuple[int, int] | None:
    """Return the number of "4" or "3.5", the pair (weight bits, activation bits) of "4/8", or None of "none"."""
    if text == "none":
        return None
    if "." in text:
        return float(text)
    numbers = [int(part) for part in text.split("/")]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


class MixQQuantizeCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("quantize", "Quantize a model with a few dozen images and save it packed.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="a float model on the Hub or a folder")
        parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
        parser.add_argument("--output", required=True, help="folder for the packed model; new or empty")
        parser.add_argument(
            "--bits", type=parse_bits, default=4, help="2 to 8, weights/activations such as 4/8, or none"
        )
        parser.add_argument("--size-mb", type=float, help="megabytes of the saved file, at most")
        parser.add_argument(
            "--plan", default="mixed", help="'mixed' (default), 'uniform', or a file with the bits of every unit"
        )
        parser.add_argument("--arithmetic", choices=["column", "folded"], default="column")
        parser.add_argument("--split", help="split of the data set (default: calibration or train)")
        parser.add_argument("--calibration-samples", type=int, default=32)
        parser.add_argument("--sensitivity-samples", type=int, default=256, help="images to choose bits on")
        parser.add_argument("--measured", help="folder of an earlier run or sweep whose measurements to use again")
        parser.add_argument("--seed", type=int, default=0, help="draws the images")

    def run(self) -> None:
        from optimum_mixq.cli import run_quantize

        run_quantize(self.args)


class MixQTrainCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("train", "Quantize a model and train it back to its accuracy, down to 2 bits.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="a float model on the Hub or a folder")
        parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub, to train on")
        parser.add_argument("--output", required=True, help="folder for the packed model; new or empty")
        parser.add_argument("--bits", type=parse_bits, default=3, help="2 to 8, or weights/activations as in 4/8")
        parser.add_argument(
            "--plan", default="mixed", help="'mixed' (default), 'uniform', or a file with the bits of every unit"
        )
        parser.add_argument("--epochs", type=int, default=10)
        parser.add_argument("--batch-size", type=int, default=64)
        parser.add_argument("--learning-rate", type=float, default=1e-3)
        parser.add_argument("--distillation", type=float, default=1.0, help="1 needs no labels (default)")
        parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
        parser.add_argument("--no-flip", action="store_true", help="do not mirror images")
        parser.add_argument("--split", help="split to train on (default: calibration or train)")
        parser.add_argument("--evaluate", action="store_true", help="evaluate each epoch and keep the best")
        parser.add_argument("--evaluation-dataset", help="what to evaluate on (default: the same data set)")
        parser.add_argument("--evaluation-split", help="split to evaluate on (default: validation or test)")
        parser.add_argument("--sensitivity-samples", type=int, default=256, help="images to choose bits on")
        parser.add_argument("--measured", help="folder of an earlier run or sweep whose measurements to use again")
        parser.add_argument("--seed", type=int, default=0)

    def run(self) -> None:
        from optimum_mixq.cli import run_train

        run_train(self.args)


class MixQEvaluateCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("evaluate", "Measure top-1 of a model on images.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="a model on the Hub or a folder, float or quantized")
        parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
        parser.add_argument("--split", help="split of the data set (default: validation or test)")
        parser.add_argument("--samples", type=int, help="number of images (default: all)")
        parser.add_argument("--batch-size", type=int, default=32)
        parser.add_argument("--seed", type=int, default=0, help="draws the images when --samples is given")

    def run(self) -> None:
        from optimum_mixq.cli import run_evaluate

        run_evaluate(self.args)


class MixQSweepCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("sweep", "Measure once and show the best plans for many budgets.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="a float model on the Hub or a folder")
        parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
        parser.add_argument("--output", required=True, help="folder for plans, measurements and the picture")
        parser.add_argument(
            "--bits", type=float, nargs="+", default=[2.5, 3.0, 3.5, 4.0, 4.5, 5.0], help="averages of weight bits"
        )
        parser.add_argument("--arithmetic", choices=["column", "folded"], default="column")
        parser.add_argument("--split", help="split of the data set (default: calibration or train)")
        parser.add_argument("--sensitivity-samples", type=int, default=256, help="images to choose bits on")
        parser.add_argument("--seed", type=int, default=0, help="draws the images")

    def run(self) -> None:
        from optimum_mixq.cli import run_sweep

        run_sweep(self.args)


class MixQReportCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("report", "Compare a packed model with float and uniform bits, and write a page of it.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--model", required=True, help="a packed model: a folder or a name on the Hub")
        parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
        parser.add_argument("--float-model", help="what it was made from (default: what the packed model says)")
        parser.add_argument("--output", help="folder for report.html and report.json (default: the model's)")
        parser.add_argument("--split", help="split to evaluate on (default: validation or test)")
        parser.add_argument("--calibration-split", help="split to calibrate on (default: calibration or train)")
        parser.add_argument("--samples", type=int, help="number of images to evaluate on (default: all)")

    def run(self) -> None:
        from optimum_mixq.cli import run_report

        run_report(self.args)


class MixQDemoCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("demo", "Run the main job on the models and images that the package ships.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("--output", default="demo-output", help="folder for the results (default: %(default)s)")

    def run(self) -> None:
        from optimum_mixq.cli import run_demo

        run_demo(self.args)


class MixQCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("mixq", "Mixed-precision quantization of Vision Transformers.")
    SUBCOMMANDS = (
        CommandInfo("quantize", MixQQuantizeCommand.COMMAND.help, MixQQuantizeCommand),
        CommandInfo("train", MixQTrainCommand.COMMAND.help, MixQTrainCommand),
        CommandInfo("evaluate", MixQEvaluateCommand.COMMAND.help, MixQEvaluateCommand),
        CommandInfo("sweep", MixQSweepCommand.COMMAND.help, MixQSweepCommand),
        CommandInfo("report", MixQReportCommand.COMMAND.help, MixQReportCommand),
        CommandInfo("demo", MixQDemoCommand.COMMAND.help, MixQDemoCommand),
    )


REGISTER_COMMANDS = [MixQCommand]
