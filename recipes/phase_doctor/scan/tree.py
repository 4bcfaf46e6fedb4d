"""One pass over a module: scopes, what each name is bound to, calls in order."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Position = tuple[int, int]
Arms = tuple[tuple[int, str], ...]


@dataclass(slots=True)
class Binding:
    """A name gets a value. `how`: value, name (an import), item (of a loop), …"""

    how: str
    value: ast.AST | str | None
    at: Position
    arms: Arms
    index: int | None = None


@dataclass(slots=True)
class Site:
    """A node and where it stands: `arms` are the branches around, `withs` contexts."""

    node: ast.AST
    scope: Scope
    arms: Arms
    withs: tuple[ast.With | ast.AsyncWith, ...]
    statement: ast.stmt

    @property
    def at(self) -> Position:
        return self.node.lineno, self.node.col_offset  # type: ignore[attr-defined]


@dataclass(slots=True, eq=False)
class Scope:
    kind: str  # module, class, function
    node: ast.AST
    parent: Scope | None
    names: dict[str, list[Binding]] = field(default_factory=dict)
    calls: list[Site] = field(default_factory=list)
    # Assignments to attributes: `self.norm = …`, `base.trainable = …`.
    assigned: list[tuple[ast.Attribute, ast.expr, Site]] = field(default_factory=list)
    returns: list[Site] = field(default_factory=list)
    inner: list[Scope] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return getattr(self.node, "name", "")

    def bind(self, name: str, binding: Binding) -> None:
        self.names.setdefault(name, []).append(binding)

    def all(self) -> Iterator[Scope]:
        yield self
        for scope in self.inner:
            yield from scope.all()

    def owner(self) -> Scope | None:
        """The class that a method belongs to, nested functions included."""
        scope: Scope | None = self
        while scope is not None and scope.kind != "class":
            scope = scope.parent
        return scope


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LEAVES = frozenset((ast.Constant, ast.Load, ast.Store, ast.Del))


class Indexer:
    """Walks statements in order; expressions are searched for calls and lambdas."""

    def __init__(self) -> None:
        self.attributes: list[Site] = []
        self.imports: list[tuple[str, Site]] = []
        self.tests: dict[int, ast.expr] = {}

    def module(self, tree: ast.Module) -> Scope:
        scope = Scope("module", tree, None)
        self.block(tree.body, scope, (), ())
        return scope

    def block(
        self, body: list[ast.stmt], scope: Scope, arms: Arms, withs: tuple
    ) -> None:
        for node in body:
            self.statement(node, scope, arms, withs)

    def statement(self, node: ast.stmt, scope: Scope, arms: Arms, withs: tuple) -> None:
        visit = getattr(self, f"on_{node.__class__.__name__}", None)
        if visit is not None:
            visit(node, scope, arms, withs)
        else:
            self.search(node, Site(node, scope, arms, withs, node))

    def search(self, start: ast.AST, site: Site) -> None:
        """Collects calls, attributes and lambdas below a node that holds no block."""
        scope, arms, withs, statement = (
            site.scope,
            site.arms,
            site.withs,
            site.statement,
        )
        stack: list[ast.AST] = [start]
        while stack:
            node = stack.pop()
            kind = node.__class__
            if kind is ast.Call:
                scope.calls.append(Site(node, scope, arms, withs, statement))
            elif kind is ast.Attribute:
                self.attributes.append(Site(node, scope, arms, withs, statement))
            elif kind is ast.Lambda:
                self.lambda_(node, scope)
                continue
            elif kind is ast.NamedExpr:
                self.target(node.target, node.value, site, "value")  # type: ignore[attr-defined]
            for name in node._fields:
                child = getattr(node, name, None)
                if child.__class__ is list:
                    stack.extend(
                        c
                        for c in child
                        if isinstance(c, ast.AST) and c.__class__ not in LEAVES
                    )
                elif isinstance(child, ast.AST) and child.__class__ not in LEAVES:
                    stack.append(child)

    def target(
        self,
        target: ast.AST,
        value: ast.AST | None,
        site: Site,
        how: str,
        index: int | None = None,
    ) -> None:
        """Binds what stands left of `=`."""
        end = (site.statement.end_lineno or 0, site.statement.end_col_offset or 0)
        if how == "item":
            end = target.end_lineno, target.end_col_offset  # type: ignore[attr-defined]
        if isinstance(target, ast.Name):
            site.scope.bind(target.id, Binding(how, value, end, site.arms, index))
        elif isinstance(target, ast.Attribute) and isinstance(value, ast.expr):
            if how == "value" and index is None:
                site.scope.assigned.append((target, value, site))
        elif isinstance(target, (ast.Tuple, ast.List)):
            for number, part in enumerate(target.elts):
                self.target(part, value, site, how, number)
        elif isinstance(target, ast.Starred):
            self.target(target.value, None, site, "unknown")

    def function(self, node: Any, scope: Scope, body: list[ast.stmt]) -> None:
        inner = Scope("function", node, scope)
        scope.inner.append(inner)
        arguments: ast.arguments = node.args
        start = node.lineno, node.col_offset
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [a for a in (arguments.vararg, arguments.kwarg) if a]
        for argument in every:
            inner.bind(argument.arg, Binding("parameter", argument.arg, start, ()))
        self.block(body, inner, (), ())

    def lambda_(self, node: Any, scope: Scope) -> None:
        at = {"lineno": node.lineno, "col_offset": node.col_offset}
        body = ast.Return(value=node.body, **at)
        self.function(node, scope, [body])

    # -- statements --------------------------------------------------------------------

    def on_FunctionDef(self, node, scope, arms, withs) -> None:
        at = node.lineno, node.col_offset
        scope.bind(node.name, Binding("function", node, at, arms))
        site = Site(node, scope, arms, withs, node)
        given = (*node.args.defaults, *filter(None, node.args.kw_defaults))
        for part in (*node.decorator_list, *given):
            self.search(part, site)
        self.function(node, scope, node.body)

    on_AsyncFunctionDef = on_FunctionDef

    def on_ClassDef(self, node, scope, arms, withs) -> None:
        at = node.lineno, node.col_offset
        scope.bind(node.name, Binding("class", node, at, arms))
        inner = Scope("class", node, scope)
        scope.inner.append(inner)
        self.block(node.body, inner, (), ())

    def on_Import(self, node, scope, arms, withs) -> None:
        at, site = (node.lineno, node.col_offset), Site(node, scope, arms, withs, node)
        for alias in node.names:
            self.imports.append((alias.name, site))
            name = alias.asname or alias.name.split(".")[0]
            whole = alias.name if alias.asname else name
            scope.bind(name, Binding("name", whole, at, arms))

    def on_ImportFrom(self, node, scope, arms, withs) -> None:
        at, site = (node.lineno, node.col_offset), Site(node, scope, arms, withs, node)
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            whole = f"{module}.{alias.name}"
            self.imports.append((whole, site))
            if alias.name == "*":
                scope.stars.append(module)
            else:
                scope.bind(alias.asname or alias.name, Binding("name", whole, at, arms))

    def on_Assign(self, node, scope, arms, withs) -> None:
        site = Site(node, scope, arms, withs, node)
        self.search(node.value, site)
        for target in node.targets:
            self.target(target, node.value, site, "value")
            if not isinstance(target, ast.Name):
                self.search(target, site)

    def on_AnnAssign(self, node, scope, arms, withs) -> None:
        if node.value is not None:
            node.targets = [node.target]
            self.on_Assign(node, scope, arms, withs)

    def on_AugAssign(self, node, scope, arms, withs) -> None:
        site = Site(node, scope, arms, withs, node)
        self.search(node.value, site)
        self.target(node.target, None, site, "unknown")

    def on_Return(self, node, scope, arms, withs) -> None:
        site = Site(node, scope, arms, withs, node)
        scope.returns.append(site)
        if node.value is not None:
            self.search(node.value, site)

    def on_If(self, node, scope, arms, withs) -> None:
        self.tests[id(node)] = node.test
        self.search(node.test, Site(node, scope, arms, withs, node))
        self.block(node.body, scope, (*arms, (id(node), "if")), withs)
        self.block(node.orelse, scope, (*arms, (id(node), "else")), withs)

    def on_For(self, node, scope, arms, withs) -> None:
        self.search(node.iter, Site(node, scope, arms, withs, node))
        inside = (*arms, (id(node), "for"))
        self.target(
            node.target, node.iter, Site(node, scope, inside, withs, node), "item"
        )
        self.block(node.body, scope, inside, withs)
        self.block(node.orelse, scope, arms, withs)

    on_AsyncFor = on_For

    def on_While(self, node, scope, arms, withs) -> None:
        self.search(node.test, Site(node, scope, arms, withs, node))
        self.block(node.body, scope, (*arms, (id(node), "while")), withs)
        self.block(node.orelse, scope, arms, withs)

    def on_With(self, node, scope, arms, withs) -> None:
        site = Site(node, scope, arms, withs, node)
        for item in node.items:
            self.search(item.context_expr, site)
            if isinstance(item.optional_vars, ast.Name):
                at = item.optional_vars.lineno, item.optional_vars.col_offset
                scope.bind(
                    item.optional_vars.id, Binding("value", item.context_expr, at, arms)
                )
        self.block(node.body, scope, arms, (*withs, node))

    on_AsyncWith = on_With

    def on_Try(self, node, scope, arms, withs) -> None:
        self.block(node.body, scope, (*arms, (id(node), "try")), withs)
        for number, handler in enumerate(node.handlers):
            self.block(
                handler.body, scope, (*arms, (id(node), f"except{number}")), withs
            )
        self.block(node.orelse, scope, (*arms, (id(node), "try")), withs)
        self.block(node.finalbody, scope, arms, withs)

    on_TryStar = on_Try

    def on_Match(self, node, scope, arms, withs) -> None:
        self.search(node.subject, Site(node, scope, arms, withs, node))
        for number, case in enumerate(node.cases):
            self.block(case.body, scope, (*arms, (id(node), f"case{number}")), withs)
