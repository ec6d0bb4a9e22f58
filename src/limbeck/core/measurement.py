"""Measurements: typed, frozen records, and the confidence interval of one."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """A measurement: typed, frozen, and unchanged by a JSON round trip."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Interval(Result):
    """A confidence interval, with its level and method."""

    low: float
    high: float
    level: float = 0.95
    method: str

    def __str__(self) -> str:
        return f"[{self.low:.4f}, {self.high:.4f}]"
