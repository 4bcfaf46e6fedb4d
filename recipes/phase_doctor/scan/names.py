"""What a name stands for: which binding holds, what an attribute was set to.

Straight-line code only. Of several bindings the last one before the use counts, if it
is not in a branch that the use is outside of.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from . import known
from .things import Class, Dotted, Function, Many, Net
from .tree import Arms, Binding, Position, Scope, Site

DEEP = 60  # calls deep; what lies deeper is unknown


class Names:
    """What names and attributes stand for; an heir knows the other expressions."""

    def __init__(self, module: Scope) -> None:
        self.module = module
        self.scopes = {id(scope.node): scope for scope in module.all()}
        self.kept: dict[tuple[int, int], Any] = {}
        self.classes: dict[int, Class] = {}
        self.added: dict[int, list[Site]] | None = None
        self.called: dict[str, list[Site]] | None = None
        self.depth = 0

    def at(self, node: ast.AST, site: Site) -> Any:
        """The value of `node`, which stands in the statement of `site`."""
        return self.of(node, site.scope, site.at, site.arms)

    def of(self, node: Any, scope: Scope, at: Position, arms: Arms) -> Any:
        key = (id(node), id(scope))
        if key in self.kept:
            return self.kept[key]
        if self.depth > DEEP:
            return None
        visit = getattr(self, f"of_{node.__class__.__name__}", None)
        if visit is None:
            return None
        self.kept[key] = None  # a name that is made of itself
        self.depth += 1
        try:
            value = visit(node, scope, at, arms)
        finally:
            self.depth -= 1
        self.kept[key] = value
        return value

    def of_Name(self, node: ast.Name, scope: Scope, at: Position, arms: Arms) -> Any:
        here: Scope | None = scope
        while here is not None:
            bindings = here.names.get(node.id)
            if bindings and (here is scope or here.kind != "class"):
                found = bindings[0]
                if here is scope:
                    last = self.before(bindings, at, arms)
                    return None if last is None else self.bound(last, here)
                if len(bindings) == 1 and not found.arms:
                    return self.bound(found, here)
                if all(
                    b.how == "name" for b in bindings
                ):  # try: import, except: import
                    return self.agreed([self.bound(b, here) for b in bindings])
                return None
            here = here.parent
        for module in self.module.stars:
            name = known.canonical(f"{module}.{node.id}")
            layer = known.layer_of(name)
            if (
                layer in known.LAYERS
                or name[6:] in known.MODELS
                or name.startswith("keras.backend.")
            ):
                return Dotted(name)
        return None

    @staticmethod
    def agreed(values: list[Any]) -> Any:
        names = {value.name for value in values if isinstance(value, Dotted)}
        return values[0] if len(names) == 1 == len({type(v) for v in values}) else None

    def before(
        self, bindings: list[Binding], at: Position, arms: Arms
    ) -> Binding | None:
        """The binding that holds at a place, or None if a branch decides."""
        earlier = [b for b in bindings if b.at <= at]
        if not earlier:
            return None
        last = max(earlier, key=lambda b: b.at)
        if last.arms == arms[: len(last.arms)]:
            return last
        if all(b.how == "name" for b in earlier):
            names = {known.canonical(str(b.value)) for b in earlier}
            return last if len(names) == 1 else None
        return None

    def given(self, node: Any, site: Site) -> Any:
        """The expression that a name is bound to, here or once outside, else it."""
        here: Scope | None = site.scope
        while isinstance(node, ast.Name) and here is not None:
            bindings = here.names.get(node.id, [])
            if here is site.scope:
                last = self.before(bindings, site.at, site.arms)
            else:
                last = bindings[0] if len(bindings) == 1 else None
            if bindings:
                return last.value if last and last.how == "value" else node
            here = here.parent
        return node

    def bound(self, binding: Binding, scope: Scope) -> Any:
        value = binding.value
        if binding.how == "name":
            return Dotted(known.canonical(str(value)))
        if binding.how == "class":
            return self.class_of(value)
        if binding.how == "function":
            return Function(self.scopes[id(value)])
        if binding.how == "parameter":
            return self.argument(str(value), scope)
        if binding.how in ("value", "item") and isinstance(value, ast.AST):
            place = (value.lineno, value.col_offset)  # type: ignore[attr-defined]
            found = self.of(value, scope, place, binding.arms)
            if binding.how == "item":
                found = self.element(found)
            if binding.index is not None:
                if isinstance(found, Many) and binding.index < len(found.items):
                    return found.items[binding.index]
                return None
            return found
        return None

    def argument(self, name: str, scope: Scope) -> Any:
        """What a function of the file gets, where every call of it there says the same.

        A method, or what a decorator but `tf.function` may call otherwise, is unknown.
        """
        arguments: ast.arguments = scope.node.args  # type: ignore[attr-defined]
        plain = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        found = []
        for site in self.calls_of(scope):
            given = {k.arg: k.value for k in site.node.keywords}  # type: ignore[attr-defined]
            given |= dict(zip(plain, site.node.args, strict=False))  # type: ignore[attr-defined]
            starred = any(isinstance(part, ast.Starred) for part in given.values())
            if starred or None in given or name not in given:
                return None
            found.append(self.at(given[name], site))
        same = found and all(value is found[0] for value in found)
        return found[0] if same else None

    def calls_of(self, scope: Scope) -> list[Site]:
        """The calls of a function by its name, in the file; a method has none."""
        if not isinstance(scope.node, ast.FunctionDef):
            return []
        if self.called is None:
            self.called = {}
            for here in self.module.all():
                for site in here.calls:
                    func = site.node.func  # type: ignore[attr-defined]
                    if isinstance(func, ast.Name):
                        self.called.setdefault(func.id, []).append(site)
        for decorator in scope.node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called) not in ("tf.function", "tensorflow.function"):
                return []
        sites = self.called.get(scope.name, [])
        values = [self.at(s.node.func, s) for s in sites]  # type: ignore[attr-defined]
        return [
            site
            for site, value in zip(sites, values, strict=True)
            if isinstance(value, Function) and value.scope is scope
        ]

    @staticmethod
    def element(value: Any) -> Any:
        return value.items[0] if isinstance(value, Many) and value.items else None

    def class_of(self, node: Any) -> Class:
        if id(node) not in self.classes:
            scope = self.scopes[id(node)]
            made = self.classes[id(node)] = Class(scope, [])
            at = node.lineno, node.col_offset
            made.bases = [self.of(base, scope.parent, at, ()) for base in node.bases]  # type: ignore[arg-type]
        return self.classes[id(node)]

    def this(self, scope: Scope) -> Class | None:
        """The class whose method this is."""
        owner = scope.owner()
        return self.class_of(owner.node) if owner else None

    def self_name(self, scope: Scope) -> str | None:
        here: Scope | None = scope
        while here is not None:
            if here.parent is not None and here.parent.kind == "class":
                static = map(ast.unparse, getattr(here.node, "decorator_list", ()))
                given = getattr(getattr(here.node, "args", None), "args", [])
                return given[0].arg if given and "staticmethod" not in static else None
            here = here.parent
        return None

    def of_Attribute(
        self, node: ast.Attribute, scope: Scope, at: Position, arms: Arms
    ) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id == self.self_name(scope):
            cls = self.this(scope)
            return self.attribute(cls, node.attr) if cls else None
        base = self.of(node.value, scope, at, arms)
        if isinstance(base, Dotted):
            return Dotted(known.canonical(f"{base.name}.{node.attr}"))
        return None

    def own(self, target: ast.Attribute, scope: Scope) -> bool:
        """Is it an attribute of `self`?"""
        holder = target.value
        return isinstance(holder, ast.Name) and holder.id == self.self_name(scope)

    def attributes(self, cls: Class) -> list[str]:
        """What is assigned to `self`, here and in bases of the file."""
        names: dict[str, None] = {}
        for scope in cls.scope.all():
            for target, _, _ in scope.assigned:
                if self.own(target, scope):
                    names[target.attr] = None
        for base in cls.bases:
            if isinstance(base, Class):
                names.update(dict.fromkeys(self.attributes(base)))
        return list(names)

    def attribute(self, cls: Class, name: str) -> Any:
        """What `self.name` is: assigned once in the class, outside of a branch."""
        found = []
        for scope in cls.scope.all():
            for target, value, site in scope.assigned:
                if target.attr == name and self.own(target, scope):
                    found.append((value, site))
        if not found:
            for base in cls.bases:
                if isinstance(base, Class) and name in self.attributes(base):
                    return self.attribute(base, name)
            method = cls.method(name)
            return Function(method) if method else None
        if len(found) > 1 or found[0][1].arms:
            return None
        value, site = found[0]
        made = self.at(value, site)
        if isinstance(made, Many):  # self.blocks = []; self.blocks.append(Block())
            made = Many([*made.items, *self.appended(cls, name)])
        if isinstance(made, Net) and made.kind == "Sequential":
            made.parts += self.appended(cls, name, "add")
        return made

    def appended(self, cls: Class, name: str, how: str = "append") -> Iterator[Any]:
        for scope in cls.scope.all():
            for site in scope.calls:
                match site.node:
                    case ast.Call(
                        func=ast.Attribute(
                            value=ast.Attribute(value=ast.Name(), attr=attr),
                            attr=method,
                        ),
                        args=[value],
                    ) if attr == name and method == how:
                        yield self.at(value, site)
