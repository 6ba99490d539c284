"""A device that isn't there, for code that must run on a GPU and is tested without one.

Inside `Elsewhere` torch's "meta" device holds values. Its tensors compute on the CPU, and an
operation that one of them meets a tensor of the CPU in is an error, as on a GPU: but for single
numbers, which CUDA takes from anywhere too, and copies. What only CUDA does (its kernels, its
rounding, its streams) this can't show.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

AWAY = torch.device("meta")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Away(Tensor):
    """A tensor on the other device; ``here`` has its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        """Wraps a tensor, whose memory it shares."""
        made = Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=AWAY
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Away({self.here!r})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Outside of `Elsewhere` too, such as when a tensor is printed."""
        return _run(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it is entered there is the device `AWAY`.

    Attributes:
        ran: names of the operations that ran on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ran: set[str] = set()

    def __enter__(self) -> Elsewhere:
        # A module that moves keeps its parameters, as it does from the CPU to a GPU.
        self._before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch.__future__.set_swap_module_params_on_conversion(self._before)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """One operation."""
        made = _run(function, args, kwargs or {})
        if isinstance(made, Away):
            self.ran.add(str(function))
        return made


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [part for part in tree_flatten((args, kwargs))[0] if isinstance(part, Tensor)]
    away = [part for part in tensors if isinstance(part, Away)]
    strays = [part for part in tensors if not isinstance(part, Away) and part.dim() > 0]
    if away and strays and function not in _COPIES:
        raise RuntimeError(f"{function}: tensors of two devices, shapes {_shapes(tensors)}")
    wanted = kwargs.get("device")
    asked = wanted is not None and torch.device(wanted) == AWAY
    there = bool(away) if wanted is None else asked
    if asked:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if function is torch.ops.aten.copy_.default:
        there = isinstance(args[0], Away)
    made = function(*tree_map(_here, args), **tree_map(_here, kwargs))
    if function is torch.ops.aten._to_copy.default and made is _here(args[0]):
        made = made.clone()
    known = {id(part.here): part for part in away}

    def wrapped(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        if id(part) in known:
            return known[id(part)]  # What is changed in place is the same tensor afterwards.
        return Away(part) if there else part

    return tree_map(wrapped, made)


def _here(part: Any) -> Any:
    return part.here if isinstance(part, Away) else part


def _shapes(tensors: Iterable[Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    return [("away" if isinstance(t, Away) else "here", tuple(t.shape)) for t in tensors]
