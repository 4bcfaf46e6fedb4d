"""Which updated variables get their gradients through which call: read off a graph."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tensorflow as tf

from .effects import WRITES
from .recorder import Record, graph_of
from .subject import variables_of
from .variables import handle_of

CALLS = ("PartitionedCall", "StatefulPartitionedCall", "If", "While", "Case")
Masks = dict[Any, int]  # by operation, one bit for each variable


def trained_through(
    calls: list[Record], concrete: Any, updated: Collection[int]
) -> dict[int, frozenset[int]]:
    """By number of a call: the updated variables that get their gradients through it.

    They come before its output, and an update hangs on that; or they are its own, and
    hang on its input. Gradient updates are those that hang on what some layer is given:
    an average of other weights is none. A call that no graph holds is left out.
    """
    keys, seen, learnt = currents(calls, concrete, updated)
    found = {}
    for number, (given, behind, hangs) in seen.items():
        inside = {id(handle_of(v)) for v in variables_of(calls[number].layer)}
        own = union(1 << i for i, key in enumerate(keys) if key in inside)
        passed = own & given | (behind & learnt if hangs & learnt else 0)
        found[number] = named(passed, keys)
    return found


def feeds(
    calls: list[Record], concrete: Any, updated: Collection[int]
) -> dict[int, frozenset[int]]:
    """By number of a call: the variables whose gradient update hangs on its output."""
    keys, seen, learnt = currents(calls, concrete, updated)
    return {n: named(hangs & learnt, keys) for n, (_, _, hangs) in seen.items()}


def currents(calls: list[Record], concrete: Any, updated: Collection[int]) -> Any:
    """The keys of the bits; by call the updates that hang on what it is given, the
    variables before its output, the updates that hang on that; all gradient updates."""
    keys = sorted(updated)
    graphs = {id(g): g for g in map(graph_of, calls) if hasattr(g, "captures")}
    masks = {name: flows(graph, concrete.graph, keys) for name, graph in graphs.items()}
    seen, learnt = {}, 0
    for number, call in enumerate(calls):
        if id(graph_of(call)) in masks:
            before, after = masks[id(graph_of(call))]
            given = union(after.get(t.op, 0) for t in call.inputs)
            behind = union(before.get(t.op, 0) for t in call.outputs)
            hangs = union(after.get(t.op, 0) for t in call.outputs)
            seen[number], learnt = (given, behind, hangs), learnt | given
    return keys, seen, learnt


def named(mask: int, keys: list[int]) -> frozenset[int]:
    return frozenset(key for i, key in enumerate(keys) if mask >> i & 1)


def union(masks: Any) -> int:
    joined = 0
    for mask in masks:
        joined |= mask
    return joined


def flows(graph: Any, whole: Any, keys: list[int]) -> tuple[Masks, Masks]:
    """By operation: the variables whose value comes in, those whose update it feeds."""
    bits = {key: 1 << i for i, key in enumerate(keys)}
    handles = {
        inner.op: bits.get(origin(outer, graph), 0)
        for outer, inner in graph.captures
        if outer.dtype == tf.resource
    }
    operations = graph.get_operations()
    before: Masks = dict(handles)
    after: Masks = {}
    for op in operations:
        if op.type == "StopGradient":
            continue
        flowing = [t for t in op.inputs if carries(t)]
        mask = before.get(op, 0) | union(before.get(t.op, 0) for t in flowing)
        if mask:
            before[op] = mask
        if WRITES.match(op.type) or op.type in CALLS:
            written = union(handles.get(t.op, 0) for t in op.inputs)
            if written:
                after[op] = written
    if graph is not whole and not after:  # what leaves it is used for the update
        for tensor in graph.outputs:
            after[tensor.op] = (1 << len(keys)) - 1
    for op in reversed(operations):
        mask = after.get(op, 0)
        if WRITES.match(op.type) and not handles.get(op.inputs[0].op):
            mask |= after.get(op.inputs[0].op, 0)  # read later on, as Adam's moments
        if mask and op.type != "StopGradient":
            for tensor in op.inputs:
                after[tensor.op] = after.get(tensor.op, 0) | mask
    return before, after


def carries(tensor: Any) -> bool:
    """Whether a gradient may flow along it."""
    kind = tensor.dtype
    return kind.is_floating or kind.is_complex or kind in (tf.resource, tf.variant)


def origin(tensor: Any, graph: Any) -> int:
    """The key of a captured handle, through the graphs around."""
    while graph is not None:
        graph = getattr(graph, "outer_graph", None)
        given = {id(inner): source for source, inner in getattr(graph, "captures", ())}
        if id(tensor) not in given:
            break
        tensor = given[id(tensor)]
    return id(tensor)
