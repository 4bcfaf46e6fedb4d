"""What a traced graph would do, read off the graph without running it."""

from __future__ import annotations

import contextlib
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
WRITES = re.compile(
    r"^(Assign\w*VariableOp|AssignVariable\w*"
    r"|Resource(Apply|SparseApply|Scatter|Strided|AccumulatorApply)\w*"
    r"|Stateful(Uniform|StandardNormal|TruncatedNormal|RandomBinomial)\w*"
    r"|RngSkip|RngReadAndSkip)$"
)
RANDOM = re.compile(
    r"^(RandomUniform(Int)?|RandomStandardNormal|TruncatedNormal"
    r"|ParameterizedTruncatedNormal|RandomGamma|RandomPoisson(V2)?|Multinomial"
    r"|RandomShuffle|RandomCrop|SampleDistortedBoundingBox\w*|CudnnRNN(V\d)?)$"
)
# With those whose seed is handed in.
DRAWS = re.compile(
    RANDOM.pattern
    + r"|^(Stateless(Random|Truncated|Multinomial|Shuffle|Parameterized)\w*)$"
)
OUTSIDE = re.compile(
    r"^((Eager)?PyFunc\w*|Iterator\w*GetNext\w*|WriteFile|Save(V2)?|\w*Summary(V2)?"
    r"|LookupTable(Insert|Import|Remove)\w*|(Queue|Stack)(En|De|Push|Pop)\w*"
    r"|MutableHashTable\w*|Barrier\w*)$"
)
PASSES_ON = ("Identity", "Enter", "Switch", "RefIdentity", "StopGradient")


@dataclasses.dataclass
class Effects:
    """Writes by key, fewest and most a call; and what cannot be undone.

    A key is an argument's position inside a function, the id of the handle outside.
    """

    writes: dict[Any, tuple[float, float]] = dataclasses.field(default_factory=dict)
    random: set[str] = dataclasses.field(default_factory=set)
    outside: set[str] = dataclasses.field(default_factory=set)
    drawn: set[str] = dataclasses.field(default_factory=set)

    def add(self, key: Any, low: float, high: float) -> None:
        old = self.writes.get(key, (0, 0))
        self.writes[key] = (old[0] + low, old[1] + high)


class GraphReader:
    """Adds up the effects of nodes; `arguments` maps names of resources to keys."""

    def __init__(
        self,
        nodes: Iterable[Any],
        arguments: Mapping[str, Any],
        library: Mapping[str, Any],
        memo: dict[str, Effects],
    ) -> None:
        self.nodes, self.arguments = list(nodes), arguments
        self.library, self.memo = library, memo
        self.sources = {node.name: node for node in self.nodes}
        self.effects = Effects()

    def read(self) -> Effects:
        for node in self.nodes:
            self._read(node)
        return self.effects

    def _read(self, node: Any) -> None:
        effects, operation = self.effects, node.op
        inputs = [name for name in node.input if not name.startswith("^")]
        for pattern, found in (
            (RANDOM, effects.random),
            (DRAWS, effects.drawn),
            (OUTSIDE, effects.outside),
        ):
            if pattern.match(operation):
                found.add(operation)
        if WRITES.match(operation):
            if operation.startswith(("Stateful", "Rng")) or "Random" in operation:
                effects.drawn.add(operation)
            keys = [self._key(name) for name in inputs]
            for key in keys:
                if key is not None:
                    effects.add(key, 1, 1)
            return
        called = [self._inside(name) for name in self._called(node)]
        if operation in ("If", "StatelessIf", "Case", "StatelessCase"):
            self._merge(called, inputs[1:])
        else:
            for one in called:
                loop = operation in ("While", "StatelessWhile")
                self._merge([one], inputs, loop)

    def _called(self, node: Any) -> list[str]:
        if node.op in self.library:
            return [node.op]
        values = list(node.attr.values())
        names = [value.func.name for value in values if value.HasField("func")]
        names += [function.name for value in values for function in value.list.func]
        return [name for name in names if name in self.library]

    def _key(self, name: str) -> Any:
        while True:
            name = name.split(":")[0]
            if name in self.arguments:
                return self.arguments[name]
            node = self.sources.get(name)
            if node is None or node.op not in PASSES_ON or not node.input:
                return None
            name = node.input[0]

    def _inside(self, name: str) -> Effects:
        if name not in self.memo:
            self.memo[name] = Effects()  # a recursive function ends here
            function = self.library[name]
            names = [argument.name for argument in function.signature.input_arg]
            places = {name: i for i, name in enumerate(names)}
            nodes = function.node_def
            reader = GraphReader(nodes, places, self.library, self.memo)
            self.memo[name] = reader.read()
        return self.memo[name]

    def _merge(
        self, branches: list[Effects], inputs: list[str], loop: bool = False
    ) -> None:
        effects = self.effects
        for branch in branches:
            effects.random |= branch.random
            effects.outside |= branch.outside
            effects.drawn |= branch.drawn
        for position in {key for branch in branches for key in branch.writes}:
            ranges = [branch.writes.get(position, (0, 0)) for branch in branches]
            key = self._key(inputs[position]) if position < len(inputs) else None
            if key is not None:
                low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
                effects.add(key, 0 if loop else low, math.inf if loop else high)


def effects_of(concrete: Any) -> Effects:
    """What running it would write and draw; keys are `id(handle)` of the variables."""
    graph = concrete.graph
    definition = graph.as_graph_def()
    library = {f.signature.name: f for f in definition.library.function}
    captures = zip(graph.external_captures, graph.internal_captures, strict=False)
    arguments = {
        inner.op.name: id(outer)
        for outer, inner in captures
        if outer.dtype == tf.resource
    }
    return GraphReader(definition.node, arguments, library, {}).read()


def source_of(tensor: Any) -> Any:
    """The tensor behind casts and identities."""
    same = ("Identity", "Cast", "StopGradient")
    while getattr(tensor, "op", None) is not None and tensor.op.type in same:
        tensor = tensor.op.inputs[0]
    return tensor


def made_by(tensor: Any) -> str:
    """In words: the operation behind a tensor, or a random draw a few back."""
    first = getattr(tensor, "op", None)
    level = [first]
    for _ in range(6):
        if any(op is not None and DRAWS.match(op.type) for op in level):
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
            with contextlib.suppress(ValueError):  # an empty cell
                inside = cell.cell_contents
                if callable(inside) and not isinstance(inside, type):
                    queue.append(inside)
    return found


def traces_of(function: Any) -> list[Any]:
    """Concrete functions that a `tf.function` already holds."""
    try:
        return list(function._list_all_concrete_functions())
    except Exception:
        return []
