"""What an expression stands for: a Keras name, a layer, a model, a tensor, or None."""

from __future__ import annotations

import ast
from typing import Any

from . import known
from .names import Names
from .things import Class, Dotted, Function, Instance, Layer, Many, Net, Tensor, path
from .tree import Arms, Binding, Position, Scope, Site

OPERATIONS = ("tensorflow.", "keras.ops.", "keras.backend.", "keras.applications.")


class Values(Names):
    """Answers what an expression stands for at a place, once each."""

    def of_List(self, node: Any, scope: Scope, at: Position, arms: Arms) -> Any:
        return Many([self.of(part, scope, at, arms) for part in node.elts])

    of_Tuple = of_List

    def of_Dict(self, node: ast.Dict, scope: Scope, at: Position, arms: Arms) -> Any:
        return Many([self.of(part, scope, at, arms) for part in node.values])

    def of_ListComp(
        self, node: ast.ListComp, scope: Scope, at: Position, arms: Arms
    ) -> Any:
        if any(part.ifs for part in node.generators):
            return None
        return Many([self.of(node.elt, scope, at, arms)])

    def of_Subscript(
        self, node: ast.Subscript, scope: Scope, at: Position, arms: Arms
    ) -> Any:
        base = self.of(node.value, scope, at, arms)
        if isinstance(base, Many) and isinstance(node.slice, ast.Constant):
            number = node.slice.value
            if isinstance(number, int) and -len(base.items) <= number < len(base.items):
                return base.items[number]
        return base if isinstance(base, Tensor) else None

    def of_BinOp(self, node: ast.BinOp, scope: Scope, at: Position, arms: Arms) -> Any:
        sides = [self.of(part, scope, at, arms) for part in (node.left, node.right)]
        tensors = [side for side in sides if isinstance(side, Tensor)]
        return Tensor(None, node, tensors) if tensors else None  # type: ignore[arg-type]

    def of_Call(self, node: ast.Call, scope: Scope, at: Position, arms: Arms) -> Any:
        func = self.of(node.func, scope, at, arms)
        if isinstance(func, Dotted):
            return self.made(func.name, node, scope, at, arms)
        if isinstance(func, Class):
            return Instance(func, node)
        inputs = [self.of(part, scope, at, arms) for part in node.args]
        if isinstance(func, (Layer, Net, Instance)):
            return Tensor(func, node, inputs)
        if isinstance(func, Function):
            return self.returned(func, node, inputs)
        return None

    def made(
        self, name: str, node: ast.Call, scope: Scope, at: Position, arms: Arms
    ) -> Any:
        layer = known.layer_of(name)
        if layer == "Input" or name == "keras.Input":
            return Tensor(None, node, [])
        if layer is not None:
            inner = []
            if layer in known.WRAPPERS and node.args:
                inner = [self.of(node.args[0], scope, at, arms)]
            return Layer(layer, node, inner)
        arguments = [
            *node.args,
            *(
                k.value
                for k in node.keywords
                if k.arg in ("layers", "inputs", "outputs")
            ),
        ]
        if name == "keras.Sequential":
            listed = self.of(arguments[0], scope, at, arms) if arguments else None
            parts = list(listed.items) if isinstance(listed, Many) else []
            return Net("Sequential", node, [*parts, *self.added_to(node)])
        if name in ("keras.Model", "keras.Functional"):
            if len(arguments) < 2:
                return None
            outputs = [k.value for k in node.keywords if k.arg == "outputs"] or [
                arguments[1]
            ]
            return Net(
                "Functional", node, list(path(self.of(outputs[0], scope, at, arms)))
            )
        if name.startswith("keras.applications.") and name[19:20].isupper():
            return Net(name[19:], node)
        if name.startswith(OPERATIONS) or name.startswith("keras.layers"):
            inputs = [self.of(part, scope, at, arms) for part in node.args]
            flat = [
                i for v in inputs for i in (v.items if isinstance(v, Many) else [v])
            ]
            return (
                Tensor(None, node, flat)
                if any(isinstance(i, Tensor) for i in flat)
                else None
            )
        return None

    def added_to(self, node: ast.Call) -> list[Any]:
        """The layers of `model.add(…)` for a Sequential made by `node`."""
        if self.added is None:
            self.added = {}
            for scope in self.module.all():
                for site in scope.calls:
                    holder = self.holder_of_add(site)
                    if holder is not None:
                        self.added.setdefault(id(holder.value), []).append(site)
        sites = sorted(self.added.get(id(node), []), key=lambda s: s.at)
        return [self.at(s.node.args[0], s) for s in sites]  # type: ignore[attr-defined]

    def holder_of_add(self, site: Site) -> Binding | None:
        """Where the model of `model.add(layer)` was made; None inside a branch."""
        match site.node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="add"), args=[_]
            ) if not site.arms:
                return self.before(site.scope.names.get(name, []), site.at, ())
        return None

    def returned(self, function: Function, node: ast.Call, inputs: list[Any]) -> Any:
        """What a function of the file returns, where it does so once."""
        scope = function.scope
        returns = [r for r in scope.returns if not r.arms]
        if len(scope.returns) != 1 or not returns:
            return None
        site = returns[0]
        value = self.at(site.node.value, site) if site.node.value else None  # type: ignore[attr-defined]
        if isinstance(value, Tensor):
            return Tensor(value, node, inputs)
        return value
