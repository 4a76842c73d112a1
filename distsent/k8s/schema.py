"""Checks a document against the schema of its kind.

The schemas of Kubernetes come from the library kubernetes-validate, those of custom kinds from
custom_kinds.yaml or from a CustomResourceDefinition that the user names.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache, partial
from ipaddress import ip_address, ip_network
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from kubernetes_validate.utils import latest_version, schema_contents

from distsent.errors import UserError
from distsent.k8s.cluster import output
from distsent.k8s.documents import Finding, Node, read_table

Schema = dict[str, Any]
Kinds = dict[str, Schema]  # by apiVersion and kind: "v1 Pod"
Errors = Iterator[ValidationError]

PACKAGE = "io.k8s.apimachinery.pkg"
QUANTITY = r"^\+?(\d+\.?\d*|\.\d+)([numk]|[MGTPE]i?|Ki|[eE][+-]?\d+)?$"
UNITS = {unit: 1e3**i for i, unit in enumerate(["n", "u", "m", "", *"kMGTPE"], -3)}
UNITS |= {f"{unit}i": 1024.0**i for i, unit in enumerate("KMGTPE", 1)}
WORDS = {
    "string": "text (put it in quotes)", "integer": "a whole number", "boolean": "true or false",
    "array": "a list", "object": "a mapping", "quantity": "a quantity, such as 500m, 2 or 8Gi",
    "byte": "base64",
}  # fmt: skip
ALLOWED = {"minimum": "{} or more", "maximum": "{} or less", "not": "other than {}"}
METADATA = {"$ref": f"#/$defs/{PACKAGE}.apis.meta.v1.ObjectMeta", "required": ["name"]}
FIELDS = {"apiVersion": {}, "kind": {}, "status": {}, "metadata": METADATA}  # of every kind
HEADER = {"required": ["apiVersion", "kind", "metadata"], "properties": FIELDS}
# The only whole numbers that may be negative.
SIGNED = ("priority", "value", "tolerationSeconds")
UNIQUE = "x-kubernetes-list-map-keys"
INCREASING = "x-increasing"  # numbers of a list, or of these fields
ALLOWED[INCREASING] = "in increasing order, each once"
TRAINER = [f"{kind}.trainer.kubeflow.org" for kind in ("trainjobs", "trainingruntimes")]
FROM_CLUSTER = ["get", "crd", "mpijobs.kubeflow.org", *TRAINER]
FROM_CLUSTER += ["--ignore-not-found", "-o", "json"]


def quantity(value: Any) -> float | None:
    """A Kubernetes quantity as a number. None if it is not a quantity."""
    found = re.match(QUANTITY, str(value))
    if found is None:
        return None
    number, unit = found[1], found[2] or ""
    return float(number) * UNITS[unit] if unit in UNITS else float(number + unit)


@cache
def definitions() -> dict[str, Schema]:
    """The definitions of the library's newest Kubernetes, and what the API server adds to them."""
    version = latest_version()
    path = f"kubernetes-json-schema/v{version}-local-strict/_definitions.json"
    found: dict[str, Schema] = schema_contents(path, version)["$defs"]
    for name, schema in read_table("api_server.yaml").items():
        found[f"io.k8s.{name}"]["allOf"] = [schema]
    # The library has a choice between two types for these, which gives unreadable errors.
    found[f"{PACKAGE}.util.intstr.IntOrString"] = {"type": ["integer", "string"]}
    limits = {"type": ["string", "number"], "minimum": 0, "pattern": QUANTITY}
    found[f"{PACKAGE}.api.resource.Quantity"] = {**limits, "title": WORDS["quantity"]}
    for schema in found.values():
        tighten(schema)
    return found


def tighten(schema: Schema, name: str = "", *, is_custom: bool = False) -> None:
    """Give a schema what it lacks: bounds of whole numbers and, for a custom kind, no other fields.

    The API server would drop other fields silently.
    """
    if is_custom and schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
        schema |= {"title": WORDS["quantity"]} if "pattern" in schema else {}
    if "integer" in schema.get("type", ()) and name not in SIGNED:
        schema.setdefault("minimum", 0)
        schema.setdefault("maximum", 2 ** (63 if schema.get("format") == "int64" else 31) - 1)
    fields = schema.get("properties", {})
    if is_custom and fields and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    others = {"": schema.get("items"), "*": schema.get("additionalProperties")}
    for field, each in {**fields, **others}.items():
        if isinstance(each, dict):
            tighten(each, field, is_custom=is_custom)


@cache
def known_kinds() -> Kinds:
    """The kinds of Kubernetes, and the custom kinds of custom_kinds.yaml."""
    found = {name: complete(schema) for name, schema in read_table("custom_kinds.yaml").items()}
    for name, schema in definitions().items():
        groups = schema.get("x-kubernetes-group-version-kind", ())
        if len(groups) == 1:  # others, such as DeleteOptions, are not kinds of manifests
            kind = "{group}/{version} {kind}".format(**groups[0]).lstrip("/")
            found[kind] = {"$ref": f"#/$defs/{name}"}
    return found


