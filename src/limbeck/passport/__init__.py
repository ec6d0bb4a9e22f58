"""The passport: what a student inherits, from whom, under what licence, and every file's hash.

`passport.json` lies beside the student as a CycloneDX 1.6 ML-BOM. The pipeline fills
`PassportFacts`; `enforce` holds the lineage against a policy before anything trains;
`stamp_folder` writes the short form into the model files, `build_passport` turns the facts into the
document, and `sign` covers it all. `verify` holds a student against all of these, `as_teacher`
carries its lineage into the next generation, and `audit` looks at many students together. This
room imports nothing of limbeck but its errors and its door for optional libraries, and needs
no library to write a passport or to verify one, other than for signatures.
"""

from limbeck.passport.build import build_passport
from limbeck.passport.diversity import Dependence, Diversity, audit, read_students
from limbeck.passport.document import PASSPORT, SIGNATURE, content_sha256, render
from limbeck.passport.equivalence import Equivalence, equivalence
from limbeck.passport.facts import (
    CarbonFacts,
    DatasetFacts,
    DifferenceFacts,
    MetricFacts,
    ModelFacts,
    PassportFacts,
)
from limbeck.passport.finding import Finding
from limbeck.passport.lineage import as_teacher
from limbeck.passport.policy import Policy, Violation, check, enforce
from limbeck.passport.policy_file import parse_policy, read_policy
from limbeck.passport.risk import Risk, inherit
from limbeck.passport.schema import validate
from limbeck.passport.signature_record import (
    SignatureRecord,
    drop_signature_note,
    note_signature,
    noted_signature,
)
from limbeck.passport.signing import make_keys, sign, verify_signature
from limbeck.passport.stamp import Stamp, read_stamp, stamp_folder
from limbeck.passport.verify import Verification, verify

__all__ = [
    "PASSPORT",
    "SIGNATURE",
    "CarbonFacts",
    "DatasetFacts",
    "Dependence",
    "DifferenceFacts",
    "Diversity",
    "Equivalence",
    "Finding",
    "MetricFacts",
    "ModelFacts",
    "PassportFacts",
    "Policy",
    "Risk",
    "SignatureRecord",
    "Stamp",
    "Verification",
    "Violation",
    "as_teacher",
    "audit",
    "build_passport",
    "check",
    "content_sha256",
    "drop_signature_note",
    "enforce",
    "equivalence",
    "inherit",
    "make_keys",
    "note_signature",
    "noted_signature",
    "parse_policy",
    "read_policy",
    "read_stamp",
    "read_students",
    "render",
    "sign",
    "stamp_folder",
    "validate",
    "verify",
    "verify_signature",
]
