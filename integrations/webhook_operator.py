"""Tell people what was decided, by a web hook: Slack, Mattermost, Teams' workflows, or a program of your own.

    loop = LearnLoop(operator=WebhookOperator("https://hooks.example.com/..."))

or in learnloop.toml, with the address in the variable LEARNLOOP_WEBHOOK, for `learnloop rollout step` from a timer:

    operator = "langgraph_learnloop.integrations.webhook_operator:WebhookOperator"

The body is JSON: `text`, a sentence, which chat programs show, and `decision`, the whole entry of the log.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.request
from collections.abc import Sequence

from langgraph_learnloop.errors import ConfigError, LearnLoopError
from langgraph_learnloop.records import Decision
from langgraph_learnloop.texts import short, visible

ADDRESS = "LEARNLOOP_WEBHOOK"
"""The variable that holds the address where none is given."""
TOLD = ("rollout", "promote", "rollback", "gate")
"""What people are told of, unless they ask for something else: what an action begins with."""
_LONGEST = 1_000
"""Characters of a reason."""


class WebhookOperator:
    """Post decisions to an address; what cannot be delivered is an error that the loop logs, and nothing more."""

    def __init__(self, url: str | None = None, told: Sequence[str] = TOLD, seconds: float = 5.0) -> None:
        """Post to `url` what begins with one of `told`; raise ConfigError for what is no address."""
        address = url or os.environ.get(ADDRESS, "")
        if not address.startswith(("https://", "http://")):
            raise ConfigError(f"A web hook needs an address such as https://...: pass it as `url`, or set {ADDRESS}.")
        self._url = address
        self._told = tuple(told)
        self._seconds = seconds

    def tell(self, decision: Decision) -> None:
        """Post a decision; raise LearnLoopError when nobody takes it within the time."""
        if not decision.action.startswith(self._told):
            return
        body = {"text": _sentence(decision), "decision": decision.model_dump(mode="json")}
        try:
            request = urllib.request.Request(  # noqa: S310 - http or https, as was checked
                self._url, json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=self._seconds):  # noqa: S310 - as above
                pass
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The address is a secret, for whoever knows it can write there; some of these errors quote it.
            said = error if isinstance(error, OSError) else type(error).__name__
            raise LearnLoopError(
                f"The web hook did not take the decision {decision.action!r}: {said}. See that its address is still "
                "right; `learnloop log` shows what was not told."
            ) from None


def _sentence(decision: Decision) -> str:
    """Return a decision as people read it; what was captured stays on one line, and shows what it is."""
    because = short(visible(" ".join(decision.because.split())), _LONGEST)
    return f"{decision.action} {decision.subject} (by {decision.actor}): {because}"
