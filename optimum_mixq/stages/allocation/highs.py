# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""HiGHS as PuLP calls it, without its banner."""

import highspy
import pulp


class SilentHighs(highspy.Highs):
    """highspy 1.16 prints two lines on standard output when `Highs()` enables its callbacks, before PuLP's
    `msg=False` reaches it."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


class SilentSolver(pulp.HiGHS):
    def createAndConfigureSolver(self, lp: pulp.LpProblem) -> None:
        """Do what PuLP 3.3 does, with a solver that prints nothing."""
        lp.solverModel = SilentHighs()
        options = {
            "output_flag": False, "mip_rel_gap": self.gapRel, "mip_abs_gap": self.gapAbs, "threads": self.threads,
            "time_limit": None if self.timeLimit is None else float(self.timeLimit),
        }  # fmt: skip
        for name, value in options.items():
            if value is not None:
                lp.solverModel.setOptionValue(name, value)
