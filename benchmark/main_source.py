"""The source of a class that was typed into a script or a notebook, with all that it uses of what stands around it.

Such a class is in the module `__main__`, which workers do not have, and which cannot be run again as a whole: that would start
the run again. So the statements are taken that bind the class's own name, the names that it uses, those that these use, and so
on: imports, functions, classes, assignments, and `if` and `try` statements around such. Other code does not travel.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bdbench.errors import UsageError

# What travels. A name that is bound by anything else (`with`, `for`, ...) is refused.
DEFINITIONS = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.If,
    ast.Try,
)
CONDITIONAL = (ast.If, ast.Try)  # may leave a name as it was bound before
GIVEN = {*vars(builtins), "__name__", "__file__", "__doc__", "__builtins__", "get_ipython", "display"}


@dataclass(frozen=True)
class MainSource:
    """What was typed into `__main__`: the texts of a script, or of a notebook's cells in the order in which they ran.

    `name` is what people call it, and `folder` where it finds modules of its own. `known` are the names that it has by now,
    however it came by them.
    """

    name: str
    folder: Path
    cells: tuple[str, ...]
    known: frozenset[str] = frozenset()

    @classmethod
    def read(cls, wanted: str) -> MainSource:
        """Raises UsageError, which says that `wanted` cannot be had, if there is no text: it was typed at a prompt."""
        main = vars(sys.modules["__main__"])
        shell = main.get("get_ipython")
        if "In" in main and callable(shell):
            return cls("notebook", Path.cwd(), tuple(shell().history_manager.input_hist_parsed), frozenset(main))
        file = main.get("__file__")
        if file is not None and Path(file).is_file():
            text = Path(file).read_text(encoding="utf-8")
            return cls(Path(file).name, Path(file).resolve().parent, (text,), frozenset(main))
        raise UsageError(f"the source of {wanted} is not on file, so that workers cannot have it; put it into a Python file")

    def of_class(self, name: str) -> str:
        """The text of a module that has the class, and what it uses. Raises UsageError if that is not to be had."""
        future = sorted({line for statement in self._statements if (line := statement.future)})
        chosen: set[int] = set()
        queue = [name]
        seen = {name}
        while queue:
            wanted = queue.pop()
            for place in self._binding(wanted, name):
                if place not in chosen:
                    chosen.add(place)
                    new = self._statements[place].uses("\n".join(future)) - seen - GIVEN
                    seen |= new
                    queue += sorted(new)
        if not any(isinstance(self._statements[place].node, ast.ClassDef) for place in self._binding(name, name)):
            raise UsageError(f"{name} is not written as a class statement of the {self.name}; put it into a Python file")
        texts = [self._statements[place].text(keep=name) for place in sorted(chosen)]
        return "\n\n".join([*future, *texts]) + "\n"

    @cached_property
    def _statements(self) -> list[_Statement]:
        statements = []
        for cell in self.cells:
            try:
                tree = ast.parse(cell)
            except (SyntaxError, ValueError):  # a cell that did not run
                continue
            statements += [_Statement(node, cell) for node in tree.body]
        return statements

    def _binding(self, wanted: str, name: str) -> Iterator[int]:
        """The places of the statements that bind a name: the last one that surely does, and what may change it afterwards.

        Of a name that nothing binds, those that import everything of a module. Raises UsageError for one bound otherwise.
        """
        places = [place for place, statement in enumerate(self._statements) if wanted in statement.binds]
        if not places:
            everything = [place for place, statement in enumerate(self._statements) if statement.imports_all]
            if wanted in self.known and not everything:
                raise UsageError(
                    f"{name} uses '{wanted}', which no statement of the {self.name} binds; assign it at the top level, or put "
                    f"{name} into a Python file"
                )
            yield from everything
        for place in reversed(places):
            node = self._statements[place].node
            if not isinstance(node, DEFINITIONS):
                raise UsageError(
                    f"{name} uses '{wanted}', which the {self.name} binds in a statement that does not travel to workers (line "
                    f"{node.lineno}: {type(node).__name__}); assign it at the top level, or put {name} into a Python file"
                )
            yield place
            if not isinstance(node, (*CONDITIONAL, ast.AugAssign)):
                break


@dataclass(frozen=True, eq=False)
class _Statement:
    """A statement of the top level, and the text that it is in."""

    node: ast.stmt
    cell: str

    @cached_property
    def binds(self) -> frozenset[str]:
        return frozenset(
            symbol.get_name()
            for symbol in self._table("").get_symbols()
            if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
        )

    @property
    def future(self) -> str | None:
        """The statement itself if it is one `from __future__ import`."""
        is_future = isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__"
        return ast.unparse(self.node) if is_future else None

    @property
    def imports_all(self) -> bool:
        return isinstance(self.node, ast.ImportFrom) and self.node.names[0].name == "*"

    def uses(self, future: str) -> set[str]:
        """The names of the top level that it needs, here or in a function. `future` decides whether annotations are run."""
        names, tables = set(), [self._table(future)]
        while tables:
            table = tables.pop()
            is_top = table.get_type() == "module"
            names |= {symbol.get_name() for symbol in table.get_symbols() if is_top or symbol.is_global()}
            tables += table.get_children()
        return names

    def text(self, keep: str) -> str:
        """As it was typed. A class other than `keep` registers itself as no plugin: it is another one's business."""
        lines = self.cell.splitlines()
        first = min([self.node.lineno, *(each.lineno for each in getattr(self.node, "decorator_list", ()))])
        text = "\n".join(lines[first - 1 : self.node.end_lineno])
        decorators = self.node.decorator_list if isinstance(self.node, ast.ClassDef) else []
        is_other = any(map(_registers, decorators)) and self.node.name != keep
        try:
            is_alone = len(ast.parse(text).body) == 1  # not two in a line, with a semicolon
        except SyntaxError:
            is_alone = False
        if is_alone and not is_other:
            return text
        node = ast.parse(ast.unparse(self.node)).body[0]
        if is_other:
            node.decorator_list = [each for each in node.decorator_list if not _registers(each)]
        return ast.unparse(node)

    def _table(self, future: str) -> symtable.SymbolTable:
        text = ast.unparse(self.node)
        return symtable.symtable(f"{future}\n{text}" if not self.future else text, "<statement>", "exec")


def _registers(decorator: ast.expr) -> bool:
    """Whether a decorator is `register(...)`, by whatever way it was imported."""
    return isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2].startswith("register")
