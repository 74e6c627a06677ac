# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What blocks learned, one file each, in a folder that a run that was stopped goes on from."""

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from optimum_mixq.architectures.block_run import BlockRun
from optimum_mixq.stages.reconstruction.learn import place_learned


class BlockStates:
    """The files of one reconstruction; their folder is named after all that it depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, run: BlockRun, learned: bool) -> None:
        """Write the block's state, or that it stays as it was calibrated."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = run.model.get_submodule(run.block.module).state_dict() if learned else {}
        path = self._path(run)
        # Layers that share a grid would share its memory, which the format does not take.
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        save_file(tensors, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)  # a file is whole, or not there

    def restore(self, run: BlockRun) -> bool:
        """Put what the block learned into its calibrated place; return whether there was something."""
        path = self._path(run)
        if not path.exists():
            return False
        with safe_open(path, "pt", str(run.model.device)) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}
        if state:
            place_learned(run)
            run.model.get_submodule(run.block.module).load_state_dict(state)
        return True

    def _path(self, run: BlockRun) -> Path:
        return self.folder / f"{run.block.name}.safetensors"
