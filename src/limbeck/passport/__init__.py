"""The passport: what a student inherits, from whom, under what licence, and every file's hash.

`passport.json` lies beside the student as a CycloneDX 1.6 ML-BOM. The pipeline fills
`PassportFacts`, `build_passport` turns them into the document, `verify` holds a student folder
against it, and `as_teacher` carries a passport's lineage into the next generation. This room
imports nothing of limbeck but its errors, and needs no library to write or to verify.
"""

from limbeck.passport.build import build_passport
from limbeck.passport.document import PASSPORT, content_sha256, render
from limbeck.passport.facts import DatasetFacts, MetricFacts, ModelFacts, PassportFacts
from limbeck.passport.lineage import as_teacher
from limbeck.passport.schema import validate
from limbeck.passport.verify import Finding, Verification, verify

__all__ = [
    "PASSPORT",
    "DatasetFacts",
    "Finding",
    "MetricFacts",
    "ModelFacts",
    "PassportFacts",
    "Verification",
    "as_teacher",
    "build_passport",
    "content_sha256",
    "render",
    "validate",
    "verify",
]
