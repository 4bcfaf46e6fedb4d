"""The rules."""

from __future__ import annotations

# code: (what the finding says, severity when nothing softens it, cure, recipe)
RULES: dict[str, tuple[str, str, str, str | None]] = {
    "PD001": (
        "the model, the step or the artifact raised",
        "error",
        "Make it run on this batch first.",
        None,
    ),
    "PD002": (
        "not examined, or not put back",
        "note",
        "Read the message; `insist=True` runs the step all the same.",
        None,
    ),
    "PD101": (
        "`call` cannot be told the phase",
        "error",
        "Declare `def call(self, inputs, training=None)` and pass `training` to every layer inside.",
        "subclass_training_arg",
    ),
    "PD102": (
        "a recorded `training=` is ignored by this Keras",
        "error",
        "Set `trainable = False` on each BatchNormalization before `compile`, or call it in a subclass's `call`.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD103": (
        "a phase-dependent layer whose variables the model does not track",
        "error",
        "Assign the layer to an attribute of the model, not to a closure, a global or a hidden container.",
        "subclass_training_arg",
    ),
    "PD104": (
        "one BatchNormalization serves several places",
        "warning",
        "Create one BatchNormalization for each place; weights of other layers may stay shared.",
        "fit_explicit_phase",
    ),
    "PD105": (
        "`trainable` changed after `compile`",
        "error",
        "Call `compile` again after every change of `trainable`.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD106": (
        "a layer's default `training=True` puts later layers in training mode on a bare call",
        "warning",
        "Call `model(x, training=False)`, and export through an endpoint that says so.",
        "export_inference_model",
    ),
    "PD201": (
        "statistics untouched since initialisation though weights were trained",
        "error",
        "Call `model(x, training=True)` in the train step; save and restore all of `model.weights`.",
        "functional_learning_phase",
    ),
    "PD202": (
        "statistics far behind the data",
        "warning",
        "Train for more steps, lower the momentum, or re-estimate the statistics over training batches.",
        "fit_explicit_phase",
    ),
    "PD203": (
        "statistics not finite, or a variance not positive",
        "error",
        "Find the batch that was empty or not finite, then re-estimate the statistics.",
        "fit_explicit_phase",
    ),
    "PD301": (
        "the step leaves statistics unmoved",
        "error",
        "Call the model with `training=True` inside the train step.",
        "functional_learning_phase",
    ),
    "PD302": (
        "statistics move more than once a step",
        "error",
        "Run one training-phase forward pass a step; run any other with `training=False`.",
        "fit_explicit_phase",
    ),
    "PD303": (
        "a frozen layer moves",
        "error",
        "Set `trainable = False` before `compile` and before the step is first traced.",
        "fine_tune_frozen_batchnorm",
    ),
    "PD304": (
        "inference depends on batch mates",
        "error",
        "Pass `training=False` down to the layer at inference; never fix `training=True` in `call`.",
        "subclass_training_arg",
    ),
    "PD305": (
        "inference is stochastic",
        "error",
        "Make the random layer obey `training`. If you mean it, pass `allow=('PD305',)`.",
        "monte_carlo_dropout",
    ),
    "PD306": (
        "inference changes state",
        "error",
        "Update state only when `training` is true.",
        "subclass_training_arg",
    ),
    "PD307": (
        "inference output constant though training output is not",
        "error",
        "Repair the moving statistics: update them while training, or re-estimate them.",
        "functional_learning_phase",
    ),
    "PD308": (
        "the two phases disagree far beyond noise",
        "warning",
        "Repair the moving statistics, or the layer that behaves differently in the two phases.",
        "fit_explicit_phase",
    ),
    "PD309": (
        "`model(x)` differs from `predict`",
        "warning",
        "Say the phase on every direct call: `model(x, training=False)`.",
        "functional_learning_phase",
    ),
    "PD401": (
        "the artifact differs from `model(x, training=False)`",
        "error",
        "Export again through an endpoint that passes `training=False`.",
        "export_inference_model",
    ),
    "PD402": (
        "the artifact holds assigning or random operations",
        "error",
        "Export a function that calls `model(x, training=False)`.",
        "export_inference_model",
    ),
    "PD403": (
        "the artifact has a fixed batch size or a phase input",
        "warning",
        "Export with a batch dimension of None and with the phase fixed.",
        "export_inference_model",
    ),
}


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
