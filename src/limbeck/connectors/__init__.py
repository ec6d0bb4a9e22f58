"""Connectors between student and teacher features, trained with the student."""

from __future__ import annotations

from limbeck.connectors.base import (
    BUILDERS,
    LOSSES_WITHOUT_CONNECTOR,
    ConnectorOutput,
    PairConnector,
    StudentConnector,
    as_pair_connector,
    build_connector,
    check_settings,
)
from limbeck.connectors.features import Connector, connect

__all__ = [
    "BUILDERS",
    "LOSSES_WITHOUT_CONNECTOR",
    "Connector",
    "ConnectorOutput",
    "PairConnector",
    "StudentConnector",
    "as_pair_connector",
    "build_connector",
    "check_settings",
    "connect",
]
