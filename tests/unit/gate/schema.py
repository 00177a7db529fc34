"""Writes the schema of the gate's report anew: python -m tests.unit.gate.schema."""

import json

from mlops.gate.report import schema
from tests.support.checkout import ROOT

SCHEMA_FILE = ROOT / "mlops" / "gate" / "report.schema.json"

if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
