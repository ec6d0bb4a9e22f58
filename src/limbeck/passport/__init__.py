"""The passport: the student's ML-BOM with its lineage, licences and the hash of every file.

`passport.json` lies beside the student as a CycloneDX 1.6 ML-BOM. The pipeline fills
`PassportFacts`; `enforce` checks the lineage against a policy before training; `embed_metadata`
writes a short form into the model files; `build_passport` builds the document; `sign` signs every
file. `verify` checks a student against all of these, `as_teacher` reads its lineage for the next
generation, and `measure_teacher_concentration` covers many students. The package imports nothing of
limbeck but its errors, its file access and its loader of optional libraries. Only signatures need a
third-party library.
"""

from limbeck.passport.build import build_passport
from limbeck.passport.document import PASSPORT, SIGNATURE, content_sha256, render, validate
from limbeck.passport.embedded_metadata import EmbeddedMetadata, embed_metadata, read_stamp
from limbeck.passport.envelope import (
    SignatureRecord,
    drop_signature_note,
    note_signature,
    noted_signature,
)
from limbeck.passport.equivalence import Equivalence, equivalence
from limbeck.passport.facts import (
    CarbonFacts,
    DatasetFacts,
    DifferenceFacts,
    MetricFacts,
    ModelFacts,
    PassportFacts,
)
from limbeck.passport.folder import Issue
from limbeck.passport.lineage import as_teacher
from limbeck.passport.policy import Policy, Risk, Violation, check, enforce, inherit
from limbeck.passport.policy_file import parse_policy, read_policy
from limbeck.passport.signing import make_keys, sign, verify_signature
from limbeck.passport.teacher_concentration import (
    Dependence,
    TeacherConcentration,
    measure_teacher_concentration,
    read_students,
)
from limbeck.passport.verify import Verification, verify

__all__ = [
    "PASSPORT", "SIGNATURE", "CarbonFacts", "DatasetFacts", "Dependence", "DifferenceFacts",
    "EmbeddedMetadata", "Equivalence", "Issue", "MetricFacts", "ModelFacts", "PassportFacts",
    "Policy", "Risk", "SignatureRecord", "TeacherConcentration", "Verification", "Violation",
    "as_teacher", "build_passport", "check", "content_sha256", "drop_signature_note",
    "embed_metadata", "enforce", "equivalence", "inherit", "make_keys",
    "measure_teacher_concentration", "note_signature", "noted_signature", "parse_policy",
    "read_policy", "read_stamp", "read_students", "render", "sign", "validate", "verify",
    "verify_signature",
]  # fmt: skip
