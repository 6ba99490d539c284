"""Which way a plan's sums are made."""

from __future__ import annotations

from tacit.privacy.errors import ConfigError
from tacit.privacy.plan import LAWS, PrivacyPlan
from tacit.privacy.secagg.directory import Directory
from tacit.server.aggregate import Aggregation, PlainAggregation
from tacit.server.distributed import EncodedAggregation
from tacit.server.secure import SecureAggregation


def aggregation(plan: PrivacyPlan, directory: Directory | None) -> Aggregation:
    """The aggregation of a plan.

    Args:
        plan: of the run.
        directory: the clients' public keys; needed for ``aggregation=secure``.

    Raises:
        ConfigError: the plan needs a directory and there is none.
    """
    if plan.mechanism not in LAWS:
        return PlainAggregation(plan)
    if plan.aggregation != "secure":
        return EncodedAggregation(plan)
    if directory is None:
        raise ConfigError(
            "aggregation=secure needs the directory of the clients' keys",
            "enrol the clients, or use aggregation=plain",
        )
    return SecureAggregation(plan, directory)
