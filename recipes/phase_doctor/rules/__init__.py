"""Every rule, one a module: its page, its test with its error rate, its words."""

from importlib import import_module
from types import ModuleType

from ..rule import Rule

CODES = [
    "PD001",
    "PD002",
    "PD101",
    "PD102",
    "PD103",
    "PD104",
    "PD105",
    "PD106",
    "PD107",
    "PD108",
    "PD201",
    "PD202",
    "PD203",
    "PD204",
    "PD301",
    "PD302",
    "PD303",
    "PD304",
    "PD305",
    "PD306",
    "PD307",
    "PD308",
    "PD309",
    "PD310",
    "PD311",
    "PD401",
    "PD402",
    "PD403",
]

MODULES: dict[str, ModuleType] = {
    code: import_module(f".{code.lower()}", __name__) for code in CODES
}
RULES: dict[str, Rule] = {code: module.RULE for code, module in MODULES.items()}
