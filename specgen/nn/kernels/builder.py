"""Builds functions in LLVM's intermediate representation, with operators and Python loops that unroll.

A kernel is a Python function that calls these operations once. They emit instructions, and LLVM compiles them for the
processor. A loop of the compiled code is `Builder.loop`; a Python `for` repeats the instructions of its body.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, FLOAT, VOID, POINTER = ir.HalfType(), ir.FloatType(), ir.VoidType(), ir.PointerType()
# Lanes of a vector of floats. LLVM divides it where registers are narrower.
LANES = 16


def vector(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, lanes)


FLOATS, INTS = vector(FLOAT), vector(I32)


class Value:
    """An SSA value with operators. A Python number beside it becomes a constant of its type."""

    def __init__(self, builder: "Builder", raw: Any) -> None:
        self.builder = builder
        self.raw = raw

    @property
    def type(self) -> Any:
        return self.raw.type

    @property
    def is_float(self) -> bool:
        element = self.type.element if isinstance(self.type, ir.VectorType) else self.type
        return isinstance(element, ir.FloatType | ir.HalfType)

    def _apply(self, integer: str, real: str | None, left: Any, right: Any) -> "Value":
        name = real if self.is_float else integer
        if name is None:
            raise TypeError("not an operation on floats")
        one, other = (self.builder.value(each, self.type).raw for each in (left, right))
        return Value(self.builder, getattr(self.builder.raw, name)(one, other))

    def __add__(self, other: Any) -> "Value":
        return self._apply("add", "fadd", self, other)

    def __sub__(self, other: Any) -> "Value":
        return self._apply("sub", "fsub", self, other)

    def __rsub__(self, other: Any) -> "Value":
        return self._apply("sub", "fsub", other, self)

    def __mul__(self, other: Any) -> "Value":
        return self._apply("mul", "fmul", self, other)

    def __truediv__(self, other: Any) -> "Value":
        return self._apply("sdiv", "fdiv", self, other)

    def __rtruediv__(self, other: Any) -> "Value":
        return self._apply("sdiv", "fdiv", other, self)

    def __floordiv__(self, other: Any) -> "Value":
        return self._apply("sdiv", None, self, other)

    def __mod__(self, other: Any) -> "Value":
        return self._apply("srem", None, self, other)

    def __and__(self, other: Any) -> "Value":
        return self._apply("and_", None, self, other)

    def __or__(self, other: Any) -> "Value":
        return self._apply("or_", None, self, other)

    def __xor__(self, other: Any) -> "Value":
        return self._apply("xor", None, self, other)

    def __lshift__(self, other: Any) -> "Value":
        return self._apply("shl", None, self, other)

    def __rshift__(self, other: Any) -> "Value":
        """Fills with zeros."""
        return self._apply("lshr", None, self, other)

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, operator: str, other: Any) -> "Value":
        right = self.builder.value(other, self.type).raw
        emit = self.builder.raw.fcmp_ordered if self.is_float else self.builder.raw.icmp_signed
        return Value(self.builder, emit(operator, self.raw, right))

    def __lt__(self, other: Any) -> "Value":
        return self.compare("<", other)

    def __le__(self, other: Any) -> "Value":
        return self.compare("<=", other)

    def __gt__(self, other: Any) -> "Value":
        return self.compare(">", other)

    def __ge__(self, other: Any) -> "Value":
        return self.compare(">=", other)


class Variable:
    """A value that changes in loops. LLVM keeps it in a register."""

    def __init__(self, builder: "Builder", kind: Any) -> None:
        self._builder = builder
        self._kind = kind
        with builder.raw.goto_entry_block():
            self._slot = builder.raw.alloca(kind)

    def get(self) -> Value:
        return Value(self._builder, self._builder.raw.load(self._slot, typ=self._kind))

    def set(self, value: Any) -> Self:
        self._builder.raw.store(self._builder.value(value, self._kind).raw, self._slot)
        return self


class Builder:
    """Emits one function `name(arguments...)` into a module. Pointers are addresses plus offsets in bytes."""

    def __init__(
        self, module: ir.Module, name: str, arguments: Sequence[Any], result: Any = VOID, *, inline: bool = False
    ) -> None:
        self.module = module
        self.function = ir.Function(module, ir.FunctionType(result, list(arguments)), name)
        if not inline:
            self.function.attributes.add("noinline")
        self.raw = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.arguments = [Value(self, argument) for argument in self.function.args]

    def value(self, value: Any, kind: Any = I64) -> Value:
        """`value` as a `Value`; a Python number as a constant of the type `kind`, in all lanes of a vector."""
        if isinstance(value, Value):
            return value
        if isinstance(kind, ir.VectorType):
            return Value(self, ir.Constant(kind, [value] * kind.count))
        return Value(self, ir.Constant(kind, value))

    def variable(self, initial: Any, kind: Any = None) -> Variable:
        kind = kind or self.value(initial).type
        return Variable(self, kind).set(initial)

    # Memory

    def at(self, pointer: Value, offset: Any) -> Value:
        """The address `offset` bytes after `pointer`."""
        return Value(self, self.raw.gep(pointer.raw, [self.value(offset).raw], source_etype=I8))

    def load(self, pointer: Value, offset: Any, kind: Any, align: int = 4) -> Value:
        loaded = self.raw.load(self.at(pointer, offset).raw, typ=kind)
        loaded.align = align
        return Value(self, loaded)

    def store(self, value: Value, pointer: Value, offset: Any, align: int = 4) -> None:
        self.raw.store(value.raw, self.at(pointer, offset).raw).align = align

    def prefetch(self, pointer: Value, offset: Any) -> None:
        """Ask for the cache line at an address, which need not be readable."""
        arguments = [self.at(pointer, offset), *(self.value(number, I32) for number in (0, 3, 1))]
        self.call("llvm.prefetch.p0", arguments, VOID)

    def load_float(self, pointer: Value, index: Any) -> Value:
        return self.load(pointer, self.value(index) * 4, FLOAT)

    def load_floats(self, pointer: Value, index: Any) -> Value:
        """16 floats from the float with this index on."""
        return self.load(pointer, self.value(index) * 4, FLOATS)

    def store_floats(self, value: Value, pointer: Value, index: Any) -> None:
        self.store(value, pointer, self.value(index) * 4)

    def field(self, record: Value, index: int) -> Value:
        """A 64-bit integer of a record."""
        return self.load(record, 8 * index, I64, 8)

    def address(self, record: Value, index: int) -> Value:
        """A pointer of a record."""
        return self.load(record, 8 * index, POINTER, 8)

    # Vectors

    def splat(self, scalar: Value, lanes: int = LANES) -> Value:
        """A vector with `scalar` in each lane."""
        kind = vector(scalar.type, lanes)
        first = self.raw.insert_element(ir.Constant(kind, ir.Undefined), scalar.raw, ir.Constant(I32, 0))
        return self.shuffle(Value(self, first), [0] * lanes)

    def shuffle(self, value: Value, lanes: Sequence[int], other: Value | None = None) -> Value:
        """The chosen `lanes` of `value`, followed by those of `other`."""
        second = other.raw if other else ir.Constant(value.type, ir.Undefined)
        return Value(
            self, self.raw.shuffle_vector(value.raw, second, ir.Constant(vector(I32, len(lanes)), list(lanes)))
        )

    def halves(self, value: Value) -> tuple[Value, Value]:
        lanes = value.type.count
        return self.shuffle(value, range(lanes // 2)), self.shuffle(value, range(lanes // 2, lanes))

    def join(self, low: Value, high: Value) -> Value:
        return self.shuffle(low, range(2 * low.type.count), high)

    def reduce(self, value: Value, combine: Any) -> Value:
        """All lanes combined in a fixed order: halves with halves."""
        while value.type.count > 1:
            value = combine(*self.halves(value))
        return Value(self, self.raw.extract_element(value.raw, ir.Constant(I32, 0)))

    def cast(self, operation: str, value: Value, kind: Any) -> Value:
        """One of LLVM's conversions: bitcast, sext, zext, trunc, sitofp, fptosi, fpext, fptrunc ..."""
        return Value(self, getattr(self.raw, operation)(value.raw, kind))

    def to_floats(self, halves: Value) -> Value:
        return self.cast("fpext", halves, vector(FLOAT, halves.type.count))

    # Functions

    def call(self, name: str, arguments: Sequence[Value], result: Any) -> Value:
        """Call a function or an intrinsic of LLVM by name."""
        kind = ir.FunctionType(result, [each.type for each in arguments])
        callee = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return Value(self, self.raw.call(callee, [each.raw for each in arguments]))

    def call_pointer(self, pointer: Value, arguments: Sequence[Value]) -> None:
        """Call the function of no result at an address."""
        kind = ir.FunctionType(VOID, [each.type for each in arguments])
        loaded = self.raw.inttoptr(pointer.raw, POINTER) if pointer.type == I64 else pointer.raw
        self.raw.call(_Callee(loaded, kind), [each.raw for each in arguments])

    def _math(self, name: str, *arguments: Value) -> Value:
        kind = arguments[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        return self.call(f"llvm.{name}.{suffix}", arguments, kind)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the processor can."""
        return self._math("fmuladd", a, b, c)

    def sqrt(self, value: Value) -> Value:
        return self._math("sqrt", value)

    def round(self, value: Value) -> Value:
        """To the nearest integer, ties to even."""
        return self._math("rint", value)

    def absolute(self, value: Value) -> Value:
        return self._math("fabs", value)

    def greater(self, a: Value, b: Value) -> Value:
        """The larger one in each lane. NaN if one is NaN, so that a fault is not lost."""
        bigger = self.select(a.compare(">", b), a, b)
        return self.select(Value(self, self.raw.fcmp_unordered("uno", a.raw, a.raw)), a, bigger)

    def select(self, condition: Value, yes: Value, no: Value) -> Value:
        return Value(self, self.raw.select(condition.raw, yes.raw, no.raw))

    def smaller_int(self, a: Value, b: Value) -> Value:
        return self.select(a < b, a, b)

    # Control

    @contextmanager
    def loop(self, count: Any, start: Any = 0, step: Any = 1) -> Iterator[Value]:
        """Counts from `start` to below `count`."""
        index = self.variable(start)
        head, body, done = (self.function.append_basic_block(name) for name in ("head", "body", "done"))
        self.raw.branch(head)
        self.raw.position_at_end(head)
        now = index.get()
        self.raw.cbranch((now < self.value(count)).raw, body, done)
        self.raw.position_at_end(body)
        yield now
        index.set(now + step)
        self.raw.branch(head)
        self.raw.position_at_end(done)

    @contextmanager
    def while_true(self) -> Iterator[Any]:
        """Repeats its body. The body gets a function that leaves the loop where its argument is true."""
        body, done = self.function.append_basic_block("forever"), self.function.append_basic_block("left")
        self.raw.branch(body)
        self.raw.position_at_end(body)

        def leave(condition: Value) -> None:
            rest = self.function.append_basic_block("rest")
            self.raw.cbranch(condition.raw, done, rest)
            self.raw.position_at_end(rest)

        yield leave
        self.raw.branch(body)
        self.raw.position_at_end(done)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.raw.if_then(condition.raw):
            yield

    def finish(self) -> None:
        self.raw.ret_void()


class _Callee:
    """What llvmlite asks of a called pointer: a value with a function type."""

    def __init__(self, pointer: Any, kind: ir.FunctionType) -> None:
        self._pointer = pointer
        self.type = POINTER
        self.function_type = kind

    def get_reference(self) -> str:
        reference: str = self._pointer.get_reference()
        return reference
