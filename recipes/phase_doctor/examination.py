"""One examination."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .artifacts import look_at_artifact
from .batches import model_input, read_batches, rows_of, size_of
from .clock import Clock
from .effects import Effects, effects_of
from .layers import (
    Node,
    bare_variables,
    children_of,
    defaults_to_training,
    has_call,
    heeds_phase,
    is_batchnorm,
    is_graph,
    is_stateless,
    is_stock,
    is_true,
    is_wrapper,
    library_of,
    phase_parameter,
    walk,
)
from .noise import (
    F_LIMIT,
    MEDIUM_EFFECT,
    ROUNDING_SIGMAS,
    agree,
    apart,
    differences,
    effect_size,
    remaining,
    rms,
    spread_of,
    t_limit,
    tell_apart_alike,
)
from .reach import PythonState, reachable_variables
from .recorder import Call, Recorder, same_within
from .report import CannotExamine, Diagnosis, Finding
from .routes import Route, Statistic, inner_functions, numbers_of, traces_of
from .rules import RULES
from .step import Step
from .variables import Snapshot, handle_of, same_bits, tf_variables
from .verdict import CAUSES, GLOBAL, ORDER


class Exam:
    """One examination: traces, runs, measures, and gathers findings."""

    def __init__(
        self,
        model: Any,
        batches: list[tuple[Any, Any]],
        step: Any,
        loss: Any,
        insist: bool,
        clock: Clock,
    ) -> None:
        self.model, self.batches, self.loss, self.insist, self.clock = (
            model,
            batches,
            loss,
            insist,
            clock,
        )
        self.step = step
        self.package = library_of(model)
        self.keras3 = self.package.__name__ == "keras" and not hasattr(
            self.package, "__internal__"
        )
        self.packages = [
            sys.modules[name] for name in ("keras", "tf_keras") if name in sys.modules
        ]
        self.findings: list[Finding] = []
        self.state = Snapshot()
        self.x = model_input(batches[0][0])
        self.y = batches[0][1]
        self.size = size_of(self.x)
        self.nodes = walk(model)
        self.owner: dict[int, Node] = {}
        self.unread: set[str] = set()

    # -- bookkeeping -----------------------------------------------------------------------------------------

    def report(
        self,
        code: str,
        where: str | None,
        message: str,
        severity: str | None = None,
        **evidence: Any,
    ) -> None:

        if any(
            f.code == code and f.where == where and f.message == message
            for f in self.findings
        ):
            return
        self.findings.append(
            RULES[code].finding(where, message, severity, None, **evidence)
        )

    def found(self, code: str, where: str | None = "any") -> bool:
        return any(
            f.code == code
            and f.severity != "note"
            and (where == "any" or f.where == where)
            for f in self.findings
        )

    def path(self, layer: Any) -> str:
        node = self.nodes.get(id(layer))
        return node.path if node else layer.name

    def index_variables(self) -> None:
        """Maps every variable the model tracks to the innermost layer that owns it."""
        self.nodes = walk(self.model)
        self.owner = {}
        for node in self.nodes.values():
            for variable in self.variables_of(node.layer):
                handle = handle_of(variable)
                if handle is not None:
                    self.owner[id(handle)] = (
                        node  # children come later in the walk and win
                    )

    @staticmethod
    def variables_of(layer: Any) -> list[Any]:
        try:
            return list(layer.variables)
        except Exception:  # an unbuilt model
            return []

    def everything(self) -> list[Any]:
        """Variables that belong to the model, its optimizer, its metrics and the global seed generator."""
        found = self.variables_of(self.model)
        optimizer = getattr(self.model, "optimizer", None)
        slots = getattr(optimizer, "variables", None)
        with_slots = slots() if callable(slots) else slots
        found += list(with_slots or [])
        try:
            for metric in self.model.metrics:
                found += list(metric.variables)
        except Exception:
            pass
        return found

    # -- tracing and running -----------------------------------------------------------------------------------

    def trace(
        self, call: Callable[[Any], Any], x: Any, fetch: bool = False, warm: bool = True
    ) -> Route:
        """Traces `call(x)` with a free batch size where the model allows one."""
        began = time.perf_counter()
        leaves = tf.nest.flatten(x)
        present = [i for i, leaf in enumerate(leaves) if leaf is not None]

        def build(free: bool) -> Route:
            recorder = Recorder([n.layer for n in self.nodes.values()], self.packages)
            fetched: list[tuple[int, list[int], list[int]]] = []
            count = 0

            def function(*given: Any) -> list[Any]:
                nonlocal count
                recorder.calls.clear()
                fetched.clear()
                filled = list(leaves)
                for i, value in zip(present, given, strict=False):
                    filled[i] = value
                result = call(tf.nest.pack_sequence_as(x, filled))
                outputs = [
                    leaf for leaf in tf.nest.flatten(result) if tf.is_tensor(leaf)
                ]
                count = len(outputs)
                if fetch:
                    graph = tf.compat.v1.get_default_graph()
                    for number, record in enumerate(recorder.calls):
                        spots: list[list[int]] = []
                        for tensors in (record.inputs, record.outputs):
                            usable = [
                                t
                                for t in tensors
                                if getattr(t, "graph", None) is graph
                                and t.dtype.is_floating
                            ]
                            spots.append(
                                list(range(len(outputs), len(outputs) + len(usable)))
                            )
                            outputs.extend(usable)
                        fetched.append((number, spots[0], spots[1]))
                return outputs

            specs = []
            for i in present:
                spec = tf.type_spec_from_value(leaves[i])
                if free and isinstance(spec, tf.TensorSpec) and spec.shape.rank:
                    spec = tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)
                specs.append(spec)
            with recorder:
                concrete = tf.function(function, autograph=False).get_concrete_function(
                    *specs
                )
            variables = {
                id(v.handle): v
                for v in concrete.graph.variables
                if hasattr(v, "handle")
            }
            return Route(
                concrete,
                list(recorder.calls),
                recorder,
                effects_of(concrete),
                variables,
                fetched,
                count,
            )

        try:
            try:
                route = build(free=True)
            except Exception:
                return build(free=False)
            if warm and not fetch and self.size is not None and self.size > 4:
                # TensorFlow optimises a graph on its first run; two samples are enough for that.
                with contextlib.suppress(Exception):
                    self.run(route, rows_of(x, np.arange(2)))
            return route
        finally:
            self.clock.tracing += time.perf_counter() - began

    def run(
        self, route: Route, x: Any, look: Callable[[], Any] | None = None
    ) -> tuple[list[Any], Any]:
        """Runs a route, calls `look` while its changes stand, and undoes them; only seeds go on until the end."""
        for handle in route.concrete.graph.external_captures:
            if handle.dtype == tf.resource and not self.state.add(handle):
                self.unread.add(str(handle.dtype))
        given = [leaf for leaf in tf.nest.flatten(x) if leaf is not None]
        try:
            outputs = [o for o in route.concrete(*given)]
            seen = look() if look else None
        finally:
            self.state.restore(
                k
                for k in route.effects.writes
                if k in self.state.saved and not self.is_seed(k)
            )
        return outputs, seen

    def outputs(self, route: Route, x: Any) -> list[np.ndarray]:
        """The route's outputs proper as float64 arrays."""
        result, _ = self.run(route, x)
        return numbers_of(result[: route.count])

    def is_seed(self, key: int) -> bool:
        return not self.state.saved[key][1].dtype.is_floating

    def phase(self, training: bool | None) -> Callable[[Any], Any]:
        """`model(x, training=...)` for a model that takes it, `model(x)` for one that does not."""
        model = self.model
        if training is None:
            return lambda x: model(x)

        def call(x: Any) -> Any:
            try:
                return model(x, training=training)
            except TypeError as error:
                if "training" not in str(error) or phase_parameter(model) is not None:
                    raise
                return model(x)

        return call

    # -- the examination -----------------------------------------------------------------------------------------

    def examine(self) -> None:
        self.build()
        self.index_variables()
        self.state.add_all(self.everything())
        self.statistics: list[Statistic] = []
        self.forward = True
        infer = self.attempt(
            "tracing inference",
            lambda: self.trace(self.phase(False), self.x),
            "model(x, training=False)",
        )
        self.index_variables()
        self.state.add_all(self.everything())
        self.trained = self.signs_of_training()
        fit = told = None
        if infer is not None:
            fit, told = self.training_routes()
        self.find_statistics(told)
        self.look_at_flags()
        self.answered = infer is not None
        self.look_at_step(told)
        if self.step is None and self.step_ran and infer is None:
            for call in (
                "model(x, training=False)",
                "model(x, training=True)",
                "model(x)",
            ):
                self.soften(
                    call,
                    "The model's own train_step takes this batch, so that is what was examined.",
                )
        self.look_at_values()
        if infer is None or not self.forward:
            return
        self.look_at_structure(infer, fit, told)
        self.look_at_inference(infer)
        if told is not None:
            self.look_at_phases(infer, told)

    def attempt(self, stage: str, action: Callable[[], Any], what: str) -> Any:
        """Runs one part of the examination; an exception becomes a finding."""
        self.clock.stage(stage)
        try:
            return action()
        except NotImplementedError as error:
            if (
                isinstance(error, NotImplementedError)
                and what.startswith("model(x")
                and not has_call(self.model)
            ):
                self.forward = False
                self.report(
                    "PD002",
                    None,
                    "The model has no `call`; only its layers and the step were examined.",
                )
                return None
            self.failed(what, error)
        except Exception as error:
            self.failed(what, error)
        return None

    def failed(self, what: str, error: Exception) -> None:
        # TensorFlow puts a stack trace before what went wrong.
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras writes in bold
        dull = re.compile(
            r"^\s*(Graph execution error|Detected at node|File \"|Exception encountered when calling|$)"
        )
        lines = [line.strip() for line in plain.splitlines() if not dull.match(line)]
        # AutoGraph quotes the code first and names the error last.
        first = (lines or [""])[-1 if "in user code:" in plain else 0]
        self.report(
            "PD001",
            None,
            f"{what} raised {type(error).__name__}: {first}",
            exception=type(error).__name__,
        )

    def build(self) -> None:
        """Creates the variables of an unbuilt model by tracing a call, which runs nothing."""
        if getattr(self.model, "built", True) and (
            self.variables_of(self.model) or not has_call(self.model)
        ):
            return
        if not has_call(self.model):
            return
        before = len(self.variables_of(self.model))

        self.clock.stage("building the model")
        began = time.perf_counter()
        try:
            tf.function(
                lambda: self.phase(False)(self.x), autograph=False
            ).get_concrete_function()
        except Exception:
            # Python control flow and the like: run it then, and put back what it moves.
            state = Snapshot()
            state.add_all(self.everything())
            try:
                self.phase(False)(self.x)
            except Exception as error:
                if self.own_step() is not None:
                    why = f"{type(error).__name__}; its own train_step may"
                    self.report(
                        "PD002",
                        None,
                        f"The model's `call` does not take this batch ({why}): not built.",
                    )
                    return
                raise CannotExamine(
                    f"The model is not built and calling it on the batch raised {type(error).__name__}: {error}. "
                    "Hand the doctor a batch that the model accepts, or build the model first."
                ) from error
            finally:
                state.restore()
        finally:
            self.clock.tracing += time.perf_counter() - began
        made = len(self.variables_of(self.model)) - before
        if made:
            self.report(
                "PD002",
                None,
                f"The model was not built; it was built on the batch ({made} variables).",
            )

    def training_routes(self) -> tuple[Route | None, Route | None]:
        """The graph `fit` would run forward, and the one that `model(x, training=True)` runs."""
        told = self.attempt(
            "tracing training",
            lambda: self.trace(self.phase(True), self.x),
            "model(x, training=True)",
        )
        fit = told
        if self.keras3 and phase_parameter(self.model) is None:
            fit = self.attempt(
                "tracing fit", lambda: self.trace(self.phase(None), self.x), "model(x)"
            )
        return fit, told

    def find_statistics(self, told: Route | None) -> None:
        """BatchNormalization by its attributes; other layers by the float state they write in the training phase."""
        for node in self.nodes.values():
            layer = node.layer
            if is_batchnorm(layer):
                mean, variance = (
                    handle_of(layer.moving_mean),
                    handle_of(layer.moving_variance),
                )
                if mean is not None and variance is not None:
                    momentum = getattr(layer, "momentum", None)
                    momentum = (
                        float(momentum) if isinstance(momentum, (int, float)) else None
                    )
                    self.state.add(mean)
                    self.state.add(variance)
                    self.statistics.append(
                        Statistic(node, id(mean), id(variance), momentum)
                    )
        if told is None:
            return
        known = {key for s in self.statistics for key in (s.mean, s.variance)}
        grouped: dict[str, list[int]] = {}
        for key in told.effects.writes:
            owner = self.owner.get(key)
            if key not in known and owner is not None and self.is_statistic(key, owner):
                grouped.setdefault(owner.path, []).append(key)
        for keys in grouped.values():
            names = {
                key: str(getattr(told.variables.get(key), "name", "")).lower()
                for key in keys
            }
            spread = [
                key for key in keys if re.search(r"var|std|sigma|scale", names[key])
            ]
            level = [key for key in keys if key not in spread]
            node = self.owner[keys[0]]
            momentum = getattr(node.layer, "momentum", None)
            momentum = float(momentum) if isinstance(momentum, (int, float)) else None
            if len(level) == 1 and len(spread) == 1:
                self.statistics.append(Statistic(node, level[0], spread[0], momentum))
            else:
                self.statistics += [
                    Statistic(node, key, None, momentum) for key in level
                ]

    def is_statistic(self, key: int, node: Node) -> bool:
        """Float state that only training writes: not a trainable weight, a metric, a loss or the state of an RNN."""
        self_state = self.state.saved.get(key)
        if self_state is None or not self_state[1].dtype.is_floating:
            return False
        layer = node.layer
        if getattr(layer, "stateful", False):
            return False
        trainable = {
            id(handle_of(v)) for v in getattr(layer, "_trainable_variables", ()) or ()
        }
        trainable |= {id(handle_of(v)) for v in self.model.trainable_variables}
        metrics = {
            id(handle_of(v))
            for m in getattr(layer, "metrics", ()) or ()
            for v in m.variables
        }
        return key not in trainable and key not in metrics

    # -- state -----------------------------------------------------------------------------------------------------

    def value(self, variable: Any) -> np.ndarray:
        return np.asarray(tf_variables(variable)[0].numpy(), dtype=np.float64)

    def signs_of_training(self) -> dict[str, Any]:
        """What shows that the weights have been trained: moved gamma or beta by layer, and optimizer steps."""
        moved = set()
        for node in self.nodes.values():
            layer = node.layer
            if not is_batchnorm(layer):
                continue
            for name in ("gamma", "beta"):
                weight = getattr(layer, name, None)
                initializer = getattr(layer, f"{name}_initializer", None)
                if weight is None or initializer is None:
                    continue
                initial = np.asarray(initializer(tuple(weight.shape)), dtype=np.float64)
                if not np.array_equal(
                    self.value(weight), initial.astype(self.value(weight).dtype)
                ):
                    moved.add(id(layer))
        iterations = getattr(getattr(self.model, "optimizer", None), "iterations", None)
        steps = 0
        if iterations is not None and tf_variables(iterations):
            steps = int(self.value(iterations))
        return {"moved": moved, "steps": steps, "any": bool(moved) or steps > 0}

    def initial(self, statistic: Statistic) -> tuple[np.ndarray, np.ndarray | None]:
        """The moving statistics as they were when the layer was created."""
        layer, shape = statistic.node.layer, self.state.saved[statistic.mean][1].shape
        mean = getattr(layer, "moving_mean_initializer", None)
        variance = getattr(layer, "moving_variance_initializer", None)
        first = (
            np.asarray(mean(tuple(shape)), dtype=np.float64)
            if mean
            else np.zeros(tuple(shape))
        )
        if statistic.variance is None:
            return first, None
        return first, np.asarray(
            variance(tuple(shape)), dtype=np.float64
        ) if variance else np.ones(tuple(shape))

    def untouched(self, statistic: Statistic) -> bool:
        mean, variance = self.initial(statistic)
        now = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
        if not np.array_equal(now, mean):
            return False
        if statistic.variance is None or variance is None:
            return True
        return np.array_equal(
            self.state.saved[statistic.variance][1].numpy().astype(np.float64), variance
        )

    def look_at_values(self) -> None:
        """PD203 and PD201."""
        statistical = {key for s in self.statistics for key in (s.mean, s.variance)}
        for key, node in self.owner.items():
            saved = self.state.saved.get(key)
            if saved is None or not saved[1].dtype.is_floating or key in statistical:
                continue
            wrong = int(np.sum(~np.isfinite(tf.cast(saved[1], tf.float32).numpy())))
            if wrong:
                self.report(
                    "PD203",
                    node.path,
                    f"A weight of {node.path!r} holds {wrong} values that are not finite.",
                    values=wrong,
                )
        for statistic in self.statistics:
            path = statistic.node.path
            mean = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
            variance = None
            if statistic.variance is not None:
                variance = (
                    self.state.saved[statistic.variance][1].numpy().astype(np.float64)
                )
            wrong = int(np.sum(~np.isfinite(mean))) + (
                0 if variance is None else int(np.sum(~np.isfinite(variance)))
            )
            below = 0 if variance is None else int(np.sum(variance < 0))
            nought = variance is not None and not np.any(variance)
            if wrong:
                self.report(
                    "PD203",
                    path,
                    f"{wrong} moving statistics of {path!r} are not finite.",
                    values=wrong,
                )
            elif below:
                self.report(
                    "PD203",
                    path,
                    f"{below} moving variances of {path!r} are negative.",
                    channels=below,
                    smallest=float(np.min(variance)) if variance is not None else 0.0,
                )
            elif nought:
                # A layer written by hand may start at 0; until it is trained, that is its author's choice.
                began = is_batchnorm(statistic.node.layer) or self.trained["any"]
                text = f"Every moving variance of {path!r} is 0: inference divides by the square root of epsilon alone."
                self.report(
                    "PD203",
                    path,
                    text,
                    None if began else "note",
                    channels=int(mean.size),
                )
            elif self.untouched(statistic) and self.weights_trained(statistic):
                self.report(
                    "PD201",
                    path,
                    f"The moving statistics of {path!r} are still the initial ones, but its weights were trained.",
                    optimizer_steps=self.trained["steps"],
                    channels=int(mean.size),
                )

    def weights_trained(self, statistic: Statistic) -> bool:
        """Whether the layer itself was trained; the model's step counter speaks for layers without gamma and beta."""
        layer = statistic.node.layer
        if id(layer) in self.trained["moved"]:
            return True
        if not layer.trainable:
            return False
        bare = all(getattr(layer, name, None) is None for name in ("gamma", "beta"))
        return bare and bool(self.trained["any"])

    # -- structure ---------------------------------------------------------------------------------------------------

    def look_at_flags(self) -> None:
        """PD105: the flags that `compile` (or the optimizer) saw against the flags of now."""
        model = self.model
        if not getattr(model, "compiled", getattr(model, "_is_compiled", False)):
            return
        changed: dict[int, tuple[Node, bool]] = {}
        recorded = getattr(model, "_compiled_trainable_state", None)
        if recorded:
            for node in self.nodes.values():
                before = recorded.get(node.layer)
                if (
                    before is not None
                    and bool(before) != bool(node.layer.trainable)
                    and not is_stateless(node.layer)
                ):
                    changed[id(node.layer)] = (node, bool(before))
        known = getattr(getattr(model, "optimizer", None), "_trainable_variables", None)
        if known and getattr(model.optimizer, "built", True):
            held = {id(handle_of(v)) for v in known}
            for node in self.nodes.values():
                own = [
                    v
                    for v in self.variables_of(node.layer)
                    if self.owner.get(id(handle_of(v))) is node
                ]
                keys = {id(handle_of(v)) for v in own}
                weights = {id(handle_of(v)) for v in model.trainable_variables} & keys
                if keys & held and not node.layer.trainable:
                    changed.setdefault(id(node.layer), (node, True))
                elif weights and not weights & held:
                    changed.setdefault(id(node.layer), (node, False))
        # A container all of whose layers changed alike is what the reader froze.
        for node in reversed(list(self.nodes.values())):
            inner = [
                n
                for n in self.nodes.values()
                if node.layer in n.parents and not children_of(n.layer)
            ]
            inner = [n for n in inner if not is_stateless(n.layer)]
            directions = {
                changed[id(n.layer)][1] if id(n.layer) in changed else None
                for n in inner
            }
            if (
                inner
                and len(directions) == 1
                and None not in directions
                and id(node.layer) not in changed
            ):
                changed[id(node.layer)] = (node, bool(directions.pop()))
        stale = self.stale_writes()
        for node, before in changed.values():
            if any(id(parent) in changed for parent in node.parents):
                continue
            inside = {
                id(n.layer)
                for n in self.nodes.values()
                if node.layer is n.layer or node.layer in n.parents
            }
            moving = sum(
                1
                for k in stale
                if k in self.owner and id(self.owner[k].layer) in inside
            )
            now = "frozen" if before else "trainable"
            where = node.path
            severity = None
            if not self.keras3 and node.layer is model and before:
                severity = "note"  # Keras 2 trains with the flags seen by `compile`, and GAN code counts on it.
            self.report(
                "PD105",
                where,
                f"{where!r} was made {now} after `compile`; the compiled training function may not know.",
                severity,
                trainable_at_compile=before,
                trainable_now=not before,
                variables_still_written=moving if before else 0,
            )
        # An own train_step may write to a frozen layer on purpose; its trace is stale where a flag was changed later.
        written_by_hand = self.own_step() is not None
        for key in stale:
            owner = self.owner.get(key)
            flagged = owner and any(
                id(layer) in changed for layer in (owner.layer, *owner.parents)
            )
            if (
                owner
                and not owner.layer.trainable
                and not self.is_seed_key(key)
                and (flagged or not written_by_hand)
            ):
                self.report(
                    "PD303",
                    owner.path,
                    f"{owner.path!r} is frozen, but the training function traced earlier still writes its variables.",
                    executed=False,
                )

    def is_seed_key(self, key: int) -> bool:
        return key in self.state.saved and self.is_seed(key)

    def stale_writes(self) -> dict[int, Any]:
        """Variables that the model's already traced training function would write."""
        writes: dict[int, Any] = {}
        for function in inner_functions(getattr(self.model, "train_function", None)):
            for concrete in traces_of(function):
                try:
                    writes.update(effects_of(concrete).writes)
                except Exception:
                    continue
        return writes

    def look_at_structure(
        self, infer: Route, fit: Route | None, told: Route | None
    ) -> None:
        recorded = self.recorded_phases()
        if fit is not None:
            self.look_for_deaf(fit, recorded)
        if told is not None:
            self.look_for_overruled(infer, told, recorded)
            self.look_for_untracked(infer, told)
            self.look_for_sharing(told)

    def recorded_phases(self) -> dict[int, bool]:
        """`training=` written into the nodes of Functional graphs, by id of the layer called there."""
        found: dict[int, bool] = {}
        for node in self.nodes.values():
            graph = getattr(node.layer, "_functional", None) or node.layer
            for depth in (getattr(graph, "_nodes_by_depth", None) or {}).values():
                for call in depth:
                    kwargs = getattr(
                        getattr(call, "arguments", None), "kwargs", None
                    ) or getattr(call, "call_kwargs", None)
                    training = (kwargs or {}).get("training")
                    layer = getattr(call, "operation", None) or getattr(
                        call, "layer", None
                    )
                    if not isinstance(training, (bool, int)) or layer is None:
                        continue
                    parameter = phase_parameter(layer)
                    # Keras also records the signature's own default; only what differs was written by the author.
                    if parameter is None or parameter.default is not bool(training):
                        found[id(layer)] = bool(training)
        return found

    def decided(self, route: Route, number: int, recorded: Mapping[int, bool]) -> bool:
        """Whether the author wrote a phase at this call, or at one around it below the model."""
        for index in (number, *route.recorder.ancestors(number)):
            record = route.calls[index]
            if record.parent is None:
                return False
            if id(record.layer) in recorded:
                return True
            parent = route.calls[record.parent].layer
            if (
                record.explicit is not None
                and not is_graph(parent)
                and not is_wrapper(parent)
            ):
                return True
        return False

    def look_for_deaf(self, fit: Route, recorded: Mapping[int, bool]) -> None:
        """PD101: in the graph that `fit` runs, a layer that heeds the phase is not told that this is training."""
        blamed: dict[str, list[str]] = {}
        # A phase written in `call` is the author's decision, and makes sense for statistics that came from somewhere.
        compiled = getattr(
            self.model, "compiled", getattr(self.model, "_is_compiled", False)
        )
        in_training = self.trained["any"] or compiled or self.step is not None
        fresh = {
            id(s.node.layer)
            for s in self.statistics
            if in_training and self.untouched(s)
        }
        for number, record in enumerate(fit.calls):
            if not heeds_phase(record.layer) or is_true(record.training):
                continue
            chain = [fit.calls[i].layer for i in fit.recorder.ancestors(number)]
            deaf = [
                layer
                for layer in chain
                if phase_parameter(layer) is None and not is_stock(layer)
            ]
            if self.decided(fit, number, recorded) and not (
                deaf and id(record.layer) in fresh
            ):
                continue
            culprit = deaf[-1] if deaf else record.layer
            blamed.setdefault(self.path(culprit), []).append(self.path(record.layer))
        for where, layers in blamed.items():
            names = ", ".join(repr(name) for name in dict.fromkeys(layers))
            if where in layers:
                text = f"{where!r} is not told the phase during training: an earlier layer's explicit phase reaches it."
            else:
                text = f"`call` of {where!r} takes no `training`, so `fit` never puts {names} into training mode."
            helped = self.step is not None and self.step_told
            severity = "note" if helped else None
            if helped:
                text += " The step handed in says the phase itself, so only `fit`, `evaluate` and `predict` are affected."
            self.report(
                "PD101", where, text, severity, layers=list(dict.fromkeys(layers))
            )
            if where in layers and self.findings[-1].code == "PD101":
                self.findings[-1].cure = (
                    "Say the phase on this call too: `layer(x, training=training)`. In a Functional model freeze by "
                    "`trainable = False` and record no `training=` before it."
                )

    def look_for_overruled(
        self, infer: Route, told: Route, recorded: Mapping[int, bool]
    ) -> None:
        """PD102: a recorded phase that does not hold when the model is told the other one."""
        by_id = {id(n.layer): n for n in self.nodes.values()}
        for key, training in recorded.items():
            if key not in by_id:
                continue
            route = infer if training else told
            affected = []
            for number, record in enumerate(route.calls):
                around = (number, *route.recorder.ancestors(number))
                if not any(
                    id(route.calls[i].layer) == key for i in around
                ) or not heeds_phase(record.layer):
                    continue
                inner = next(
                    recorded[id(route.calls[i].layer)]
                    for i in around
                    if id(route.calls[i].layer) in recorded
                )
                told_here = is_true(record.training)
                if inner == training and told_here != training:
                    affected.append(record.layer)
            if not affected:
                continue
            node = by_id[key]
            names = list(dict.fromkeys(self.path(layer) for layer in affected))
            norms = [layer for layer in affected if is_batchnorm(layer)]
            mode = "inference" if training else "training"
            self.report(
                "PD102",
                node.path,
                f"`training={training}` was recorded at {node.path!r}, but {self.package.__name__} "
                f"{self.package.__version__} runs it in {mode} mode when the model is.",
                # Dropout in a frozen backbone loses nothing but determinism.
                None if training or norms else "note",
                layers=names,
                batchnorms=len(norms),
            )

    def look_for_untracked(self, infer: Route, told: Route) -> None:
        """PD103: variables in the graph that no list of the model holds, and the layer that uses them."""
        tracked = {id(handle_of(v)) for v in self.everything()}
        strangers = [
            v
            for handle in told.concrete.graph.external_captures
            if handle.dtype == tf.resource and id(handle) not in tracked
            for v in (told.variables.get(id(handle)),)
            if v is not None and v.dtype.is_floating
        ]
        if not strangers:
            return
        keys = {id(v.handle) for v in strangers}
        blamed: dict[int, Any] = {}
        for record in told.calls:
            own = {id(handle_of(v)) for v in self.variables_of(record.layer)}
            if own & keys and id(record.layer) not in self.nodes:
                inner = [
                    r.layer
                    for r in told.calls
                    if r.parent is not None
                    and told.calls[r.parent].layer is record.layer
                ]
                if not any(
                    {id(handle_of(v)) for v in self.variables_of(layer)} & keys
                    for layer in inner
                ):
                    blamed[id(record.layer)] = record.layer
        read = {id(handle) for handle in infer.concrete.graph.external_captures}
        covered = {
            id(handle_of(v))
            for layer in blamed.values()
            for v in self.variables_of(layer)
        }
        lost: dict[str | None, list[Any]] = {}
        for variable in strangers:
            key = id(variable.handle)
            # What training writes and inference only reads is a statistic, also as a bare tf.Variable.
            statistic = (
                key in told.effects.writes
                and key in read
                and key not in infer.effects.writes
            )
            if statistic and key not in covered:
                holders = [
                    n.path
                    for n in self.nodes.values()
                    if key in bare_variables(n.layer)
                ]
                lost.setdefault(holders[-1] if holders else None, []).append(variable)
        for where, variables in lost.items():
            names = ", ".join(repr(str(v.name).split(":")[0]) for v in variables)
            self.report(
                "PD103",
                where,
                f"Training writes and inference reads {names}, which is in no list of the model: it is not saved.",
                variables=len(variables),
                parameters=int(sum(math.prod(v.shape) for v in variables)),
            )
        for layer in blamed.values():
            mine = [v for v in self.variables_of(layer) if id(handle_of(v)) in keys]
            heeds = (
                heeds_phase(layer)
                or is_batchnorm(layer)
                or any(id(handle_of(v)) in told.effects.writes for v in mine)
            )
            self.report(
                "PD103",
                layer.name,
                f"{layer.name!r} runs inside the model, but its {len(mine)} variables are in no list of the model: "
                "they are not trained, not frozen and not saved.",
                None if heeds else "note",
                variables=len(mine),
                parameters=int(sum(math.prod(v.shape) for v in mine)),
            )

    def look_for_sharing(self, told: Route) -> None:
        """PD104: one BatchNormalization called several times in one pass, on inputs that do not belong together."""
        calls: dict[int, list[int]] = {}
        for number, record in enumerate(told.calls):
            if is_batchnorm(record.layer) and record.inputs:
                calls.setdefault(id(record.layer), []).append(number)
        shared = {key: numbers for key, numbers in calls.items() if len(numbers) > 1}
        if not shared:
            return
        producers: dict[int, Any] = {}
        for record in told.calls:
            for tensor in record.outputs:
                producers.setdefault(id(tensor), record.layer)
        route = self.attempt(
            "comparing the inputs of shared layers",
            lambda: self.trace(self.phase(True), self.x, fetch=True),
            "the model",
        )
        if route is None:
            return
        values, _ = self.run(route, self.x)
        spots = {number: places for number, places, _ in route.fetched}
        for numbers in shared.values():
            layer = told.calls[numbers[0]].layer
            if not layer.trainable:
                continue
            path = self.path(layer)
            before = [producers.get(id(told.calls[n].inputs[0])) for n in numbers]
            named = {
                id(p): p
                for p in before
                if p is not None and type(p).__name__ != "InputLayer" and p is not layer
            }
            looped = any(
                is_wrapper(told.calls[i].layer)
                for i in told.recorder.ancestors(numbers[0])
            )
            inputs = [values[spots[n][0]].numpy() for n in numbers if spots.get(n)]
            distance, limit = apart(inputs, layer)
            evidence: dict[str, Any] = {
                "calls": len(numbers),
                "largest_t": distance,
                "limit_t": limit,
            }
            if len(named) > 1:
                places = ", ".join(repr(self.path(p)) for p in named.values())
                self.report(
                    "PD104",
                    path,
                    f"{path!r} normalises the outputs of {places}; its moving statistics are a mixture that fits none.",
                    **evidence,
                )
            elif distance > limit and not looped:
                self.report(
                    "PD104",
                    path,
                    f"{path!r} is called {len(numbers)} times in one pass on inputs whose means differ "
                    f"(t = {distance:.1f}, limit {limit:.1f}); inference normalises each with the mixture.",
                    **evidence,
                )

    # -- inference ---------------------------------------------------------------------------------------------------

    def look_at_inference(self, infer: Route) -> None:
        """PD304, PD305, PD306, PD309 and PD106: inference by every route the reader may take."""
        self.clock.stage("running inference")
        routes = [("model(x, training=False)", infer, self.phase(False))]
        bare = self.attempt(
            "tracing model(x)", lambda: self.trace(self.phase(None), self.x), "model(x)"
        )
        predict = self.predict_call()
        if (
            predict is None
            and phase_parameter(self.model) is None
            and self.keras3
            and bare is not None
        ):
            routes.append(("predict", bare, self.phase(None)))
        elif predict is not None:
            own = self.attempt(
                "tracing predict_step",
                lambda: self.trace(predict, self.x),
                "predict_step",
            )
            if own is not None:
                routes.append(("predict", own, predict))
        self.base = self.outputs(infer, self.x)
        stochastic = False
        for name, route, call in routes:
            stochastic |= self.look_for_chance(name, route, call)
            self.look_for_writes(name, route)
        self.stochastic = stochastic
        self.alone = None
        if self.size is not None and self.size >= 2 and not stochastic:
            with contextlib.suppress(Exception):  # a model of one batch size only
                self.alone = self.outputs(
                    infer, rows_of(self.x, np.arange(self.size // 2))
                )
        self.noise = self.rounding(infer)
        name, route, call = routes[-1]
        if self.size is None or self.size < 2:
            self.report(
                "PD002",
                None,
                "Whether inference depends on batch mates needs a batch of at least two samples.",
            )
        elif not stochastic:
            for name, route, call in routes:
                self.look_for_mates(name, route, call)
        if bare is not None:
            self.look_at_bare(bare, name, route, call)

    def predict_call(self) -> Callable[[Any], Any] | None:
        """The model's own `predict_step`, or None when it is Keras's."""
        owner = next(
            (c for c in type(self.model).__mro__ if "predict_step" in c.__dict__), None
        )
        if owner is None or owner.__module__.startswith(("keras.", "tf_keras.")):
            return None
        return lambda x: self.model.predict_step((x,))

    def rounding(self, infer: Route, runs: int = 3) -> float:
        """Standard deviation of the outputs' rounding noise: three runs, inputs moved by one unit in the last place."""
        kinds = {
            str(getattr(n.layer, "compute_dtype", "float32"))
            for n in self.nodes.values()
        }
        unit = (
            2.0**-8
            if "bfloat16" in kinds
            else 2.0**-11
            if "float16" in kinds
            else 2.0**-23
        )
        floor = (
            2
            * unit
            * max([float(np.max(np.abs(b))) for b in self.base if b.size] or [0.0])
        )
        if self.stochastic:
            again = [
                rms(differences(self.outputs(infer, self.x), self.base))
                for _ in range(runs)
            ]
            return max(floor, *again)
        x, base = self.x, self.base
        if self.alone is not None and self.size is not None:
            x, base = (
                rows_of(self.x, np.arange(self.size // 2)),
                self.alone,
            )  # half the cost, the same noise
        generator = np.random.default_rng(0)
        squares = []
        for _ in range(runs):
            moved = tf.nest.map_structure(
                lambda t: (
                    t
                    if t is None
                    or not isinstance(t, tf.Tensor)
                    or not t.dtype.is_floating
                    else t
                    * (
                        1
                        + unit
                        * tf.cast(generator.choice([-1.0, 1.0], size=t.shape), t.dtype)
                    )
                ),
                x,
            )
            squares.append(rms(differences(self.outputs(infer, moved), base)) ** 2)
        return max(floor, math.sqrt(float(np.mean(squares))))

    def differs(
        self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
    ) -> tuple[bool, dict[str, Any]]:
        """Whether two outputs differ by more than rounding.

        Test: the root mean square of the difference against `ROUNDING_SIGMAS` (48) standard deviations of rounding
        noise. That noise is estimated from three runs, so the ratio of one output follows Student's t with 3 degrees
        of freedom: 48 is passed with probability 2e-5. Averaging over many outputs only lowers it.
        """
        distance = rms(differences(first, second))
        evidence = {
            "rms_difference": distance,
            "rounding_noise": self.noise,
            "rms_output": rms(first),
        }
        return distance > ROUNDING_SIGMAS * self.noise, evidence

    def look_for_chance(
        self, name: str, route: Route, call: Callable[[Any], Any]
    ) -> bool:
        """PD305. A graph without random operations cannot be stochastic, so only others are run again."""
        if not route.effects.drawn and not route.effects.outside:
            return False
        first, second = self.outputs(route, self.x), self.outputs(route, self.x)
        distance, scale = rms(differences(first, second)), rms(first)
        if distance <= 1e-5 * scale:
            return False
        where = self.locate(call, self.x, call, self.x)
        self.report(
            "PD305",
            where,
            f"Two runs of {name} on one batch differ by {distance / max(scale, 1e-30):.1%} of the output"
            + (f"; {where!r} draws at random." if where else "."),
            rms_difference=distance,
            rms_output=scale,
            operations=sorted(route.effects.drawn | route.effects.outside),
        )
        return True

    def look_for_writes(self, name: str, route: Route) -> None:
        """PD306: variables that a run of inference leaves changed."""
        keys = [
            k
            for k in route.effects.writes
            if k in self.state.saved and not self.is_seed(k)
        ]
        if not keys:
            return

        def look() -> dict[int, bool]:
            return {
                k: not same_bits(self.state.read(k), self.state.saved[k][1].numpy())
                for k in keys
            }

        _, changed = self.run(route, self.x, look)
        metrics = {
            id(handle_of(v))
            for m in getattr(self.model, "metrics", ()) or ()
            for v in m.variables
        }
        # A stateful RNN carries its state over on purpose.
        keepers = [
            n.layer for n in self.nodes.values() if getattr(n.layer, "stateful", False)
        ]
        remembered = {
            id(handle_of(v))
            for k in keepers
            for v in tf.nest.flatten(getattr(k, "states", None))
        }
        grouped: dict[str, list[int]] = {}
        for key in keys:
            if not changed[key] or key in metrics:
                continue
            node = self.owner.get(key)
            if key in remembered or (
                node is not None and getattr(node.layer, "stateful", False)
            ):
                continue
            grouped.setdefault(
                node.path
                if node
                else str(getattr(route.variables.get(key), "name", "a variable")),
                [],
            ).append(key)
        for where, moved in grouped.items():
            self.report(
                "PD306",
                where,
                f"A run of {name} changes {len(moved)} variables of {where!r}.",
                variables=len(moved),
                route=name,
            )

    def look_for_mates(
        self, name: str, route: Route, call: Callable[[Any], Any]
    ) -> None:
        """PD304: each half of the batch, alone and in company. A first row or a maximum may lie in either."""
        assert self.size is not None
        half = self.size // 2
        first = name == "model(x, training=False)"
        whole = self.base if first else self.outputs(route, self.x)
        for rows in (np.arange(half), np.arange(half, self.size)):
            part = rows_of(self.x, rows)
            try:
                known = self.alone if first and rows[0] == 0 else None
                alone = known if known is not None else self.outputs(route, part)
            except Exception:
                try:
                    alone = self.outputs(self.trace(call, part), part)
                except Exception:
                    self.report(
                        "PD002",
                        None,
                        f"{name} takes this batch size only, so batch mates could not be compared.",
                    )
                    return
            pairs = [
                (w[rows], a)
                for w, a in zip(whole, alone, strict=False)
                if w.shape[:1] == (self.size,) and w[rows].shape == a.shape
            ]
            differs, evidence = self.differs(
                [w for w, _ in pairs], [a for _, a in pairs]
            )
            if not differs:
                continue
            where = self.locate(call, self.x, call, part, rows)
            share = evidence["rms_difference"] / max(evidence["rms_output"], 1e-30)
            self.report(
                "PD304",
                where,
                f"With other batch mates the output of {name} changes by {share:.1%}"
                + (f"; it starts at {where!r}." if where else "."),
                **evidence,
            )
            return

    def look_at_bare(
        self, bare: Route, name: str, route: Route, call: Callable[[Any], Any]
    ) -> None:
        """PD106 and PD309: what `model(x)` does when nobody says the phase."""
        leak = None
        for number, record in enumerate(bare.calls):
            parameter = phase_parameter(record.layer)
            default = parameter.default if parameter is not None else None
            # Functional graphs record the default as if it had been written.
            graph = record.parent is not None and is_graph(
                bare.calls[record.parent].layer
            )
            if (
                leak is None
                and is_true(record.training)
                and default is True
                and (record.explicit is None or graph)
            ):
                leak = number
        if leak is not None:
            source = bare.calls[leak].layer
            inside = {
                number
                for number in range(len(bare.calls))
                if leak in bare.recorder.ancestors(number)
            }
            later = [
                r.layer
                for number, r in enumerate(bare.calls)
                if number > leak
                and heeds_phase(r.layer)
                and is_true(r.training)
                and number not in inside
                and not defaults_to_training(r.layer)
            ]
            names = list(dict.fromkeys(self.path(layer) for layer in later))
            if names and not children_of(source) and source is not self.model:
                self.report(
                    "PD106",
                    self.path(source),
                    f"`call` of {self.path(source)!r} defaults to `training=True`; on a bare `model(x)` it puts "
                    f"{', '.join(map(repr, names[:3]))}{' and others' if len(names) > 3 else ''} into training mode.",
                    layers=names,
                    variables_written=len(
                        [
                            k
                            for k in bare.effects.writes
                            if k in self.state.saved and not self.is_seed(k)
                        ]
                    ),
                )
        if bare is route:
            return
        values, own = self.outputs(bare, self.x), self.predict_call() is not None
        reference = self.outputs(route, self.x) if name == "predict" else self.base
        if own and not self.differs(values, self.base)[0]:
            # The phase is not what makes them differ: `predict_step` was written to return something else.
            if self.differs(values, reference)[0] or len(values) != len(reference):
                self.report(
                    "PD309",
                    self.model.name,
                    "`predict_step` returns something else than `model(x)`.",
                    "note",
                )
            return
        if len(values) != len(reference) or any(
            a.shape != b.shape for a, b in zip(values, reference, strict=False)
        ):
            self.report(
                "PD309",
                self.model.name,
                "`model(x)` and `predict` return different structures.",
            )
            return
        differs, evidence = self.differs(values, reference)
        if not differs:
            return
        where = (
            self.path(bare.calls[leak].layer)
            if leak is not None
            else self.locate(self.phase(None), self.x, call, self.x)
        )
        share = evidence["rms_difference"] / max(evidence["rms_output"], 1e-30)
        self.report(
            "PD309",
            where,
            f"`model(x)` differs from `predict` by {share:.1%} of the output.",
            **evidence,
        )

    def locate(
        self,
        first: Callable[[Any], Any],
        xa: Any,
        second: Callable[[Any], Any],
        xb: Any,
        rows: np.ndarray | None = None,
    ) -> str | None:
        """Path of the first layer whose inputs agree between two runs and whose outputs do not."""
        try:
            one = self.trace(first, xa, fetch=True)
            two = (
                one
                if first is second and xa is xb
                else self.trace(second, xb, fetch=True)
            )
            a, b = self.run(one, xa)[0], self.run(two, xb)[0]
        except Exception:
            return None
        seen: dict[int, int] = {}
        index: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
        for number, inputs, outputs in two.fetched:
            layer = two.calls[number].layer
            seen[id(layer)] = seen.get(id(layer), 0) + 1
            index[id(layer), seen[id(layer)]] = (inputs, outputs)
        seen.clear()
        suspects = []
        for number, inputs, outputs in one.fetched:
            layer = one.calls[number].layer
            seen[id(layer)] = seen.get(id(layer), 0) + 1
            other = index.get((id(layer), seen[id(layer)]))
            if other is None:
                continue
            same_inputs = agree([a[i] for i in inputs], [b[i] for i in other[0]], rows)
            if same_inputs and not agree(
                [a[i] for i in outputs], [b[i] for i in other[1]], rows
            ):
                suspects.append(number)
        for number in suspects:  # the innermost of the first
            if not any(number in one.recorder.ancestors(inner) for inner in suspects):
                return self.path(one.calls[number].layer)
        return None

    # -- both phases ---------------------------------------------------------------------------------------------------

    def look_at_phases(self, infer: Route, told: Route) -> None:
        """PD202, PD307 and PD308: the statistics against the data, and the outputs of the two phases."""
        self.clock.stage("comparing the two phases")
        if self.size is None or self.size < 4 or self.found("PD203"):
            return
        if self.alike():
            self.report(
                "PD002",
                None,
                "Every sample of the batch is the same: the two phases cannot be compared on it.",
            )
            return
        self.find_momentum(told)
        self.told_statistics = {
            k
            for k, n in self.owner.items()
            if k in told.effects.writes and self.is_statistic(k, n)
        }
        keys = [
            k for s in self.statistics for k in (s.mean, s.variance) if k is not None
        ]
        keys = [k for k in keys if k in told.effects.writes]

        def look() -> dict[int, np.ndarray]:
            return {k: self.state.read(k).astype(np.float64) for k in keys}

        order = np.random.default_rng(0).permutation(self.size)
        halves = [np.sort(order[: self.size // 2]), np.sort(order[self.size // 2 :])]
        try:
            whole, after = self.run(told, self.x, look)
            parts = [self.run(told, rows_of(self.x, half), look) for half in halves]
        except Exception as error:
            self.report(
                "PD002",
                None,
                f"The two phases could not be compared on half a batch: {type(error).__name__}.",
            )
            return
        full = numbers_of(whole[: told.count])
        split = [numbers_of(part[: told.count]) for part, _ in parts]
        self.compare_outputs(full, split, halves)
        self.rows_matter = False
        spread = self.distance["spread_inference"] if self.distance else math.inf
        if spread <= self.noise and told.effects.drawn and not self.stochastic:
            self.rows_matter = tell_apart_alike(full, self.outputs(told, self.x))
        self.compare_statistics(told, after, [seen for _, seen in parts])
        self.compare_substituted(infer)
        self.conclude(infer)

    def alike(self) -> bool:
        """Whether the batch is one sample repeated, such as zeros: its statistics say nothing about any data."""
        leaves = [
            leaf
            for leaf in tf.nest.flatten(self.x)
            if isinstance(leaf, tf.Tensor) and leaf.shape.rank
        ]
        return bool(leaves) and all(
            bool(tf.reduce_all(tf.equal(leaf, leaf[:1]))) for leaf in leaves
        )

    def find_momentum(self, told: Route) -> None:
        """Momentum of layers that do not name one: two updates on one batch shrink by this factor."""
        unknown = [
            s
            for s in self.statistics
            if s.momentum is None and s.mean in told.effects.writes
        ]
        if not unknown:
            return
        seeds = [
            k for k in told.effects.writes if k in self.state.saved and self.is_seed(k)
        ]

        def look() -> None:
            first = {
                s.mean: self.state.read(s.mean).astype(np.float64) for s in unknown
            }
            self.state.restore(seeds)
            told.concrete(
                *[leaf for leaf in tf.nest.flatten(self.x) if leaf is not None]
            )
            for s in unknown:
                start = self.state.saved[s.mean][1].numpy().astype(np.float64)
                one, two = (
                    first[s.mean] - start,
                    self.state.read(s.mean).astype(np.float64) - first[s.mean],
                )
                large = (np.abs(one) >= np.median(np.abs(one))) & (one != 0)
                ratios = two[large] / one[large]
                if (
                    ratios.size
                    and 0 < np.median(ratios) < 1
                    and np.ptp(np.percentile(ratios, [25, 75])) < 0.05
                ):
                    s.momentum = float(np.median(ratios))

        self.state.restore(seeds)
        self.run(told, self.x, look)

    def compare_outputs(
        self,
        full: list[np.ndarray],
        split: list[list[np.ndarray]],
        halves: list[np.ndarray],
    ) -> None:
        """Measures the distance of the phases in units of what other batch mates and dropout masks change anyway."""
        self.distance = None
        usable = [
            i
            for i, (b, f) in enumerate(zip(self.base, full, strict=False))
            if b.shape == f.shape
            and b.ndim
            and b.shape[0] == self.size
            and all(s[i].shape[1:] == f.shape[1:] for s in split)
        ]
        if not usable or len(self.base) != len(full):
            return
        joined = []
        for i in usable:
            mixed = np.empty_like(full[i])
            for half, values in zip(halves, split, strict=False):
                mixed[half] = values[i]
            joined.append(mixed)
        signal = [self.base[i] - full[i] for i in usable]
        noise = [m - full[i] for m, i in zip(joined, usable, strict=False)]
        self.distance = {
            "rms_between_phases": rms(signal),
            "rms_noise": max(rms(noise), self.noise),
            "spread_inference": spread_of([self.base[i] for i in usable]),
            "spread_training": spread_of([full[i] for i in usable]),
            "spread_noise": spread_of(noise),
        }
        self.training_outputs = full

    def compare_statistics(
        self,
        told: Route,
        after: dict[int, np.ndarray],
        parts: list[dict[int, np.ndarray]],
    ) -> None:
        """Distance of moving from batch statistics against sampling noise, and what is left of the start."""
        self.behind: list[tuple[Statistic, dict[str, float]]] = []
        self.substitutes: list[dict[int, np.ndarray]] = [{}, {}, {}]
        for statistic in self.statistics:
            low, high = told.effects.writes.get(statistic.mean, (0, 0))
            if (
                not statistic.node.layer.trainable
                or low < 1
                or not math.isfinite(high)
                or statistic.momentum is None
            ):
                continue
            keep = statistic.momentum ** ((low + high) / 2)
            if not 0 < keep < 1 or (
                statistic.variance is not None and statistic.variance not in after
            ):
                continue

            def batch(
                seen: dict[int, np.ndarray], key: int, keep: float = keep
            ) -> np.ndarray:
                before = self.state.saved[key][1].numpy().astype(np.float64)
                return (seen[key] - keep * before) / (1 - keep)

            moving = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
            mean = batch(after, statistic.mean)
            if statistic.variance is not None:
                # A channel that never varies may reach 0; one that varies in this batch may not.
                now = self.state.saved[statistic.variance][1].numpy()
                wrong = (
                    (now == 0) & (batch(after, statistic.variance) > 1e-6)
                    if now.any()
                    else np.zeros(1, bool)
                )
                if wrong.any():
                    path = statistic.node.path
                    text = f"{int(wrong.sum())} moving variances of {path!r} are 0, and the data vary in these channels."
                    self.report("PD203", path, text, channels=int(wrong.sum()))
            thirds = [batch(p, statistic.mean) for p in parts]
            start_mean, start_variance = self.initial(statistic)
            if statistic.variance is not None and start_variance is not None:
                epsilon = float(getattr(statistic.node.layer, "epsilon", 1e-3))
                spread = np.maximum(batch(after, statistic.variance), 0) + epsilon
                moving_spread = (
                    self.state.saved[statistic.variance][1].numpy().astype(np.float64)
                    + epsilon
                )
                parts_spread = [
                    np.maximum(batch(p, statistic.variance), 0) + epsilon for p in parts
                ]
            else:
                spread = np.full_like(mean, max(float(np.var(mean)), 1e-12))
                moving_spread, parts_spread, start_variance = (
                    spread,
                    [spread, spread],
                    spread,
                )
                epsilon = 0.0
            sigma = np.sqrt(spread)
            shift, stretch = (
                (moving - mean) / sigma,
                0.5 * np.log(moving_spread / spread),
            )
            noise_shift = (thirds[0] - thirds[1]) / sigma / 2
            noise_stretch = 0.5 * np.log(parts_spread[0] / parts_spread[1]) / 2
            far = math.sqrt(float(np.mean(shift**2 + stretch**2)))
            near = math.sqrt(float(np.mean(noise_shift**2 + noise_stretch**2)))
            left = remaining(
                np.concatenate([moving, moving_spread - epsilon]),
                np.concatenate([mean, spread - epsilon]),
                np.concatenate(
                    [start_mean, np.broadcast_to(start_variance, mean.shape)]
                ),
                np.concatenate([sigma, spread]),
            )
            self.behind.append(
                (statistic, {"distance": far, "noise": near, "left": left})
            )
            for target, values in zip(self.substitutes, (after, *parts), strict=False):
                target[statistic.mean] = batch(values, statistic.mean)
                if statistic.variance is not None:
                    target[statistic.variance] = np.maximum(
                        batch(values, statistic.variance), 0
                    )

    def compare_substituted(self, infer: Route) -> None:
        """Inference with the batch's own statistics in place of the moving ones: what the statistics alone change."""
        self.effect = None
        if not self.behind or self.stochastic:
            return

        rows = (
            np.arange(self.size // 2)
            if self.alone is not None and self.size is not None
            else None
        )
        x = self.x if rows is None else rows_of(self.x, rows)
        base = self.base if rows is None or self.alone is None else self.alone

        def outputs(values: dict[int, np.ndarray]) -> list[np.ndarray]:
            try:
                for key, value in values.items():
                    handle, saved = self.state.saved[key]
                    tf.raw_ops.AssignVariableOp(
                        resource=handle, value=tf.cast(value, saved.dtype)
                    )
                return self.outputs(infer, x)
            finally:
                self.state.restore(values)

        full, one, two = (outputs(values) for values in self.substitutes)
        self.effect = {
            "rms_change": rms(differences(base, full)),
            "rms_noise": max(rms(differences(one, two)) / 2, self.noise),
            "spread_batch": spread_of(full),
            "spread_moving": spread_of(base),
        }
        self.substituted = full

    # -- the training step ---------------------------------------------------------------------------------------------

    def look_at_step(self, told: Route | None) -> None:
        """PD301, PD302 and PD303: what one step writes, by its graph and, where it can be undone, by running it."""
        self.step_told = self.step_ran = False
        self.stepped: dict[int, np.ndarray] = {}
        self.written: set[int] = set()
        step, name = self.step, "train_step"
        if step is None:
            step, name = self.own_step(), "the model's train_step"
        if step is None:
            if told is not None:
                self.judge_step(told.effects, None, told, None, handed=False)
            return
        self.clock.stage("tracing the training step")
        traced = Step(self, step, name)
        began = time.perf_counter()
        try:
            traced.trace()
        except Exception as error:
            self.failed_step(name, error)
            return
        finally:
            self.clock.tracing += time.perf_counter() - began
        if traced.remarks:
            self.report(
                "PD002",
                None,
                f"{name} does what cannot be put back: {'; '.join(traced.remarks)}. "
                + (
                    "It was run all the same."
                    if self.insist
                    else "It was examined without running it."
                ),
            )
            if self.insist:
                print(
                    f"phase doctor: about to run {name}, which {'; '.join(traced.remarks)}",
                    file=sys.stderr,
                    flush=True,
                )
        if traced.effects is None and not (self.insist and traced.eager):
            return
        self.index_variables()
        self.state.add_all(self.everything())
        self.state.add_all(reachable_variables(step))
        if not self.statistics or told is None:
            self.statistics = []
            self.find_statistics(told)
        if traced.concrete is not None:
            for handle in traced.concrete.graph.external_captures:
                if handle.dtype == tf.resource:
                    self.state.add(handle)
        changed = None
        if self.insist or not traced.remarks:
            self.clock.stage("running the training step")
            try:
                traced.run()
                changed = {
                    k
                    for k in self.state.saved
                    if not same_bits(self.state.read(k), self.state.saved[k][1].numpy())
                }
                self.stepped = {
                    s.mean: self.state.read(s.mean).astype(np.float64)
                    for s in self.statistics
                }
            except Exception as error:
                self.failed_step(name, error)
                return
            finally:
                self.state.restore()
        self.step_ran = True
        self.count_steps(traced)
        effects = traced.effects or Effects({k: (1, 1) for k in changed or ()})
        self.judge_step(effects, changed, told, traced, handed=True)
        if self.step is not None:
            self.excuse_flags()

    def excuse_flags(self) -> None:
        """PD105 is about the compiled training function; a step handed in that goes by the flags of now is spared."""
        stale = [f for f in self.findings if f.code == "PD105" and f.severity != "note"]
        for finding in stale:
            inside = f"{finding.where}/"
            keys = [
                key
                for key, node in self.owner.items()
                if finding.where == self.model.name
                or f"{node.path}/".startswith(inside)
            ]
            moved = any(
                k in self.written and k in self.state.saved and not self.is_seed(k)
                for k in keys
            )
            if moved == finding.evidence["trainable_now"]:
                finding.severity = "note"
                finding.message += " The step handed in goes by the flags of now."
        if stale and all(finding.severity == "note" for finding in stale):
            for finding in self.findings:
                if (
                    finding.code == "PD303"
                    and "the training function traced earlier" in finding.message
                ):
                    finding.severity = "note"

    def failed_step(self, name: str, error: Exception) -> None:
        """A step that the reader handed in has to run; the model's own may take other batches than its `call` does."""
        self.failed(name, error)
        if self.step is None and self.answered:
            self.soften(
                name,
                "Hand in `train_step=` with a batch that it takes, or examine the parts of the model.",
            )

    def soften(self, what: str, advice: str) -> None:
        """Turns what raised into a note, where another use of the same batch shows that it was not meant for it."""
        for finding in self.findings:
            if finding.code == "PD001" and finding.message.startswith(f"{what} raised"):
                finding.code, finding.severity, finding.cure = (
                    "PD002",
                    "note",
                    RULES["PD002"].cures["read-the-message"].text,
                )
                finding.message += f". {advice}"

    def own_step(self) -> Callable[..., Any] | None:
        """The `train_step` that the reader's own class defines, once compiled."""
        owner = next(
            (c for c in type(self.model).__mro__ if "train_step" in c.__dict__), None
        )
        if owner is None or owner.__module__.startswith(("keras.", "tf_keras.")):
            return None
        if not getattr(
            self.model, "compiled", getattr(self.model, "_is_compiled", False)
        ):
            return None
        model = self.model
        if self.y is None:
            return lambda x: model.train_step(
                (x,) if isinstance(x, (list, tuple)) else x
            )  # as `fit` packs it
        return lambda x, y: model.train_step((x, y))

    def count_steps(self, traced: Step) -> None:
        if traced.concrete is None:
            return
        for variable in traced.concrete.graph.variables:
            name = str(getattr(variable, "name", "")).lower()
            key = id(getattr(variable, "handle", None))
            if (
                "iteration" in name
                and key in self.state.saved
                and variable.shape.rank == 0
            ):
                steps = int(self.state.saved[key][1].numpy())
                self.trained["steps"] = max(self.trained["steps"], steps)
                self.trained["any"] = self.trained["any"] or steps > 0

    def own_keys(self, node: Node) -> list[int]:
        return [key for key, owner in self.owner.items() if owner is node]

    def step_trains(self, statistic: Statistic) -> bool:
        """Whether the step trains the weights this layer serves: its own gamma and beta, else its neighbours'."""
        trainable = {id(handle_of(v)) for v in self.model.trainable_variables}
        own = [k for k in self.own_keys(statistic.node) if k in trainable]
        if own:
            return any(k in self.written for k in own)
        parent = statistic.node.parents[-1] if statistic.node.parents else None
        near = [n for n in self.nodes.values() if n.parents and n.parents[-1] is parent]
        return any(
            k in self.written and k in trainable for n in near for k in self.own_keys(n)
        )

    def judge_step(
        self,
        effects: Effects,
        changed: set[int] | None,
        told: Route | None,
        traced: Step | None,
        handed: bool,
    ) -> None:
        self.written = set(effects.writes) if changed is None else changed
        executed = changed is not None
        self.judge_frozen(effects, told, traced, executed)
        for statistic in self.statistics:
            node = statistic.node
            if not node.layer.trainable:
                continue
            low, high = effects.writes.get(statistic.mean, (0, 0))
            if high > 0 and handed:
                self.step_told = True
            if high == 0 and handed and self.step_trains(statistic):
                self.judge_unmoved(statistic, told, traced, executed)
            elif high > 1:
                self.judge_repeated(statistic, low, high, told, traced, handed)

    def judge_unmoved(
        self,
        statistic: Statistic,
        told: Route | None,
        traced: Step | None,
        executed: bool,
    ) -> None:
        """PD301."""
        path = statistic.node.path
        recorded = self.recorded_phases()
        if (
            told is not None
            and statistic.mean not in told.effects.writes
            and not self.untouched(statistic)
        ):
            for number, record in enumerate(told.calls):
                if record.layer is statistic.node.layer and self.decided(
                    told, number, recorded
                ):
                    return  # the model keeps statistics that it once got, whatever it is told
        severity = None
        if (
            traced is not None
            and not self.untouched(statistic)
            and traced.says_inference(statistic.node.layer)
        ):
            severity = "note"
        mean = self.state.saved[statistic.mean][1].numpy()
        self.report(
            "PD301",
            path,
            f"The step trains the weights of {path!r} but leaves its moving statistics unmoved"
            + (
                ": it says `training=False` itself."
                if severity
                else ": the layer runs in inference mode."
            ),
            severity,
            executed=executed,
            statistics=int(np.size(mean)),
            change=0.0,
        )

    def judge_repeated(
        self,
        statistic: Statistic,
        low: float,
        high: float,
        told: Route | None,
        traced: Step | None,
        handed: bool,
    ) -> None:
        """PD302."""
        path, layer = statistic.node.path, statistic.node.layer
        times = (
            "several"
            if math.isinf(high)
            else f"{high:.0f}"
            if low == high
            else f"up to {high:.0f}"
        )
        evidence: dict[str, Any] = {"updates": high, "momentum": statistic.momentum}
        if statistic.momentum and math.isfinite(high):
            evidence["effective_momentum"] = statistic.momentum**high
        outer: list[int] = []
        calls: list[Call] = told.calls if told is not None else []
        ancestors: Callable[[int], list[int]] = (
            told.recorder.ancestors if told is not None else (lambda _: [])
        )
        if traced is not None:
            recorder = traced.record()
            # A training function that Keras keeps runs no Python when traced again: the model's own calls stand in.
            if recorder and any(record.layer is layer for record in recorder.calls):
                calls, ancestors = recorder.calls, recorder.ancestors
        for number, record in enumerate(calls):
            if record.layer is layer and (
                is_true(record.training) or not is_stock(layer)
            ):
                outer.append(([number, *ancestors(number)])[-1])
        distinct = list(dict.fromkeys(outer))
        looped = any(
            type(calls[i].layer).__name__ == "TimeDistributed"
            for number, record in enumerate(calls)
            if record.layer is layer
            for i in ancestors(number)[:1]
        )
        if len(distinct) <= 1:
            if same_within(
                calls,
                ancestors,
                [n for n, record in enumerate(calls) if record.layer is layer],
            ):
                text = f"{path!r} updates its moving statistics {times} times a step, on the same input."
                self.report("PD302", path, text, "error", **evidence)
            elif looped:
                text = f"{path!r} updates its moving statistics {times} times a step, once for every timestep."
                self.report("PD302", path, text, "warning", **evidence)
            else:
                text = f"{path!r} updates its moving statistics {times} times a step, all within one call of the model."
                self.report("PD302", path, text, "note", **evidence)
            return
        assert traced is not None
        if self.moved_once(statistic, told):
            text = f"The step writes the statistics of {path!r} {times} times and leaves them where one update would."
            self.report("PD302", path, text, "note", **evidence)
            return
        origins = [traced.origin(i) for i in distinct]
        if traced.same_input(distinct):
            text = f"The step moves the statistics of {path!r} {times} times on the same input ({origins[0]})."
            self.report("PD302", path, text, "error", **evidence, inputs=origins)
        else:
            text = (
                f"The step moves the statistics of {path!r} {times} times, mixing the inputs of {len(distinct)} calls: "
                f"{', '.join(origins)}. Inference normalises each of them with the mixture."
            )
            self.report("PD302", path, text, "warning", **evidence, inputs=origins)

    def moved_once(self, statistic: Statistic, told: Route | None) -> bool:
        """Whether the step took the statistics where one training-phase pass over the batch takes them, within 2 %.

        A second update on the same batch adds momentum times the first one, so it is seen from momentum 0.02 on.
        """
        if (
            told is None
            or statistic.mean not in self.stepped
            or told.effects.writes.get(statistic.mean) != (1, 1)
        ):
            return False
        before = self.state.saved[statistic.mean][1].numpy().astype(np.float64)
        _, once = self.run(
            told, self.x, lambda: self.state.read(statistic.mean).astype(np.float64)
        )
        one = once - before
        return rms([self.stepped[statistic.mean] - before - one]) < 0.02 * rms([one])

    def judge_frozen(
        self, effects: Effects, told: Route | None, traced: Step | None, executed: bool
    ) -> None:
        """PD303: frozen, and yet written by its own update, by a stale trace, or by an optimizer."""
        metrics = {
            id(handle_of(v))
            for m in getattr(self.model, "metrics", ()) or ()
            for v in m.variables
        }
        fresh = optimized = None
        for node in self.nodes.values():
            if node.layer.trainable or getattr(node.layer, "stateful", False):
                continue
            moved = [
                k
                for k in self.own_keys(node)
                if k in self.written
                and k not in metrics
                and k in self.state.saved
                and not self.is_seed(k)
            ]
            if not moved:
                continue
            if traced is not None and fresh is None:
                fresh, optimized = traced.fresh_writes(), traced.optimized()
            by_layer = [
                k for k in moved if told is not None and k in told.effects.writes
            ]
            by_trace = [k for k in moved if fresh is not None and k not in fresh]
            by_optimizer = [k for k in moved if optimized and k in optimized]
            evidence: dict[str, Any] = {"variables": len(moved), "executed": executed}
            if by_trace:
                why = "the step was traced before the layer was frozen"
            elif by_layer:
                why = "the layer updates itself without asking whether it is frozen"
            elif by_optimizer:
                why = "the optimizer of the step still holds its weights"
            elif traced is not None and not any(traced.copies(key) for key in moved):
                why = (
                    "the step assigns to its variables what it computes from them alone"
                )
            else:
                text = f"{node.path!r} is frozen and the step assigns its variables itself, as an averaged copy would."
                self.report("PD303", node.path, text, "note", **evidence)
                continue
            self.report(
                "PD303",
                node.path,
                f"{node.path!r} is frozen, but one step changes it: {why}.",
                **evidence,
            )

    def conclude(self, infer: Route) -> None:
        """Turns the distances into PD202, PD307 and PD308.

        Two conditions, both needed. Significance: a layer's moving statistics lie farther from the batch's than
        sampling noise explains, or they move the output farther than the statistics of half batches do. The squared
        ratio of the two is compared with Fisher's F; channels are correlated, so they count as five independent ones,
        and F(5, 5) exceeds 29.75 with probability 0.001. Size: the statistics move the inference output by at least
        half a standard deviation over the samples (Cohen's medium effect), with the sampling noise taken off first.
        """
        distance: dict[str, Any] = self.distance or {}
        effect = self.effect
        far = [
            (s, m)
            for s, m in self.behind
            if m["distance"] > F_LIMIT * max(m["noise"], 1e-9)
        ]
        far.sort(key=lambda item: -item[1]["distance"] / max(item[1]["noise"], 1e-9))
        size = (
            effect_size(
                effect["rms_change"], effect["rms_noise"], effect["spread_batch"]
            )
            if effect
            else 0.0
        )
        if effect and not far and effect["rms_change"] > F_LIMIT * effect["rms_noise"]:
            far = [
                max(
                    self.behind,
                    key=lambda item: item[1]["distance"] / max(item[1]["noise"], 1e-9),
                )
            ]
        harmful = bool(far) and size >= MEDIUM_EFFECT
        signs = self.trained["any"] or self.found("PD301")
        soft = None if signs else "note"
        untrained = "" if signs else " Every freshly initialised network is here."
        if effect and effect["spread_batch"] > F_LIMIT * effect["rms_noise"]:
            low, high, least = (
                effect["spread_moving"],
                effect["spread_batch"],
                effect["rms_noise"],
            )
        elif distance and (
            distance["spread_training"] > F_LIMIT * distance["rms_noise"]
            or self.rows_matter
        ):
            low, high, least = (
                distance["spread_inference"],
                distance["spread_training"],
                0.0,
            )
        else:
            low, high, least = 1.0, 0.0, 0.0
        constant = low <= max(least, ROUNDING_SIGMAS * self.noise) and low < high
        better = signs and bool(far) and not constant and self.serves_better()
        if better:
            soft = "note"
            untrained = " They give it a lower loss than its own statistics: the batch is unlike the data they describe."
        if harmful:
            for statistic, measured in far:
                path = statistic.node.path
                if self.found("PD201", path):
                    continue
                own_signs = self.trained["any"] or self.found("PD301", path)
                if better or own_signs:
                    self.report_behind(statistic, measured, size, soft, untrained)
                else:
                    self.report_behind(
                        statistic,
                        measured,
                        size,
                        "note",
                        " Every freshly initialised network is here.",
                    )
        direct = (
            bool(distance)
            and distance["rms_between_phases"] > F_LIMIT * distance["rms_noise"]
            and (
                effect_size(
                    distance["rms_between_phases"],
                    distance["rms_noise"],
                    distance["spread_training"],
                )
                >= MEDIUM_EFFECT
            )
        )
        where = far[0][0].node.path if far else None
        if constant:
            # Fresh statistics excuse only a network that has any.
            excuse = bool(self.statistics)
            kind = "with the batch's own statistics" if effect else "in training"
            self.report(
                "PD307",
                where,
                f"Over the batch inference output varies by {low:.2g}, {kind} by {high:.2g}: "
                f"inference says the same for every sample.{untrained if excuse else ''}",
                soft if excuse else None,
                spread_inference=low,
                spread_training=high,
                noise=max(least, self.noise),
            )
        if harmful or direct:
            losses = self.losses()
            # Fresh statistics explain a fresh network; a layer that changes its output by itself is another matter.
            judged = {key for s, _ in self.behind for key in (s.mean, s.variance)}
            own = (
                direct
                and not far
                and self.told_statistics <= judged
                and not self.explained()
            )
            own = own and not self.found(
                "PD103"
            )  # statistics out of sight are fresh ones as well
            if direct and where is None and not own and self.behind:
                where = max(
                    self.behind,
                    key=lambda item: item[1]["distance"] / max(item[1]["noise"], 1e-9),
                )[0].node.path
            if direct and where is None:
                where = self.locate(self.phase(False), self.x, self.phase(True), self.x)
            if losses:
                said = "the loss is {loss_training:.3g} in training and {loss_inference:.3g} in inference".format(
                    **losses
                )
            else:
                moved = (
                    distance["rms_between_phases"]
                    if distance
                    else effect["rms_change"]
                    if effect
                    else 0.0
                )
                said = f"outputs differ by {moved:.2g} (root mean square)"
            self.report(
                "PD308",
                where,
                f"On one batch the two phases disagree far beyond noise: {said}." + ("" if own else untrained),
                None if own else soft,
                **losses, **distance, effect_size=size,
            )  # fmt: skip

    def serves_better(self) -> bool:
        """Whether the moving statistics give this batch a lower loss than its own do.

        Test: paired Student's t over the samples, one-sided, at an error rate of 0.01. A batch of one class, or in
        sorted order, is far from the data that the statistics describe, and they are right all the same. Weights
        trained in the inference phase prefer it too, so statistics that never moved are not excused.
        """
        loss = self.loss_function()
        if (
            loss is None
            or self.effect is None
            or len(self.substituted) != 1
            or self.found("PD201")
        ):
            return False
        if self.found("PD301") or self.found("PD101"):
            return False
        own, number = self.substituted[0], min(len(self.substituted[0]), 64)
        moving = self.base[0][: len(own)]
        try:

            def of(output: np.ndarray, i: int) -> float:
                row = rows_of(self.y, np.arange(i, i + 1))
                return float(
                    np.mean(loss(row, tf.constant(output[i : i + 1], tf.float32)))
                )

            gains = np.array([of(own, i) - of(moving, i) for i in range(number)])
        except Exception:
            return False
        error = (
            float(np.std(gains, ddof=1)) / math.sqrt(number) if number > 2 else math.inf
        )
        return bool(np.mean(gains) > t_limit(0.02, number - 1) * error)

    def explained(self) -> bool:
        """Whether inference with the batch's own statistics gives what training gives, up to noise."""
        if self.effect is None or not self.distance:
            return False
        # The substituted run may cover the first half of the batch only.
        trained = [
            t[: len(b)]
            for t, b in zip(self.training_outputs, self.substituted, strict=False)
            if t.ndim and b.ndim
        ]
        rest, noise = (
            rms(differences(self.substituted, trained)),
            self.distance["rms_noise"],
        )
        return (
            rest <= F_LIMIT * noise
            or effect_size(rest, noise, self.distance["spread_training"])
            < MEDIUM_EFFECT
        )

    def report_behind(
        self,
        statistic: Statistic,
        measured: dict[str, float],
        size: float,
        severity: str | None,
        untrained: str,
    ) -> None:
        path, momentum, left = (
            statistic.node.path,
            statistic.momentum or 0.0,
            measured["left"],
        )
        evidence: dict[str, Any] = {
            "distance_in_noise": measured["distance"] / max(measured["noise"], 1e-9),
            "limit": F_LIMIT,
            "effect_size": size,
            "momentum": momentum,
        }
        enough = (
            math.ceil(math.log(0.05) / math.log(momentum)) if 0 < momentum < 1 else 0
        )
        # More steps than would leave a tenth of that: something else keeps the statistics from the batch's.
        taken = momentum ** self.trained["steps"] if 0 < momentum < 1 else 0.0
        if 0.05 < left <= 1 and enough and taken > left / 10:
            seen = 0 if left >= 1 else round(math.log(left) / math.log(momentum))
            evidence |= {
                "initial_value_left": left,
                "steps_seen": seen,
                "steps_for_95_percent": enough,
            }
            text = (
                f"{left:.0%} of the initial moving statistics of {path!r} is left, as after {seen} steps at momentum "
                f"{momentum:g}; below 5% takes {enough}."
            )
        else:
            text = (
                f"The moving statistics of {path!r} lie {evidence['distance_in_noise']:.0f} times sampling noise from "
                "this batch's, and what is left of the initial values does not explain it: the weights have changed "
                "since, or the batch is unlike the training data."
            )
        self.report("PD202", path, text + untrained, severity, **evidence)

    def loss_function(self) -> Callable[..., Any] | None:
        """The reader's loss, or the compiled one; None without targets or without a loss that is one function."""
        if self.y is None:
            return None
        loss = self.loss if self.loss is not None else getattr(self.model, "loss", None)
        if isinstance(loss, str):
            try:
                loss = self.package.losses.get(loss)
            except ValueError:
                return None
        return loss if callable(loss) else None

    def losses(self) -> dict[str, Any]:
        """The loss of both phases on the batch, from `loss` or the compiled one; empty without one."""
        loss = self.loss_function()
        if loss is None:
            return {}
        try:
            found = {}
            for name, training in (("loss_training", True), ("loss_inference", False)):
                call = self.phase(training)
                route = self.trace(
                    lambda x, call=call: loss(self.y, call(x)), self.x, warm=False
                )  # type: ignore[misc]
                found[name] = float(np.mean(self.outputs(route, self.x)[0]))
            return found
        except Exception:
            return {}


def bears_on(root: Finding, finding: Finding, model: str) -> bool:
    """Whether the layer of `root`, or one that it names, holds the layer of `finding` or lies in it."""
    if (
        finding.code in GLOBAL
        or root.where in (None, model)
        or finding.where in (None, model)
    ):
        return True
    place = f"{finding.where}/"
    named = [f"{path}/" for path in (root.where, *root.evidence.get("layers", ()))]
    return any(place.startswith(path) or path.startswith(place) for path in named)


def examine_all(
    model: Any,
    x: Any,
    y: Any,
    train_step: Any,
    artifact: Any,
    loss: Any,
    allow: Any,
    insist: bool,
    progress: bool,
) -> Diagnosis:
    """Checks what was handed in, examines, and orders what was found."""
    allow = (allow,) if isinstance(allow, str) else tuple(allow)
    unknown = [code for code in allow if code not in RULES]
    if unknown:
        raise CannotExamine(
            f"`allow` names {', '.join(map(repr, unknown))}; the doctor's codes are {', '.join(RULES)}."
        )
    if library_of(model) is None or not hasattr(model, "variables"):
        raise CannotExamine(
            f"`model` is {type(model).__module__}.{type(model).__name__}, not a Keras model: hand the doctor a "
            "keras.Model (or a tf_keras.Model). Load a file first with keras.models.load_model."
        )
    if library_of(model) is keras and keras.backend.backend() != "tensorflow":
        raise CannotExamine(
            f"Keras runs on {keras.backend.backend()!r}: the doctor reads TensorFlow graphs."
        )
    if train_step is not None and not callable(train_step):
        raise CannotExamine(
            f"`train_step` is {type(train_step).__name__}: hand the doctor a function of (x, y)."
        )
    if artifact is not None and not Path(artifact).exists():
        raise CannotExamine(f"There is no artifact at {artifact}.")
    clock = Clock(progress)
    batches, remark = read_batches(model, x, y, 1)
    exam = Exam(model, batches, train_step, loss, insist, clock)
    if remark:
        exam.report("PD002", None, remark)
    exam.build()
    python = PythonState(train_step, model)
    try:
        exam.examine()
        if artifact is not None:
            look_at_artifact(exam, Path(artifact))
    finally:
        exam.state.restore()
        python.restore()
    for finding in exam.findings:
        if finding.code in allow:
            finding.severity = "note"
    roots = [f for f in exam.findings if f.severity != "note"]
    for finding in exam.findings:
        explains = {root.code for root in roots if bears_on(root, finding, model.name)}
        finding.caused_by = next(
            (code for code in CAUSES.get(finding.code, ()) if code in explains), None
        )
    severities = ("error", "warning", "note")
    exam.findings.sort(
        key=lambda f: (
            f.severity == "note",
            ORDER.index(f.code),
            severities.index(f.severity),
        )
    )
    versions = {
        "TensorFlow": tf.__version__,
        exam.package.__name__: exam.package.__version__,
    }
    return Diagnosis(exam.findings, clock.timing(), versions, model.name)
