"""Writes the schema of the gate's report anew: python -m tests.unit.gate.schema."""

import json

from mlops.gate.report import SCHEMA_FILE, schema

if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
