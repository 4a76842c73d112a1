"""Checks a document against the schema of its kind.

The schemas of Kubernetes come from the library kubernetes-validate, those of custom kinds from
custom_kinds.yaml or from a CustomResourceDefinition that the user names.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate.utils import latest_version, schema_contents

from distsent.errors import UserError
from distsent.k8s.documents import Document, FieldPath, Finding

Schema = dict[str, Any]
Kinds = dict[tuple[str, str], Schema]  # by apiVersion and kind

DEFINITIONS, API = "#/$defs/", "apimachinery.pkg"
QUANTITY = r"^(\d+(?:\.\d+)?|\.\d+)(m|k|[MGTPE]i?|Ki|[eE]-?\d+)?$"
A_QUANTITY = "a quantity, such as 500m, 2 or 8Gi"
UNITS = {"m": 1e-3, "k": 1e3, **{unit: 1e3**i for i, unit in enumerate("MGTPE", 2)}}
UNITS |= {f"{unit}i": 1024.0**i for i, unit in enumerate("KMGTPE", 1)}
TYPES = {
    "string": "text (put it in quotes)", "integer": "a whole number", "boolean": "true or false",
    "array": "a list", "object": "a mapping",
}  # fmt: skip
CLUSTER = ["kubectl", "get", "crd", "mpijobs.kubeflow.org", "-o", "json"]


def quantity(value: Any) -> float | None:
    """A Kubernetes quantity as a number. None if it is not a quantity."""
    usable = isinstance(value, str | int | float) and not isinstance(value, bool)
    found = re.match(QUANTITY, str(value)) if usable else None
    if found is None:
        return None
    number, unit = found[1], found[2] or ""
    is_exponent = unit[1:].lstrip("-").isdigit()
    return float(number + unit) if is_exponent else float(number) * UNITS.get(unit, 1.0)


@cache
def definitions() -> dict[str, Schema]:
    """The definitions of the library's newest Kubernetes, and what the API server adds to them."""
    version = latest_version()
    path = f"kubernetes-json-schema/v{version}-local-strict/_definitions.json"
    found: dict[str, Schema] = schema_contents(path, version)["$defs"]
    added = Path(__file__).with_name("api_server.yaml").read_text(encoding="utf-8")
    for name, schema in yaml.safe_load(added).items():
        found[f"io.k8s.{name}"] = {**found[f"io.k8s.{name}"], "allOf": [schema]}
    # The library has a choice between two types for these, which gives unreadable errors.
    found[f"io.k8s.{API}.util.intstr.IntOrString"] = {"type": ["integer", "string"]}
    numbers = {"type": ["string", "number"], "minimum": 0, "pattern": QUANTITY}
    found[f"io.k8s.{API}.api.resource.Quantity"] = {**numbers, "title": A_QUANTITY}
    return found


@cache
def known_kinds() -> Kinds:
    """The kinds of Kubernetes, and the custom kinds of custom_kinds.yaml."""
    found = read_definitions(str(Path(__file__).with_name("custom_kinds.yaml")))
    for name, schema in definitions().items():
        groups = schema.get("x-kubernetes-group-version-kind", ())
        if len(groups) == 1:  # others, such as DeleteOptions, are not kinds of manifests
            version = f"{groups[0]['group']}/{groups[0]['version']}".lstrip("/")
            found[version, groups[0]["kind"]] = {"$ref": DEFINITIONS + name}
    return found


