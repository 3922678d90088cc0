"""Threads that compute a pass together: a list of operations, each divided into small chunks.

Every idle thread takes the next chunk of the operation at hand. So a thread that another program interrupts delays only
its own chunk, and a pass needs no thread but the caller's. Threads sleep between passes.
"""

import ctypes
import functools
import queue
import threading
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from llvmlite import ir

from specgen.nn.kernels.builder import I32, I64, POINTER, Builder, Value
from specgen.nn.kernels.compiler import as_function, compile_module, features

# 64-bit integers of an operation, of a pass, and of an operation's counters (two cache lines).
OPERATION, PASS, COUNTERS = 32, 16, 16
# Polls of a counter before the thread lets others run.
_POLLS = 2000


class Field(IntEnum):
    """The first fields of each operation. Kinds of operations name theirs from 8 on."""


class OperationField(Field):
    """Fields that the team reads. Chunks: FIXED + PER_ROW * the field COUNT_FIELD of the pass."""

    FUNCTION = 0
    FIXED = 1
    PER_ROW = 2
    COUNT_FIELD = 3
    FIRST_OF_GROUP = 4
    """The first of the operations that run together with this one, if it is their last; else -1."""


class PassField(Field):
    """Fields of a pass, which every operation may read."""

    ROWS = 0
    LAST = 1
    """How many of the last rows are scored."""
    TILES = 3
    """The number of tiles of rows, which attend one after the other."""
    TILE = 4
    """Rows of a tile."""
    ROW_TABLE = 2
    """int64 [rows, 4]: position, address of the cache, capacity of the cache in positions, unused."""


class ProgramField(Field):
    """Fields of a program."""

    OPERATIONS = 0
    COUNT = 1
    COUNTERS = 2
    PASS = 3
    SCRATCH = 4
    SCRATCH_BYTES = 5
    """For each thread."""
    OPEN = 6
    ACTIVE = 7


def _build(module: ir.Module) -> None:
    _build_work(module)
    begin = Builder(module, "begin", [POINTER])
    program = begin.arguments[0]
    counters = begin.address(program, ProgramField.COUNTERS)
    with begin.loop(begin.field(program, ProgramField.COUNT) * COUNTERS) as index:
        begin.store(begin.value(0), counters, index * 8, 8)
    begin.raw.atomic_rmw("xchg", begin.at(program, 8 * ProgramField.OPEN).raw, begin.value(1).raw, "seq_cst")
    begin.finish()

    lead = Builder(module, "lead", [POINTER])
    program = lead.arguments[0]
    lead.call("work", [program, lead.value(0)], ir.VoidType())
    lead.raw.atomic_rmw("xchg", lead.at(program, 8 * ProgramField.OPEN).raw, lead.value(0).raw, "seq_cst")
    # A late thread may still look for chunks. It must not see the fields of the next pass.
    _wait(lead, lead.at(program, 8 * ProgramField.ACTIVE), lead.value(0))
    lead.finish()

    join = Builder(module, "join", [POINTER, I64])
    program, thread = join.arguments
    active = join.at(program, 8 * ProgramField.ACTIVE)
    join.raw.atomic_rmw("add", active.raw, join.value(1).raw, "seq_cst")
    is_open = _load_atomic(join, join.at(program, 8 * ProgramField.OPEN), "seq_cst")
    with join.when(is_open.compare("==", 1)):
        join.call("work", [program, thread], ir.VoidType())
    join.raw.atomic_rmw("sub", active.raw, join.value(1).raw, "seq_cst")
    join.finish()


def _build_work(module: ir.Module) -> None:
    """work(program, thread): take chunks of all operations in order."""
    b = Builder(module, "work", [POINTER, I64])
    program, thread = b.arguments
    operations, counters = b.address(program, ProgramField.OPERATIONS), b.address(program, ProgramField.COUNTERS)
    now = b.address(program, ProgramField.PASS)
    scratch = b.at(b.address(program, ProgramField.SCRATCH), thread * b.field(program, ProgramField.SCRATCH_BYTES))
    with b.loop(b.field(program, ProgramField.COUNT)) as index:
        op = b.at(operations, index * (8 * OPERATION))
        taken = b.at(counters, index * (8 * COUNTERS))
        done = b.at(taken, 4 * COUNTERS)
        chunks = _chunks(b, op, now)
        with b.while_true() as leave:
            leave(_load_atomic(b, taken, "monotonic") >= chunks)
            chunk = Value(b, b.raw.atomic_rmw("add", taken.raw, b.value(1).raw, "monotonic"))
            leave(chunk >= chunks)
            b.call_pointer(b.field(op, OperationField.FUNCTION), [op, now, chunk, scratch])
            b.raw.atomic_rmw("add", done.raw, b.value(1).raw, "release")
        first = b.field(op, OperationField.FIRST_OF_GROUP)
        with b.when(first >= 0), b.loop(index + 1, first) as earlier:
            finished = b.at(counters, earlier * (8 * COUNTERS) + 4 * COUNTERS)
            _wait(b, finished, _chunks(b, b.at(operations, earlier * (8 * OPERATION)), now))
    b.finish()


