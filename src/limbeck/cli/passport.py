"""`limbeck verify`, `sign`, `keygen` and `lineage`: passports, signatures and lineage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli._options import AsJson
from limbeck.cli._terminal import show

if TYPE_CHECKING:
    from limbeck.passport import Policy, Verification

NOT_VERIFIED = 1


def verify(
    passport: Annotated[
        Path, typer.Argument(help="A passport.json, or the student folder that holds one.")
    ],
    key: Annotated[
        list[Path] | None,
        typer.Option(help="A public key, in PEM, that must have signed it. Of several, one."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="A policy file: its `signature` part and its rules for the lineage."),
    ] = None,
    teachers: Annotated[
        list[Path] | None,
        typer.Option(
            "--lineage", help="A teacher that the lineage must name: its folder. Once for each."
        ),
    ] = None,
    require_signature: Annotated[
        bool, typer.Option("--require-signature", help="Fail if the student is not signed.")
    ] = False,
    integrity_only: Annotated[
        bool,
        typer.Option(
            "--integrity-only",
            help="Accept a signature whose key is not given: compare files only.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify a student's passport, files, signature and lineage.

    The exit code is 0 if there is no deviation and, where the student is signed or a signature is
    required, a given key made the signature; otherwise 1.
    """
    from limbeck.errors import InputError, Problem
    from limbeck.passport import Policy, note_signature, read_policy
    from limbeck.passport import verify as check

    rules = Policy() if policy is None else read_policy(policy)
    folder = Path() if policy is None else policy.parent
    keys = [*(key or ()), *(folder / one for one in rules.keys)]
    if integrity_only and (keys or require_signature or rules.require_signature):
        allowed = "without --key, --require-signature and a policy that requires a signature"
        raise InputError(Problem("--integrity-only", "given with a signature to check", allowed))
    result = check(
        passport,
        key=keys or None,
        lineage=teachers or (),
        schema=True,
        require_signature=require_signature or rules.require_signature,
    )
    violations = _violations(result, rules) if policy is not None else []
    untrusted = result.trust == "signed, key not given" and not integrity_only
    passed = result.ok and not violations and not untrusted
    if passed and result.authenticated:
        note_signature(result.passport.parent, result.signed_by)
    if as_json:
        typer.echo(json.dumps(_record(result, violations, passed=passed), indent=2))
    else:
        _show(result, violations)
    if not passed:
        raise typer.Exit(NOT_VERIFIED)


def _violations(result: Verification, rules: Policy) -> list[str]:
    from limbeck.errors import InputError
    from limbeck.passport import as_teacher, check

    if not result.ok:
        return []
    try:
        student = as_teacher(result.passport)
        return [str(violation) for violation in check(rules, student.ancestors, student.data)]
    except InputError as error:
        return [str(problem) for problem in error.problems]


def _show(result: Verification, violations: list[str]) -> None:
    for place, issue in enumerate(result.issues):
        show(f"{'also ' if place else ''}{issue}")
    for violation in violations:
        show(f"policy: {violation}")
    for note in result.notes:
        show(f"note: {note}")
    if not result.ok:
        return
    show(f"{result.passport}: nothing departs from the passport; {result.files} files checked.")
    if result.trust == "verified":
        show(f"Verified: signed by the key {result.signed_by}, which was given.")
    elif result.trust == "unsigned":
        show("Unsigned: integrity only, not authenticity. Whoever can write the folder can rewrite")
        show("its passport too; sign it, and verify with --key.")
    else:
        show("Signed, key not given: not verified. Anyone can sign with a key of their own; this")
        show(f"one is {result.signed_by}. Give --key, or --integrity-only to compare files only.")


def _record(result: Verification, violations: list[str], *, passed: bool) -> dict[str, object]:
    return {
        "passport": str(result.passport),
        "student": result.student,
        "files": result.files,
        "passed": passed,
        "trust": result.trust,
        "signed_by": result.signed_by or None,
        "issues": [
            {"kind": one.kind, "where": one.where, "listed": one.listed, "found": one.found}
            for one in result.issues
        ],
        "policy": violations,
        "notes": list(result.notes),
    }


def sign(
    student: Annotated[Path, typer.Argument(help="A student folder.")],
    key: Annotated[Path, typer.Option(help="Your private key, PEM; `limbeck keygen` makes one.")],
) -> None:
    """Sign every file of a student folder with a local key."""
    from limbeck.passport import sign as sign_folder

    show(f"Signed: {sign_folder(student, key)}")


def keygen(
    private: Annotated[Path, typer.Argument(help="The path for the key to sign with.")],
    public: Annotated[Path, typer.Argument(help="The path for the key to verify with.")],
) -> None:
    """Generate a key pair to sign students and to verify them."""
    from limbeck.passport import make_keys

    make_keys(private, public)
    show(f"To sign, for you alone: {private}")
    show(f"To verify, for everybody: {public}")


def lineage(
    students: Annotated[list[Path], typer.Argument(help="Student folders, or their passports.")],
    most: Annotated[
        float, typer.Option(help="The share of students that makes a model a single point.")
    ] = 0.5,
) -> None:
    """Measure teacher concentration: share of students by root, and single points of failure."""
    from limbeck.passport import measure_teacher_concentration, read_students

    concentration = measure_teacher_concentration(read_students(students), most=most)
    roots = f"{concentration.effective_roots:.2f} effective root teachers"
    show(f"{concentration.students} students, {roots}")
    for root in concentration.roots:
        show(f"  {root.share:6.1%}  {root.name}")
    for point in concentration.single_points:
        show(f"Single point of failure: {point.name}, for {point.share:.0%} of the students")
