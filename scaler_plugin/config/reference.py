"""Writes ``docs/configuration.md`` from the schema: ``python -m scaler_plugin.config.reference > docs/configuration.md``.

Every word of the tables comes from the schema, so that page, errors and JSON schema cannot say different things.
"""

from __future__ import annotations

import inspect
import json
import sys

from pydantic.fields import FieldInfo

from scaler_plugin.config.rules import TextOrNone
from scaler_plugin.config.schema import ScalerConfig
from scaler_plugin.config.section import Section, holds_list, rule_of, section_of

_INTRODUCTION = """\
# Configuration

<!-- Generated from scaler_plugin/config: python -m scaler_plugin.config.reference > docs/configuration.md -->

One file, `scaler.yaml`, describes a cluster. [An annotated example](examples/scaler.yaml) shows most of it; the smallest that
works is:

```yaml
cluster: research
pools:
  - name: cpu
    queues: [default]
    instance_types: [c6i.xlarge]
    ami: ami-0a1b2c3d4e5f67890
    max_instances: 4
```

```
scaler-sidecar config validate scaler.yaml   # every mistake with its place, the value and what is allowed
scaler-sidecar config push scaler.yaml       # publish it; all nodes follow within one poll interval
scaler-sidecar config show                   # what is published
scaler-sidecar config schema                 # the JSON schema, for editors
```

- **Unknown keys are mistakes**, and so are keys that stand twice. Values are not converted: `"5"` is no number, and YAML's `yes`
  is no text.
- **Durations** carry their unit: `500ms`, `90s`, `10m`, `2h`, `1d`, `1h30m`, and `never` where it makes sense. A number alone is
  refused, most of all `0`: it has been read both as "at once" and as "never".
- **Secrets are references**, resolved where they are used: `env:NAME` (an environment variable), `file:/path`,
  `ssm:/parameter/name` (SSM Parameter Store), `secretsmanager:name-or-arn` (AWS Secrets Manager). A secret in clear is refused,
  and never repeated in the error.
- **One version at a time**: a push that would overwrite a configuration that was pushed at the same moment is refused. A node whose
  version cannot read the newest configuration keeps the last one it could, and says so in `status`.
- What the command line needs to reach etcd (`SCALER_ETCD` and its kin) may also stand in the environment, which then comes
  before the file: it belongs to the machine, the file to the cluster.
"""


def reference() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, *_sections(ScalerConfig, "")]
    return "\n".join(parts)


def _sections(section: type[Section], path: str) -> list[str]:
    title = f"`{path}`" if path else "The top level"
    rows = [f"| `{name}` | {' | '.join(_cells(field))} |" for name, field in section.model_fields.items()]
    text = [
        f"## {title}\n",
        f"{' '.join((inspect.getdoc(section) or '').split())}\n",
        "| key | type | default | what it is | example |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner:
            many = "[]" if holds_list(field) else ""
            text += _sections(inner, f"{path}.{name}{many}" if path else f"{name}{many}")
    return text


def _cells(field: FieldInfo) -> tuple[str, str, str, str]:
    rule = rule_of(field)
    kind = rule.kind if rule else ("list of sections" if holds_list(field) else "section")
    words = field.description or ""
    if rule:
        words += f" Allowed: {rule.words}."
    example = json.dumps((field.examples or [None])[0], ensure_ascii=False) if rule and field.examples else ""
    return kind, _default(field), _escape(words), f"`{_escape(example)}`" if example else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    rule = rule_of(field)
    if isinstance(rule, TextOrNone) and field.default is None:
        return "`none`"
    if rule is None or field.default in (None, (), {}):
        return ""
    stored = rule.store(field.default)
    return f"`{stored if isinstance(stored, str) else json.dumps(stored)}`"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
