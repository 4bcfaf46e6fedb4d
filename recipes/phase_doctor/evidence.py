"""What an examination gathered: plain data, so that a rule can be fed by hand.

Variables go by a key, layers by a `Layer`, tensors by a number. Nothing here imports
TensorFlow. What costs more and is seldom asked stands in `Evidence.measure`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Arrays = list[np.ndarray]
Writes = dict[int, tuple[float, float]]  # by variable: fewest and most a call
INFERENCE = "model(x, training=False)"
TRAINING = "model(x, training=True)"
BARE = "model(x)"


@dataclass(eq=False)
class Layer:
    """A layer, by what can be known without running it."""

    path: str
    parents: tuple[Layer, ...] = ()  # outermost first, so the model itself
    kind: str = "Layer"
    trainable: bool = True
    takes_training: bool = True  # `call` has a parameter of that name
    default: Any = None  # of that parameter
    norm: bool = False  # has a moving mean and variance
    heeds: bool = False  # does something else in another phase
    stock: bool = False  # comes with Keras
    graph: bool = False  # Functional or Sequential: hands the phase down itself
    wrapper: bool = False  # TimeDistributed and the like
    stateful: bool = False
    leaf: bool = True
    in_tree: bool = True  # the model knows it
    affine: bool = False  # has gamma or beta
    trained: bool = False  # gamma or beta is no longer the initial one
    axis: int = -1
    variables: frozenset[int] = frozenset()  # its own and those of layers inside
    bare: frozenset[int] = frozenset()  # plain tf.Variable objects in its attributes
    at_compile: bool | None = None  # `trainable` as `compile` recorded it

    def holds(self, other: Layer) -> bool:
        return other is self or self in other.parents


@dataclass(eq=False)
class Variable:
    key: int
    name: str = ""
    owner: Layer | None = None  # the innermost layer that has it
    shape: tuple[int, ...] = ()
    floating: bool = True  # the states of seed generators are integers
    tracked: bool = True  # in a list of the model, its optimizer or its metrics
    trainable: bool = False
    metric: bool = False
    memory: bool = False  # what a stateful RNN carries over
    statistic: bool = False  # float state that only training should write
    not_finite: int = 0  # how many of its values


@dataclass(eq=False)
class Call:
    """One call of a layer in a trace; a tensor is a number."""

    layer: Layer
    parent: int | None = None
    training: bool = False
    explicit: bool | None = None  # the `training=` that the caller wrote
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()  # the inputs behind casts and identities
    origin: str = ""  # of an outermost call: what it is given, in words


@dataclass(eq=False)
class Trace:
    """One way of calling the model, or the step, as a graph."""

    name: str
    calls: list[Call] = field(default_factory=list)
    writes: Writes = field(default_factory=dict)
    reads: tuple[int, ...] = ()  # every variable that the graph captures
    random: frozenset[str] = frozenset()  # operations that draw, or reach outside

    def around(self, number: int) -> list[int]:
        """The call itself and those it happens in, innermost first."""
        chain, parent = [number], self.calls[number].parent
        while parent is not None:
            chain.append(parent)
            parent = self.calls[parent].parent
        return chain

    def of(self, layer: Layer) -> list[int]:
        return [n for n, call in enumerate(self.calls) if call.layer is layer]

    def outermost(self, layer: Layer) -> list[int]:
        """The outermost call around each call of a layer."""
        return [self.around(number)[-1] for number in self.of(layer)]


@dataclass(eq=False)
class Statistic:
    """Moving statistics: values now and at creation."""

    layer: Layer
    mean: int
    variance: int | None = None
    momentum: float | None = None
    epsilon: float = 1e-3
    now: tuple[np.ndarray, np.ndarray | None] = (np.zeros(1), None)
    first: tuple[np.ndarray, np.ndarray | None] = (np.zeros(1), None)

    @property
    def keys(self) -> list[int]:
        return [k for k in (self.mean, self.variance) if k is not None]


@dataclass(eq=False)
class Way:
    """A way of asking for predictions, run on the batch."""

    trace: Trace
    outputs: Arrays
    again: Arrays | None = None  # a second run, where the graph draws
    changed: frozenset[int] = frozenset()  # variables left changed
    halves: list[tuple[np.ndarray, Arrays]] = field(default_factory=list)  # rows, alone


@dataclass(eq=False)
class Step:
    """What one training step does. Without a step it is what training=True would."""

    trace: Trace  # its calls may be those of another trace: see `Measure.step_calls`
    by: str | None = None  # "reader", "model" (its own train_step), or nobody's
    ran: bool = False
    changed: frozenset[int] = frozenset()  # by the run
    means: dict[int, np.ndarray] = field(default_factory=dict)  # after the run
    optimized: frozenset[int] = frozenset()  # what an optimizer of it holds

    @property
    def written(self) -> frozenset[int]:
        return self.changed if self.ran else frozenset(self.trace.writes)


@dataclass(eq=False)
class Phases:
    """Both phases on one batch, in numbers; see `phases.py` for how each is got."""

    behind: list[tuple[Statistic, dict[str, float]]] = field(default_factory=list)
    outputs: dict[str, float] | None = None  # distance and spreads of the outputs
    effect: dict[str, float] | None = None  # of the batch's own statistics
    training: Arrays = field(default_factory=list)
    # Inference with the batch's own statistics, and with the moving ones.
    substituted: Arrays = field(default_factory=list)
    moving: Arrays = field(default_factory=list)
    vanished: dict[int, int] = field(default_factory=dict)  # variances 0 in live data


@dataclass(eq=False)
class Artifact:
    """An exported file, read and run."""

    name: str
    writes: int = 0
    seeds: int = 0  # of the writes, those to states of seed generators
    drawn: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)  # a batch size, a phase input
    unit: float = 2.0**-23  # one rounding step of its numbers
    outputs: Arrays | None = None
    again: Arrays | None = None


@dataclass(frozen=True)
class Failure:
    """Something raised."""

    what: str
    error: str
    text: str
    stage: str = "call"  # or "step", "artifact"


@dataclass(eq=False)
class Evidence:
    """All that the rules may look at."""

    layers: list[Layer]  # the model itself first
    keras: str = "keras 3"
    keras3: bool = True
    compiled: bool = False
    own_predict: bool = False  # the class defines `predict_step`
    own_step: bool = False  # the class defines `train_step`
    steps: int = 0  # that an optimizer has taken
    samples: int | None = None
    one_class: bool = False  # every sample of the batch has the same target
    failures: list[Failure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what was not examined, and why
    variables: dict[int, Variable] = field(default_factory=dict)
    statistics: list[Statistic] = field(default_factory=list)
    recorded: dict[Layer, bool] = field(default_factory=dict)  # in Functional graphs
    held: frozenset[int] = frozenset()  # by the compiled optimizer
    stale: frozenset[int] = frozenset()  # written by the kept training function
    inference: Trace | None = None
    training: Trace | None = None
    fit: Trace | None = None
    bare: Way | None = None
    ways: list[Way] = field(default_factory=list)  # inference first, then predict
    unread: list[str] = field(default_factory=list)  # classes of outputs, no tensors
    noise: float = 0.0  # rounding noise of the outputs
    step: Step | None = None
    phases: Phases | None = None
    artifact: Artifact | None = None
    measure: Any = None  # a `Measure`

    @property
    def model(self) -> Layer:
        return self.layers[0]

    @property
    def base(self) -> Arrays:
        """What `model(x, training=False)` answers."""
        return self.ways[0].outputs if self.ways else []

    def own(self, layer: Layer) -> list[Variable]:
        return self._by_owner.get(layer, [])

    @functools.cached_property
    def _by_owner(self) -> dict[Layer | None, list[Variable]]:
        found: dict[Layer | None, list[Variable]] = {}
        for variable in self.variables.values():
            found.setdefault(variable.owner, []).append(variable)
        return found

    @functools.cached_property
    def facts(self) -> dict[Any, Any]:
        """What `remembered` functions have said about this evidence."""
        return {}

    def floats(self, keys: Iterable[int]) -> list[int]:
        """Those of the keys that are no state of a seed generator."""
        known = self.variables
        return [k for k in keys if k in known and known[k].floating]


Fact = TypeVar("Fact", bound=Callable[..., Any])


def remembered(fact: Fact) -> Fact:
    """A function of evidence alone: worked out once for each."""

    @functools.wraps(fact)
    def asked(seen: Evidence) -> Any:
        if fact not in seen.facts:
            seen.facts[fact] = fact(seen)
        return seen.facts[fact]

    return asked  # type: ignore[return-value]