def _chunks(b: Builder, op: Value, now: Value) -> Value:
    count = b.load(now, b.field(op, OperationField.COUNT_FIELD) * 8, I64, 8)
    return b.field(op, OperationField.FIXED) + b.field(op, OperationField.PER_ROW) * count


def _load_atomic(b: Builder, pointer: Value, ordering: str) -> Value:
    return Value(b, b.raw.load_atomic(pointer.raw, ordering, 8, typ=I64))


def _wait(b: Builder, pointer: Value, wanted: Value) -> None:
    """Poll until the counter has the value."""
    polls = b.variable(0)
    with b.while_true() as leave:
        leave(_load_atomic(b, pointer, "acquire").compare("==", wanted))
        polls.set(polls.get() + 1)
        if "sse2" in features():
            b.call("llvm.x86.sse2.pause", [], ir.VoidType())
        with b.when((polls.get() % _POLLS).compare("==", 0)):
            b.call(_yield_name(), [], I32)


def _yield_name() -> str:
    return "SwitchToThread" if hasattr(ctypes, "windll") else "sched_yield"


class Program:
    """The operations of a pass, and what they share. `set` fields of the pass, then `Team.run` it."""

    def __init__(self, operations: np.ndarray) -> None:
        """`operations`: int64 [count, OPERATION]."""
        self.operations = operations
        self.current = np.zeros(PASS, np.int64)
        self._counters = np.zeros((len(operations), COUNTERS), np.int64)
        self._scratch = np.zeros(0, np.uint8)
        self.record = np.zeros(16, np.int64)
        record = self.record
        record[ProgramField.OPERATIONS] = operations.ctypes.data
        record[ProgramField.COUNT] = len(operations)
        record[ProgramField.COUNTERS] = self._counters.ctypes.data
        record[ProgramField.PASS] = self.current.ctypes.data
        self.address = int(record.ctypes.data)

    def reserve(self, scratch_bytes: int, threads: int) -> None:
        """Give each thread at least `scratch_bytes` of scratch memory."""
        if self.record[ProgramField.SCRATCH_BYTES] < scratch_bytes or len(self._scratch) < scratch_bytes * threads:
            self._scratch = np.zeros(scratch_bytes * threads, np.uint8)
            self.record[ProgramField.SCRATCH] = self._scratch.ctypes.data
            self.record[ProgramField.SCRATCH_BYTES] = scratch_bytes


class Team:
    """The threads of this process that compute passes. One pass runs at a time."""

    def __init__(self, threads: int) -> None:
        """`threads` counts the caller of `run`."""
        self.threads = threads
        addresses = compile_module("team", ("begin", "lead", "join"), _build)
        self._begin, self._lead = (as_function(addresses[name], 1) for name in ("begin", "lead"))
        self._join = as_function(addresses["join"], 2)
        self._lock = threading.Lock()
        self._queues: list[queue.SimpleQueue[Program | None]] = [queue.SimpleQueue() for _ in range(threads - 1)]
        for index, jobs in enumerate(self._queues):
            threading.Thread(target=self._help, args=(index + 1, jobs), name=f"kernel-{index + 1}", daemon=True).start()

    def run(self, program: Program, count: int) -> None:
        """Compute the first `count` operations of a pass."""
        with self._lock:
            program.record[ProgramField.COUNT] = count
            try:
                self._begin(program.address)
                for jobs in self._queues:
                    jobs.put(program)
            finally:  # an interrupt must not leave threads at work on memory that the caller may free
                self._lead(program.address)

    def close(self) -> None:
        """End the threads."""
        for jobs in self._queues:
            jobs.put(None)

    def _help(self, thread: int, jobs: "queue.SimpleQueue[Program | None]") -> None:
        while (program := jobs.get()) is not None:
            self._join(program.address, thread)


def assemble(operations: Sequence[dict[int, Any]]) -> np.ndarray:
    """int64 [count, OPERATION] from the fields of each operation."""
    table = np.zeros((len(operations), OPERATION), np.int64)
    for row, fields in zip(table, operations, strict=True):
        row[OperationField.FIRST_OF_GROUP] = -1
        for field, value in fields.items():
            row[field] = value
    return table


def float_bits(value: float) -> int:
    """The bits of a float32 as an integer, for a field of an operation."""
    return int(np.float32(value).view(np.int32))


@functools.cache
def team_of(threads: int) -> Team:
    return Team(threads)
