"""Root causes and order."""

# A finding is a consequence of the first of these codes that is found too, at a layer that bears on it.
CAUSES: dict[str, tuple[str, ...]] = {
    "PD301": ("PD103", "PD101", "PD102", "PD105"),
    "PD302": ("PD104",),
    "PD303": ("PD105",),
    "PD306": ("PD304",),
    "PD309": ("PD106", "PD102", "PD101", "PD305"),
    "PD201": ("PD103", "PD101", "PD301", "PD105"),
    "PD202": ("PD101", "PD301", "PD203", "PD102", "PD302", "PD104"),
    "PD307": ("PD203", "PD103", "PD101", "PD301", "PD201", "PD202"),
    "PD308": ("PD203", "PD103", "PD101", "PD301", "PD201", "PD202", "PD104", "PD302"),
    "PD401": ("PD402", "PD106", "PD309"),
    "PD402": ("PD106", "PD305", "PD306", "PD304"),
}


# What whole models do: a fault in any layer explains it.
GLOBAL = ("PD307", "PD308", "PD309", "PD401", "PD402")


ORDER = (
    "PD001", "PD101", "PD103", "PD106", "PD105", "PD102", "PD104", "PD203", "PD301", "PD303", "PD302",
    "PD304", "PD305", "PD306", "PD201", "PD202", "PD309", "PD307", "PD308", "PD402", "PD403", "PD401", "PD002",
)  # fmt: skip
