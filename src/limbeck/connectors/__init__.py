"""Connectors between student and teacher features, trained with the student."""

from __future__ import annotations

from limbeck.connectors.joining import BUILDERS, UNJOINED, StudentSide, as_joint, join
from limbeck.connectors.joint import Joined, Joint
from limbeck.connectors.shapes import Connector, connect

__all__ = [
    "BUILDERS",
    "UNJOINED",
    "Connector",
    "Joined",
    "Joint",
    "StudentSide",
    "as_joint",
    "connect",
    "join",
]
