"""What pairs take of the memory, and giving it back."""

import ctypes
import gc
import sys

import torch

from specgen.nn.lean.model import LeanModel
from specgen.session.loading import Pair
from specgen.session.memory_plan import Plan


def lean_models(pair: Pair) -> list[LeanModel]:
    return [model for model in (pair.target, pair.draft) if isinstance(model, LeanModel)]


def weights(plan: Plan) -> int:
    return sum(model.footprint.weights + model.footprint.tokenizer for model in plan.models)


def caches(plan: Plan) -> int:
    return sum(model.footprint.cache for model in plan.models)


def give_back() -> None:
    """Return what Python, torch and the C library hold for later to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
