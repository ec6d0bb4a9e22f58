"""Connectors between student and teacher features, trained with the student."""

from __future__ import annotations

from limbeck.connectors.base import (
    BUILDERS,
    UNJOINED,
    ConnectorOutput,
    PairConnector,
    StudentConnector,
    as_pair_connector,
    join,
)
from limbeck.connectors.features import Connector, connect

__all__ = [
    "BUILDERS",
    "UNJOINED",
    "Connector",
    "ConnectorOutput",
    "PairConnector",
    "StudentConnector",
    "as_pair_connector",
    "connect",
    "join",
]
