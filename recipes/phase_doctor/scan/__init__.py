"""Read source, import nothing of it, and name the phase bugs that can be seen in text.

files → tree (scopes, bindings, calls) → values (what a name stands for) → checks →
output.
What cannot be known is not guessed: a check is silent there. Only the standard library
is needed, no TensorFlow.
"""
