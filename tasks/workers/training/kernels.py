"""Norms and rotary embeddings of a model by fewer kernels; its own code asks a GPU for six and for thirteen each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.nn import functional as F

_ROTARY = "apply_rotary_pos_emb"  # of a model's module in transformers


def use_few_kernels(model: Any) -> None:
    """Let RMSNorm modules and rotary embeddings compute by fewer kernels where that gives what they give."""
    agrees: dict[type, bool] = {}
    for module in model.modules():
        kind = type(module)
        if kind.__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") and hasattr(module, "weight"):
            if kind not in agrees:
                agrees[kind] = _norm_agrees(module)
            if agrees[kind]:
                module.forward = MethodType(_normalized, module)
        code = sys.modules[kind.__module__]
        own = getattr(code, _ROTARY, None)
        if own is not None and not hasattr(own, "replaces") and _rotation_agrees(own):
            setattr(code, _ROTARY, _rotating(own))


def _normalized(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden, self.weight.shape, self.weight, self.variance_epsilon)


def _norm_agrees(module: Any) -> bool:
    weight = module.weight
    hidden = torch.linspace(-3, 2, 4 * weight.numel(), device=weight.device, dtype=weight.dtype).view(4, -1)
    with torch.no_grad():
        own, fused = module(hidden), _normalized(module, hidden)
    # The module rounds twice, and torch once.
    close = torch.allclose(own, fused.to(own.dtype), rtol=2 * torch.finfo(weight.dtype).eps, atol=1e-6)
    return bool(close and own.dtype == fused.dtype)


class _Rotation(torch.autograd.Function):  # type: ignore[misc]
    """`x * cos + rotate_half(x) * sin`, where the halves of `sin` are equal but for the sign that they have here."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        turned = torch.addcmul(gradient * cos, gradient.roll(gradient.shape[-1] // 2, -1), sin, value=-1)
        return turned, None, None


def _rotating(own: Callable[..., Any]) -> Callable[..., Any]:
    """Return `own` with fewer kernels in bf16; other types keep their bits."""

    def rotate(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **options: Any) -> Any:
        if options or q.dtype != torch.bfloat16 or cos.dtype != q.dtype or cos.shape[-1] != q.shape[-1]:
            return own(q, k, cos, sin, **options)
        return _rotated(q, k, cos, sin)

    rotate.replaces = own  # type: ignore[attr-defined]
    return rotate


def _rotated(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    signed = getattr(sin, "signed", None)
    if signed is None:  # once a pass: all layers share it
        half = sin[..., : sin.shape[-1] // 2]
        signed = sin.signed = torch.cat((-half, half), dim=-1).unsqueeze(1)
    return tuple(_Rotation.apply(states, cos.unsqueeze(1), signed) for states in (q, k))


def _rotation_agrees(own: Callable[..., Any]) -> bool:
    """Return whether results and gradients are those of the model's own function, in float32."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 5, 8, generator=draw, requires_grad=True) for heads in (4, 2))
    angles = torch.randn(2, 5, 4, generator=draw).repeat(1, 1, 2)
    found = []
    for rotate in (own, _rotated):
        try:
            turned = rotate(q, k, angles.cos(), angles.sin())
            gradients = torch.autograd.grad([states.pow(2).sum() + states[..., :3].sum() for states in turned], [q, k])
        except (RuntimeError, TypeError, IndexError, ValueError):
            return False
        found.append([*turned, *gradients])
    return all(torch.allclose(*pair, rtol=1e-5, atol=1e-5) for pair in zip(*found, strict=True))
