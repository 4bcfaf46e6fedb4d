"""Every check, in modules by subject; importing this fills `CHECKS`."""

from importlib import import_module

for subject in (
    "removed",
    "classes",
    "loops",
    "recorded",
    "trainable",
    "layers",
    "notes",
):
    import_module(f".{subject}", __name__)
