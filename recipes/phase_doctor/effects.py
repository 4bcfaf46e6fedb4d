"""What a traced graph would do, read off the graph without running it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

# Of `tf.DType` and of the number that a saved graph holds in its place.
FLOATS = {
    kind
    for d in (tf.float16, tf.bfloat16, tf.float32, tf.float64)
    for kind in (d, d.as_datatype_enum)
}


READS = re.compile(
    r"^(ReadVariableOp|ResourceGather\w*|VariableShape|VarIsInitializedOp|DisableCopyOnRead|_?Identity\w*)$"
)


WRITES = re.compile(
    r"^(Assign\w*VariableOp|AssignVariable\w*|Resource(Apply|SparseApply|Scatter|Strided|AccumulatorApply)\w*"
    r"|Stateful(Uniform|StandardNormal|TruncatedNormal|RandomBinomial)\w*|RngSkip|RngReadAndSkip)$"
)


RANDOM = re.compile(
    r"^(RandomUniform(Int)?|RandomStandardNormal|TruncatedNormal|ParameterizedTruncatedNormal|RandomGamma"
    r"|RandomPoisson(V2)?|Multinomial|RandomShuffle|RandomCrop|SampleDistortedBoundingBox\w*|CudnnRNN(V\d)?)$"
)


KERNEL_RANDOM = re.compile(
    RANDOM.pattern
    + r"|^(Stateless(Random|Truncated|Multinomial|Shuffle|Parameterized)\w*)$"
)


OUTSIDE = re.compile(
    r"^((Eager)?PyFunc\w*|Iterator\w*GetNext\w*|WriteFile|Save(V2)?|\w*Summary(V2)?|LookupTable(Insert|Import|Remove)\w*"
    r"|(Queue|Stack)(En|De|Push|Pop)\w*|MutableHashTable\w*|Barrier\w*)$"
)


@dataclasses.dataclass
class Effects:
    """Writes by key (argument position inside a function, id of the handle outside), and what cannot be undone."""

    writes: dict[Any, tuple[float, float]] = dataclasses.field(
        default_factory=dict
    )  # fewest and most a call
    random: set[str] = dataclasses.field(default_factory=set)
    outside: set[str] = dataclasses.field(default_factory=set)
    drawn: set[str] = dataclasses.field(default_factory=set)

    def add(self, key: Any, low: float, high: float) -> None:
        old = self.writes.get(key, (0, 0))
        self.writes[key] = (old[0] + low, old[1] + high)


def graph_effects(
    nodes: Iterable[Any],
    arguments: Mapping[str, Any],
    library: Mapping[str, Any],
    memo: dict,
) -> Effects:
    """Adds up the effects of `nodes`; `arguments` maps the names of resource inputs to keys."""
    effects, where = Effects(), dict(arguments)
    nodes = list(nodes)
    sources = {node.name: node for node in nodes}

    def key_of(name: str) -> Any:
        while True:
            name = name.split(":")[0]
            if name in where:
                return where[name]
            node = sources.get(name)
            if (
                node is None
                or node.op
                not in ("Identity", "Enter", "Switch", "RefIdentity", "StopGradient")
                or not node.input
            ):
                return None
            name = node.input[0]

    def inside(name: str) -> Effects:
        if name not in memo:
            memo[name] = Effects()  # a recursive function ends here
            function = library[name]
            names = {
                argument.name: i
                for i, argument in enumerate(function.signature.input_arg)
            }
            memo[name] = graph_effects(function.node_def, names, library, memo)
        return memo[name]

    def merge(branches: list[Effects], inputs: list[str], loop: bool = False) -> None:
        for branch in branches:
            effects.random |= branch.random
            effects.outside |= branch.outside
            effects.drawn |= branch.drawn
        for position in {key for branch in branches for key in branch.writes}:
            ranges = [branch.writes.get(position, (0, 0)) for branch in branches]
            key = key_of(inputs[position]) if position < len(inputs) else None
            if key is not None:
                low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
                effects.add(key, 0 if loop else low, math.inf if loop else high)

    for node in nodes:
        inputs = [name for name in node.input if not name.startswith("^")]
        called = [
            a.func.name
            for a in node.attr.values()
            if a.HasField("func") and a.func.name in library
        ]
        called += [
            f.name for a in node.attr.values() for f in a.list.func if f.name in library
        ]
        if node.op in library:
            called = [node.op]
        if RANDOM.match(node.op):
            effects.random.add(node.op)
        if KERNEL_RANDOM.match(node.op):
            effects.drawn.add(node.op)
        if OUTSIDE.match(node.op):
            effects.outside.add(node.op)
        if WRITES.match(node.op):
            if (
                "Random" in node.op
                or "Stateful" in node.op
                or node.op.startswith("Rng")
            ):
                effects.drawn.add(node.op)
            for name in inputs:
                key = key_of(name)
                if key is not None:
                    effects.add(key, 1, 1)
        elif node.op in ("While", "StatelessWhile"):
            for name in called:
                merge([inside(name)], inputs, loop=True)
        elif node.op in ("If", "StatelessIf", "Case", "StatelessCase"):
            merge([inside(name) for name in called], inputs[1:])
        elif called:
            for name in called:
                merge([inside(name)], inputs)
    return effects


def effects_of(concrete: Any) -> Effects:
    """What running `concrete` would write and draw; the keys are `id(handle)` of the captured variables."""
    definition = concrete.graph.as_graph_def()
    library = {
        function.signature.name: function for function in definition.library.function
    }
    arguments = {
        inner.op.name: id(outer)
        for outer, inner in zip(
            concrete.graph.external_captures,
            concrete.graph.internal_captures,
            strict=False,
        )
        if outer.dtype == tf.resource
    }
    return graph_effects(definition.node, arguments, library, {})


def source_of(tensor: Any) -> Any:
    """The tensor behind casts and identities."""
    while getattr(tensor, "op", None) is not None and tensor.op.type in (
        "Identity",
        "Cast",
        "StopGradient",
    ):
        tensor = tensor.op.inputs[0]
    return tensor


def made_by(tensor: Any) -> str:
    """In words: the operation behind a tensor, or a random draw a few operations back."""
    first = getattr(tensor, "op", None)
    level = [first]
    for _ in range(6):
        if any(op is not None and KERNEL_RANDOM.match(op.type) for op in level):
            return "a random draw"
        level = [source.op for op in level if op is not None for source in op.inputs]
    return f"result of {getattr(first, 'type', 'the step')}"


def inner_functions(function: Any) -> list[Any]:
    """The `tf.function` objects inside a (wrapped) training function."""
    found, seen, queue = [], set(), [function]
    while queue:
        item = queue.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        if hasattr(item, "get_concrete_function"):
            found.append(item)
            continue
        queue.append(getattr(item, "__wrapped__", None))
        for cell in getattr(item, "__closure__", None) or ():
            try:
                if callable(cell.cell_contents) and not isinstance(
                    cell.cell_contents, type
                ):
                    queue.append(cell.cell_contents)
            except ValueError:
                continue
    return found


def traces_of(function: Any) -> list[Any]:
    """Concrete functions that a `tf.function` already holds."""
    try:
        return list(function._list_all_concrete_functions())
    except Exception:
        return []
