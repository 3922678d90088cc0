"""Compiles kernels for this processor, and keeps the machine code on disk.

A first start compiles in seconds. Later starts load machine code and need neither LLVM's optimizer nor the builder.
"""

import ctypes
import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from specgen.core.files import cache_folder, replace_file

Build = Callable[[ir.Module], None]
"""Adds functions to a module."""

_SOURCES = ("attention.py", "builder.py", "dots.py", "products.py", "quantize_int4.py", "rows.py", "team.py")
# LLVM's global state is not made for several threads.
_lock = threading.Lock()
# The loaded modules by name. An engine owns its machine code.
_engines: dict[str, Any] = {}


@functools.cache
def features() -> frozenset[str]:
    """The instruction sets of this processor by LLVM's names."""
    found = llvm.get_host_cpu_features()
    return frozenset(name for name, there in found.items() if there)


@functools.cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )


@functools.cache
def _version() -> str:
    """Names what machine code depends on besides its own parameters."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    parts = (llvmlite.__version__, llvm.get_process_triple(), llvm.get_host_cpu_name(), *sorted(features()))
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()[:16]


def is_compiled(name: str) -> bool:
    """Whether machine code for `name` lies on disk."""
    return _path(name).is_file()


def compile_module(name: str, functions: Sequence[str], build: Build) -> dict[str, int]:
    """The addresses of the `functions` that `build` adds to a module.

    `name` names the content of the module: the same name means the same code. A folder that cannot be written to is no
    error: the next start compiles again.
    """
    with _lock:
        if name not in _engines:
            engine = _load(name) or _compile(name, build)
            engine.finalize_object()
            _engines[name] = engine
        return {function: _engines[name].get_function_address(function) for function in functions}


def _path(name: str) -> Path:
    key = hashlib.sha256(f"{_version()} {name}".encode()).hexdigest()[:32]
    return cache_folder() / "kernels" / f"{key}.o"


def _new_engine() -> Any:
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())


def _load(name: str) -> Any:
    try:
        stored = _path(name).read_bytes()
    except OSError:
        return None
    check, code = stored[:32], stored[32:]
    if hashlib.sha256(code).digest() != check:
        return None
    engine = _new_engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    return engine


def _compile(name: str, build: Build) -> Any:
    module = ir.Module(name)
    module.triple = llvm.get_process_triple()
    build(module)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    builder = llvm.create_pass_builder(_machine(), llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(parsed, builder)
    code = _machine().emit_object(parsed)
    with suppress(OSError):
        replace_file(_path(name), hashlib.sha256(code).digest() + code, parents=True)
    engine = _new_engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    return engine


def as_function(address: int, arguments: int) -> Callable[..., None]:
    """A compiled function of `arguments` 64-bit integers. Calls release Python's lock."""
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(address)