def read_definitions(source: str) -> Kinds:
    """The kinds of CustomResourceDefinitions in a file, or of the MPIJob's in a `cluster`."""
    try:
        if source == "cluster":
            text = subprocess.run(CLUSTER, capture_output=True, text=True, check=True).stdout
        else:
            text = Path(source).read_text(encoding="utf-8")
        found: Kinds = {}
        for crd in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = close_schema(version["schema"]["openAPIV3Schema"])
                metadata = {"$ref": f"{DEFINITIONS}io.k8s.{API}.apis.meta.v1.ObjectMeta"}
                header = {"apiVersion": {}, "kind": {}, "status": {}, "metadata": metadata}
                schema["properties"] |= header
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
        return found
    except subprocess.CalledProcessError as error:
        raise UserError(f"--crd cluster: {' '.join(CLUSTER)}: {error.stderr.strip()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--crd {source}: {error}") from None
    except (yaml.YAMLError, KeyError, TypeError):
        raise UserError(f"--crd {source}: not a CustomResourceDefinition") from None


def close_schema(schema: Any) -> Any:
    """Let a definition refuse the fields that the API server would drop silently."""
    if not isinstance(schema, dict):
        return schema
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
        schema |= {"title": A_QUANTITY} if "pattern" in schema else {}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    inner = [schema.get("items"), schema.get("additionalProperties")]
    for each in [*schema.get("properties", {}).values(), *inner]:
        close_schema(each)
    return schema


def check_schema(document: Document, crds: Kinds) -> list[Finding]:
    """Findings about the kind, fields, types and values of a document."""
    own, key = known_kinds(), (document.at("apiVersion").text, document.kind)
    if key not in own and key not in crds:
        return [unknown_kind(document, *key, {**own, **crds})]
    findings = list(compare(document, crds.get(key) or own[key]))
    if key in crds and key in own:
        # The project's own schema has tighter values, but it does not know all fields.
        found = {finding.line for finding in findings}
        more = compare(document, own[key])
        findings += [each for each in more if each.rule != "field" and each.line not in found]
    return findings


def unknown_kind(document: Document, version: str, kind: str, kinds: Kinds) -> Finding:
    versions = [known for known, other in kinds if other == kind]
    if versions:
        message = f"{kind} is of {' or '.join(versions)}, not of {version or 'no apiVersion'}"
        return document.at("apiVersion").finding("kind", message)
    known = suggestion(kind, [name for _, name in kinds])
    return document.at("kind").finding("kind", f"unknown kind {kind or '(none)'}{known}")


def compare(document: Document, schema: Schema) -> Iterator[Finding]:
    """Findings of a JSON schema."""
    header = {"required": ["apiVersion", "kind", "metadata"]}
    named = {"properties": {"metadata": {"required": ["name"]}}}
    validator = Draft202012Validator({"$defs": definitions(), "allOf": [schema, header, named]})
    for error in validator.iter_errors(document.root.value):
        path = tuple(error.absolute_path)
        node, name = document.at(*path), dotted(path)
        if error.validator == "additionalProperties":
            known = [*error.schema.get("properties", ())]
            for field in set(error.instance) - set(known):
                message = f"{dotted((*path, field))}: no such field{suggestion(field, known)}"
                yield node[field].finding("field", message)
        elif error.validator == "required":
            for field in set(error.validator_value) - set(error.instance):
                yield node.finding("required", f"{name}: {field} is missing".lstrip(": "))
        else:
            rule, allowed = what_is_allowed(error)
            yield node.finding(rule, f"{name} = {shorten(node.value)}: must be {allowed}")


def what_is_allowed(error: ValidationError) -> tuple[str, str]:
    """The rule that a value breaks, and what is allowed in words."""
    value = error.validator_value
    if error.validator == "enum":
        return "value", f"one of {', '.join(one or repr(one) for one in value)}"
    types = [value] if isinstance(value, str) else value
    if "title" in error.schema or error.validator != "type":
        return "type", error.schema.get("title") or f"valid for {error.validator} {value}"
    return "type", " or ".join(TYPES.get(one, f"a {one}") for one in types if one != "null")


def dotted(path: FieldPath) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).lstrip(".")


def suggestion(name: str, known: list[str]) -> str:
    """What may have been meant, or what is known."""
    close = get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(sorted(set(known))[:12])}" if known else ""


def shorten(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
