# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The words of `optimum-cli mixq`. What they do stands in `optimum_mixq.cli`, imported only when a command runs."""

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


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
        CommandInfo("evaluate", MixQEvaluateCommand.COMMAND.help, MixQEvaluateCommand),
        CommandInfo("demo", MixQDemoCommand.COMMAND.help, MixQDemoCommand),
    )


REGISTER_COMMANDS = [MixQCommand]
