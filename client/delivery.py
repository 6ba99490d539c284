"""How a client's vector leaves it: in the clear, encoded, or encoded and masked.

Guarantees: with noise in shares, the noise is added before anything else sees the integers;
with secure aggregation a session is looked up by what the request itself says, so that a
request for another model, plan or round than the one agreed on finds none.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tacit.client import update
from tacit.privacy.discrete.lattice import Lattice
from tacit.privacy.discrete.rotation import public_seed
from tacit.privacy.errors import RoundError
from tacit.privacy.messages import EncodedReply, Message, Request, Vector
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.messages import Invitation
from tacit.privacy.secagg.words import Words


class Delivery:
    """One request's answer, with noise in shares.

    Args:
        plan: of the run; its mechanism adds noise in shares.
        purpose: "train" or "evaluate".
        request: what is asked.
        client: whom.
        masking: the client's side of secure aggregation, or None where vectors are seen.
        randomness: of the client.

    Raises:
        RoundError: the request doesn't belong to a session that this client is in.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        purpose: str,
        request: Request,
        client: int,
        masking: MaskingClient | None,
        randomness: Randomness,
    ) -> None:
        self._plan, self._purpose, self._request = plan, purpose, request
        self._masking = masking
        self._dither = randomness.source("dither", purpose, request.round, client)
        if masking is not None:
            self._session = Invitation.to(request, purpose).session()
            self._noise = masking.join(self._session, request.members)
            return
        assert plan.rules is not None
        if not plan.rules.minimum <= request.clients <= plan.rules.largest:
            raise RoundError(
                f"noise shared among clients={request.clients} isn't what this client's plan allows"
            )
        labels = (purpose, request.round, client)
        self._noise = update.own_noise(plan, request.clients, randomness, *labels)

    def reply(self, vector: tuple[NDArray[Any], Vector], bound: float, lattice: Lattice) -> Message:
        """The vector, on its way.

        Args:
            vector: the values and the vote (`tacit.client.update.prepare`).
            bound: of the values.
            lattice: of the plan.
        """
        request, words = self._request, Words(lattice.bits)
        signs = public_seed(self._purpose, request.round)
        noise = (self._plan.mechanism, self._noise)
        whole = update.encoded(vector, bound, lattice, signs, noise, self._dither.key())
        made = words.from_integers(whole)
        if self._masking is not None:
            return self._masking.mask(self._session, request.members, made, words, request)
        place = (request.run, request.round, request.attempt)
        return EncodedReply(*place, words.pack(made), self._noise.chain)