def read_definitions(source: str) -> Kinds:
    """The kinds of CustomResourceDefinitions in a file, or of the jobs' in a `cluster`."""
    found: Kinds = {}
    try:
        if source == "cluster":
            text = output(f"--crd {source}", *FROM_CLUSTER)
        else:
            text = Path(source).read_text(encoding="utf-8")
        # In C where PyYAML has it: ten times as fast on a definition of 9,000 lines.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        for document in yaml.load_all(text, Loader=loader):
            for crd in document.get("items", [document]):
                group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
                for version in crd["spec"]["versions"]:
                    schema = complete(version["schema"]["openAPIV3Schema"])
                    found[f"{group}/{version['name']} {kind}"] = schema
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        raise UserError(f"--crd {source}: not a CustomResourceDefinition") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--crd {source}: {error}") from None
    if not found:
        raise UserError(f"--crd {source}: no CustomResourceDefinition; is the operator installed?")
    return found


def complete(schema: Schema) -> Schema:
    """Let a custom kind have the fields of every kind, and no others than those it names."""
    tighten(schema, is_custom=True)
    return {**schema, "properties": schema["properties"] | FIELDS}


def check_schema(manifest: Node, crds: Kinds) -> list[Finding]:
    """Findings about the kind, fields, types and values of a manifest."""
    own, key = known_kinds(), f"{manifest['apiVersion'].text} {manifest.kind}".strip()
    known = [*own, *crds]
    if key not in known:
        is_kind = manifest.kind in [name.split()[1] for name in known]
        message = f"unknown kind {key or '(none)'}{suggest(key, known)}"
        return [manifest["apiVersion" if is_kind else "kind"].finding("kind", message)]
    findings = list(compare(manifest, crds.get(key) or own[key]))
    if key in crds and key in own:
        # The project's own schema has tighter values, but it does not know all fields.
        more, found = compare(manifest, own[key]), {finding.line for finding in findings}
        findings += [each for each in more if each.rule != "field" and each.line not in found]
    return findings


def find_twins(_: Any, keys: list[str], items: Any, schema: Schema) -> Errors:
    """Items of a list that have the same values of `keys` as an earlier one."""
    seen = set()
    for index, item in enumerate(items if isinstance(items, list) else ()):
        defaults = {"protocol": "TCP"} | item if isinstance(item, dict) else {}
        key = tuple(str(defaults[each]).rstrip("/") for each in keys if each in defaults)
        if len(key) == len(keys) and key in seen:
            yield ValidationError(f"{' '.join(key)} appears a second time", path=[index])
        seen.add(key)


def find_disorder(_: Any, keys: Any, value: Any, schema: Schema) -> Errors:
    """Numbers of a list that do not increase, or fields of which a later one is less."""
    numbers = [value.get(key) for key in keys] if isinstance(value, dict) else value
    if not isinstance(numbers, list) or not all(isinstance(each, int) for each in numbers):
        return
    if numbers != sorted(numbers) or (keys is True and len({*numbers}) < len(numbers)):
        yield ValidationError("not in increasing order")


Validator = validators.extend(Draft202012Validator, {UNIQUE: find_twins, INCREASING: find_disorder})
FORMATS = FormatChecker(())
FORMATS.checks("ip", ValueError)(ip_address)
FORMATS.checks("cidr", ValueError)(partial(ip_network, strict=False))
FORMATS.checks("byte", ValueError)(lambda text: b64decode(text, validate=True) is not None)


def compare(manifest: Node, schema: Schema) -> Iterator[Finding]:
    whole = {"$defs": definitions(), "allOf": [schema, HEADER]}
    for error in Validator(whole, format_checker=FORMATS).iter_errors(manifest.value):
        node, name = manifest.at(*error.absolute_path), error.json_path[1:].lstrip(".")
        if error.validator == "additionalProperties":
            known = [*error.schema.get("properties", ())]
            for field in set(error.instance) - set(known):
                message = f"{name}.{field}: no such field{suggest(field, known)}".lstrip(".")
                yield node[field].finding("field", message)
        elif error.validator in ("required", "dependentRequired"):
            needed = error.validator_value
            if isinstance(needed, dict):
                needed = chain(*(needed[each] for each in needed if each in error.instance))
            for field in set(needed) - set(error.instance):
                yield node.finding("required", f"{name}: {field} is missing".lstrip(": "))
        elif error.validator == UNIQUE:
            yield node.finding("duplicate", f"{name}: {error.message}")
        else:
            if "propertyNames" in error.absolute_schema_path:
                node = node[error.instance]
            allowed = what_is_allowed(error)
            rule = "type" if error.validator == "type" or allowed == WORDS["quantity"] else "value"
            value = f"{name} = {json.dumps(error.instance, default=str)[:60]}"
            yield node.finding(rule, f"{value}: must be {allowed}")


def what_is_allowed(error: ValidationError) -> str:
    """The schema's own title, or what the failed keyword says."""
    key, value = str(error.validator), error.validator_value
    title = (value if key == "not" else error.schema).get("title")
    if key == "enum":
        return f"one of {', '.join(str(one) or repr(one) for one in value)}"
    if title or key not in ("type", "format"):
        return str(title or ALLOWED.get(key, f"valid for {key} {{}}").format(value))
    types = [value] if isinstance(value, str) else value
    return " or ".join(WORDS.get(one, f"a {one}") for one in types if one != "null")


def suggest(name: str, known: list[str]) -> str:
    """What may have been meant, or what is known."""
    for close in get_close_matches(name, known, 1):
        return f"; did you mean {close}?"
    return f"; known: {', '.join(sorted(known)[:12])}" if known else ""
