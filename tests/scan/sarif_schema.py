"""A JSON schema of what the scan writes of SARIF 2.1.0: the standard's names, types, enumerations and bounds.

Stricter than the standard's own schema, for it allows no property that the scan does not write. Numbers in
comments are sections of the standard.
"""

from __future__ import annotations

from typing import Any


def an_object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def a_list(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


STRING = {"type": "string"}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
POSITIVE = {"type": "integer", "minimum": 1}
MESSAGE = an_object(["text"], text=STRING)  # 3.11
REGION = an_object(["startLine"], startLine=POSITIVE, startColumn=POSITIVE)  # 3.30
ARTIFACT = an_object(["uri"], uri={"type": "string", "pattern": "^[^ \\\\]+$"})  # 3.4, an RFC 3986 reference
LOCATION = an_object(  # 3.28, 3.29
    ["physicalLocation"],
    physicalLocation=an_object(["artifactLocation"], artifactLocation=ARTIFACT, region=REGION),
)
RULE = an_object(  # 3.49
    ["id", "shortDescription"],
    id=STRING,
    name=STRING,
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    help=MESSAGE,
    defaultConfiguration=an_object([], level=LEVEL),
)
DRIVER = an_object(["name"], name=STRING, version=STRING, rules=a_list(RULE, uniqueItems=True))  # 3.19
RESULT = an_object(  # 3.27
    ["message"],
    ruleId=STRING,
    ruleIndex={"type": "integer", "minimum": -1},
    level=LEVEL,
    message=MESSAGE,
    locations=a_list(LOCATION),
)
NOTICE = an_object(["message"], level=LEVEL, message=MESSAGE, locations=a_list(LOCATION))  # 3.58
INVOCATION = an_object(  # 3.20
    ["executionSuccessful"],
    executionSuccessful={"type": "boolean"},
    toolExecutionNotifications=a_list(NOTICE),
)
RUN = an_object(  # 3.14
    ["tool"],
    tool=an_object(["driver"], driver=DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    invocations=a_list(INVOCATION),
    results=a_list(RESULT),
)
SARIF = an_object(  # 3.13
    ["version", "runs"],
    **{"$schema": {"type": "string", "format": "uri"}, "version": {"enum": ["2.1.0"]}, "runs": a_list(RUN)},
)
