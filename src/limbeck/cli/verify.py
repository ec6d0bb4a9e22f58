"""`limbeck verify`: check that a student matches its passport, and who signed it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
        typer.Option(help="A public key, in PEM, that has to have signed it. Of several, one."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="A policy file: its `signature` part and its rules for the lineage."),
    ] = None,
    lineage: Annotated[
        list[Path] | None,
        typer.Option(help="A teacher that the lineage has to name: its folder. Once for each."),
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
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
        allowed = "without --key, --require-signature and a policy that asks for a signature"
        raise InputError(Problem("--integrity-only", "given with a signature to check", allowed))
    found = check(
        passport,
        key=keys or None,
        lineage=lineage or (),
        schema=True,
        require_signature=require_signature or rules.require_signature,
    )
    broken = _broken(found, rules) if policy is not None else []
    not_trusted = found.trust == "signed, key not given" and not integrity_only
    passed = found.ok and not broken and not not_trusted
    if passed and found.authenticated:
        note_signature(found.passport.parent, found.signed_by)
    if as_json:
        typer.echo(json.dumps(_as_json(found, broken, passed=passed), indent=2))
    else:
        _show(found, broken)
    if not passed:
        raise typer.Exit(NOT_VERIFIED)


def _broken(found: Verification, rules: Policy) -> list[str]:
    """Return the rules of a policy that a student's lineage violates."""
    from limbeck.errors import InputError
    from limbeck.passport import as_teacher, check

    if not found.ok:
        return []
    try:
        student = as_teacher(found.passport)
        return [str(violation) for violation in check(rules, student.ancestors, student.data)]
    except InputError as error:
        return [str(problem) for problem in error.problems]


def _show(found: Verification, broken: list[str]) -> None:
    for place, finding in enumerate(found.findings):
        show(f"{'also ' if place else ''}{finding}")
    for rule in broken:
        show(f"policy: {rule}")
    for note in found.notes:
        show(f"note: {note}")
    if not found.ok:
        return
    files = f"{found.passport}: nothing departs from the passport; {found.files} files checked."
    show(files)
    if found.trust == "verified":
        show(f"Verified: signed by the key {found.signed_by}, which was given.")
    elif found.trust == "unsigned":
        show("Unsigned: integrity only, not authenticity. Whoever can write the folder can rewrite")
        show("its passport too; sign it, and verify with --key.")
    else:
        show("Signed, key not given: not verified. Anyone can sign with a key of their own; this")
        show(f"one is {found.signed_by}. Give --key, or --integrity-only to compare files only.")


def _as_json(found: Verification, broken: list[str], *, passed: bool) -> dict[str, object]:
    return {
        "passport": str(found.passport),
        "student": found.student,
        "files": found.files,
        "passed": passed,
        "trust": found.trust,
        "signed_by": found.signed_by or None,
        "findings": [
            {"kind": one.kind, "where": one.where, "listed": one.listed, "found": one.found}
            for one in found.findings
        ],
        "policy": broken,
        "notes": list(found.notes),
    }
