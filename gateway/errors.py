"""Every failure that somebody can meet: the exception tree, and the one table from exception to HTTP answer.

GatewayError
├── RequestError            what the client sent
│   ├── BadRequest
│   ├── TooLarge
│   ├── TooSlowRequest
│   ├── RouteNotFound
│   └── MethodNotAllowed
├── AccessError             who the client is
│   ├── NoKey
│   ├── NotAllowed
│   └── NoSuchAgent
├── AgentError              what the agent did
│   ├── AgentFailed
│   ├── GuardrailTripped
│   ├── TooManyTurns
│   └── RunTooLong
├── UnavailableError        why no worker can take the request
│   ├── AgentUnavailable
│   ├── AgentBusy
│   └── WorkerLost
├── UpstreamError           what the model's server did
│   ├── UpstreamFailed
│   ├── UpstreamRefused
│   ├── UpstreamTooSlow
│   └── NoUpstream
└── StartError              why the gateway itself does not start
    ├── DocumentError
    └── StateError
"""

from dataclasses import dataclass


class GatewayError(Exception):
    """The base of all failures; the message is for whoever asked."""

    retry_after: int | None = None
    """Seconds after which it is worth another try."""

    def __init__(self, message: str, *, retry_after: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.param = param
        """The field of the request that is wrong."""

    def reword(self, message: str) -> None:
        """Say something else, everywhere: the first words may hold what is not for others."""
        self.message = message
        self.args = (message,)


class RequestError(GatewayError):
    """The request cannot be understood."""


class BadRequest(RequestError):
    """The body is not what the endpoint takes."""


class TooLarge(RequestError):
    """The body is over the limit."""


class TooSlowRequest(RequestError):
    """The body did not arrive in time."""


class RouteNotFound(RequestError):
    """There is no such route."""


class MethodNotAllowed(RequestError):
    """The route does not take this method."""


class AccessError(GatewayError):
    """The client may not do this."""


class NoKey(AccessError):
    """The request has no key, or one that nobody has."""


class NotAllowed(AccessError):
    """The key does not cover this."""


class NoSuchAgent(AccessError):
    """The key covers the id, and there is no such agent."""


class AgentError(GatewayError):
    """The agent's own code ended the run."""


class AgentFailed(AgentError):
    """The agent raised an exception."""


class GuardrailTripped(AgentError):
    """A guardrail of the agent refused the input or the output."""


class TooManyTurns(AgentError):
    """The run reached its limit of turns."""


class RunTooLong(AgentError):
    """The run took longer than an agent may take."""


class UnavailableError(GatewayError):
    """No worker can take the request, or the one that had it is gone."""


class AgentUnavailable(UnavailableError):
    """The agent is not up; the message has the reason."""


class AgentBusy(UnavailableError):
    """All places of the agent's worker are taken."""


class WorkerLost(UnavailableError):
    """The worker that had the request ended before the answer did."""


class UpstreamError(GatewayError):
    """The model's server did not answer well."""

    upstream_status: int | None = None
    """The HTTP status that it answered with."""


class UpstreamFailed(UpstreamError):
    """It refused the connection, the key, or broke down."""


class UpstreamRefused(UpstreamError):
    """It understood the request and will not serve it: too long a conversation, say."""


class UpstreamTooSlow(UpstreamError):
    """It let a deadline pass."""


class NoUpstream(UpstreamError):
    """There is no upstream, or no model, that this call could go to."""


class StartError(GatewayError):
    """The gateway cannot start; the message says what to do."""


class DocumentError(StartError):
    """A file that a person wrote has a mistake; the message has file, line and remedy."""


class StateError(StartError):
    """The state folder cannot be used."""


@dataclass(frozen=True)
class Answer:
    """How a failure is told over HTTP and in the log."""

    status: int
    type: str
    code: str
    event: str


_REQUEST, _SERVER = "invalid_request_error", "server_error"

ANSWERS: dict[type[GatewayError], Answer] = {
    BadRequest: Answer(400, _REQUEST, "bad_request", "request.bad"),
    TooLarge: Answer(413, _REQUEST, "request_too_large", "request.too_large"),
    TooSlowRequest: Answer(408, _REQUEST, "request_too_slow", "request.too_slow"),
    RouteNotFound: Answer(404, _REQUEST, "route_not_found", "request.no_route"),
    MethodNotAllowed: Answer(405, _REQUEST, "method_not_allowed", "request.wrong_method"),
    NoKey: Answer(401, "authentication_error", "invalid_api_key", "access.no_key"),
    NotAllowed: Answer(403, "permission_error", "not_allowed", "access.not_allowed"),
    NoSuchAgent: Answer(404, _REQUEST, "model_not_found", "access.no_such_agent"),
    AgentFailed: Answer(500, _SERVER, "agent_failed", "agent.failed"),
    GuardrailTripped: Answer(400, _REQUEST, "guardrail_tripped", "agent.guardrail_tripped"),
    TooManyTurns: Answer(500, _SERVER, "max_turns_exceeded", "agent.max_turns"),
    RunTooLong: Answer(504, _SERVER, "run_too_long", "agent.run_too_long"),
    AgentUnavailable: Answer(503, _SERVER, "agent_unavailable", "agent.unavailable"),
    AgentBusy: Answer(503, _SERVER, "agent_busy", "agent.busy"),
    WorkerLost: Answer(503, _SERVER, "worker_lost", "worker.lost_request"),
    UpstreamFailed: Answer(502, "upstream_error", "upstream_failed", "upstream.failed"),
    UpstreamRefused: Answer(400, _REQUEST, "upstream_refused", "upstream.refused"),
    UpstreamTooSlow: Answer(504, "upstream_error", "upstream_too_slow", "upstream.too_slow"),
    NoUpstream: Answer(503, "upstream_error", "no_upstream", "upstream.none"),
}

INTERNAL = Answer(500, _SERVER, "internal_error", "gateway.bug")
"""For an exception that is none of ours: a fault of the gateway itself."""


def answer_to(error: BaseException) -> Answer:
    """Return the answer to a failure; a subclass has that of its nearest ancestor in the table."""
    return next((ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS), INTERNAL)
