"""The cut between the frozen layers of a model and the trained ones above them."""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.contracts import BaseModelRef
from tasks.data.model_size import first_trained_layer, is_trained, layer_of
from tasks.errors import ModelError

# Name of the argument of a cut model that takes hidden states, beside those of its own.
HIDDEN_STATES = "hidden_states_at_cut"
# numpy has no bfloat16: its bits are kept as integers.
BITS = np.dtype(np.int16)
# Hidden states of one row, of shape (tokens, width): float32, or the bits of bfloat16.
States = npt.NDArray[Any]
_FIX = "set training.trainable_layers=all for this model"


class _ReachedError(Exception):
    """The pass has come to the cut."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output


class Cut:
    """Freezes the lower layers of a model, and lets a pass begin from their outputs.

    A call of the model with `HIDDEN_STATES` of shape (rows, tokens, width) skips the layers below; its other arguments
    stay those of the model, which makes masks and positions from them. Frozen layers have no dropout: their outputs
    are the same in every pass.

    Args:
        first: number of the lowest trained layer, above 0.

    Raises:
        ModelError: the model has no single list of decoder layers.
    """

    def __init__(self, model: Any, first: int) -> None:
        self.first = first
        self.given: torch.Tensor | None = None
        layers, owner = _layers_of(model)
        self.below = list(layers[:first])
        self._embedding = model.get_input_embeddings()
        self.gives_tuple = False  # as layers of some models do; every model here computes once without states
        trained = {id(m) for name, m in owner.named_children() if is_trained(f"{name}.weight", first)}
        for module in [*self.below, *(m for m in owner.children() if m is not layers and id(m) not in trained)]:
            module.train = MethodType(_stay_in_evaluation, module)
            module.train(False)
        for layer in self.below:
            layer.cut = self  # in the layer, so that a copy of the model has a cut of its own
            layer.forward = MethodType(_forward_below, layer)
        model.cut = self
        model.register_forward_pre_hook(_take_states, with_kwargs=True)
        model.register_forward_hook(_forget_states)

    def freeze(self, model: Any) -> None:
        """Leave gradients to the layers from `first` on and the last norm."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_trained(name, self.first))

    def check(self, model: Any, where: str, tolerance: float = 1e-3) -> None:
        """Compare the logits of two short rows with those that the outputs of the frozen layers give.

        Args:
            where: the model, for the message.
            tolerance: largest difference in standard deviations of all logits.

        Raises:
            ModelError: they differ; upper layers then use more of the lower ones than the outputs of the last.
        """
        ids = torch.arange(12, device=self._embedding.weight.device).view(2, 6) % self._embedding.weight.shape[0]
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                own = model(input_ids=ids, use_cache=False).logits
                states = self.outputs(model, {"input_ids": ids})
                got = model(input_ids=ids, use_cache=False, **{HIDDEN_STATES: states}).logits
        finally:
            model.train(was_training)
        if not bool((own - got).abs().max() <= tolerance * own.std()):
            raise ModelError(
                where,
                got="upper layers that use more of the lower ones than their last output",
                expected="for training.trainable_layers, a model that can be cut between two layers",
                fix=_FIX,
            )

    def outputs(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the outputs of the frozen layers, of shape (rows, tokens, width); layers above do not compute."""

        def reach(_layer: Any, _arguments: Any, output: Any) -> None:
            raise _ReachedError(output[0] if isinstance(output, tuple) else output)

        with torch.no_grad(), self.below[-1].register_forward_hook(reach):
            try:
                model(**inputs, use_cache=False)
            except _ReachedError as reached:
                return reached.output
        raise AssertionError("a forward pass that runs no frozen layer")

    def passed_on(self) -> Any:
        """Return the given states as a layer of the model returns its output."""
        assert self.given is not None
        states = self.given.to(self._embedding.weight.dtype)
        return (states,) if self.gives_tuple else states


def cut_model(model: Any, base: BaseModelRef) -> None:
    """Freeze the layers below `base.trainable_layers`; nothing changes where all are trained.

    Raises:
        ModelError: the model cannot be cut.
    """
    first = first_trained_layer(base, model.config.get_text_config())
    if not first:
        return
    cut = Cut(model, first)
    if base.lora is None:
        cut.freeze(model)


def cut_of(model: Any) -> Cut | None:
    """Return the cut of a model; None where all layers are trained."""
    cut: Cut | None = getattr(model, "cut", None)
    return cut


def modules_below(model: Any, first: int) -> str:
    """Return a pattern of the names of all modules outside the layers from `first` on, which get no adapters."""
    layers, _ = _layers_of(model)
    path = next(name for name, module in model.named_modules() if module is layers).replace(".", r"\.")
    numbers = "|".join(str(number) for number in range(first, len(layers)))
    return rf"(?!{path}\.(?:{numbers})\.).*"


def _layers_of(model: Any) -> tuple[Any, Any]:
    """Return the list of the model's decoder layers, and the module that it is in."""
    count = model.config.get_text_config().num_hidden_layers
    found = [
        (module, name)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count and layer_of(name) is None
    ]
    if len(found) != 1 or model.get_input_embeddings() is None:
        raise ModelError(
            model.config.name_or_path or type(model).__name__,
            got=f"{len(found)} lists of {count} modules in a {type(model).__name__}",
            expected="for training.trainable_layers, a model with one list of its decoder layers",
            fix=_FIX,
        )
    layers, name = found[0]
    return layers, model.get_submodule(name.rpartition(".")[0])


def _stay_in_evaluation(self: Any, mode: bool = True) -> Any:
    return type(self).train(self, False)


def _forward_below(self: Any, *args: Any, **kwargs: Any) -> Any:
    if self.cut.given is not None:
        return self.cut.passed_on()
    output = type(self).forward(self, *args, **kwargs)
    self.cut.gives_tuple = isinstance(output, tuple)
    return output


def _take_states(model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    model.cut.given = kwargs.pop(HIDDEN_STATES, None)
    return args, kwargs


def _forget_states(model: Any, _args: Any, _output: Any) -> None:
    model.cut.given = None


def placed_states(states: Sequence[tuple[int, States]], shape: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Return states of shape (*shape, width) on the device, those of each row from its place on; 0 elsewhere.

    Args:
        states: place, counted through all lines of `shape`, and states of each row.
        shape: lines, and tokens of a line.
    """
    first = states[0][1]
    placed = np.zeros((shape[0] * shape[1], first.shape[1]), dtype=first.dtype)
    for place, own in states:
        placed[place : place + len(own)] = own
    tensor = torch.from_numpy(placed.reshape(*shape, -1))
    return (tensor.view(torch.bfloat16) if first.dtype == BITS else tensor).to(device, non_blocking=True)
