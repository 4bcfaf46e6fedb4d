"""What an examination costs against the number of layers, as tests/benchmarks/doctor_cost.py measured it."""

import json
from pathlib import Path
from typing import Any

PANELS = {"convolutions": "convolutions", "transformer": "transformers"}
COST = Path(__file__).resolve().parents[2] / "docs/reference/doctor/cost.json"


def measure() -> dict[str, Any]:
    rows = json.loads(COST.read_text(encoding="utf-8"))["rows"]
    layers = {model: sorted({row["layers"] for row in rows if row["model"] == model}) for model in PANELS}
    ratios = {(row["model"], row["batch"], row["layers"]): row["doctor"] / row["step"] for row in rows}
    panels = [
        {
            "title": title,
            "kind": "lines",
            "x": {"label": "layers", "values": layers[model]},
            "y": {"label": "doctor / one step, traced and run", "range": [0, 4]},
            "series": [
                {"name": f"batch {batch}", "values": [ratios[model, batch, n] for n in layers[model]], "role": role}
                for batch, role in ((1, "inference"), (32, "training"))
            ],
        }
        for model, title in PANELS.items()
    ]
    least, most = min(ratios.values()), max(ratios.values())
    says = (
        f"What an examination costs, from 10 layers to {max(map(max, layers.values()))}: {least:.1f} to {most:.1f} "
        "times the CPU time that TensorFlow takes to trace the training step and run it once."
    )
    return {"says": says, "panels": panels}
